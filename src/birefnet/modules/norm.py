"""Normalisation by name, for everything but the backbone."""

from collections.abc import Callable

from torch import nn

NormBuilder = Callable[[int], nn.Module]
"""Builds a normalisation of a map from its channels."""

# Statistics of fewer values than this are noise; pooled maps have a single pixel.
_LEAST_CHANNELS_A_GROUP = 8
_MOST_GROUPS = 32


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He, arXiv 1803.08494) of up to 32 groups with at least 8 channels each where it can."""
    groups = (n for n in range(_MOST_GROUPS, 1, -1) if channels % n == 0 and channels // n >= _LEAST_CHANNELS_A_GROUP)
    return nn.GroupNorm(next(groups, 1), channels)


def no_norm(_channels: int) -> nn.Identity:
    """Leave a map as it is."""
    return nn.Identity()


NORM_LAYERS: dict[str, NormBuilder] = {"batch": nn.BatchNorm2d, "group": group_norm, "none": no_norm}
