"""Normalisation by name, for everything but the backbone."""

from collections.abc import Callable

from torch import Tensor, nn

NormBuilder = Callable[[int], nn.Module]
"""Builds a normalisation of a map from its channels."""

# Statistics of fewer values than this are noise; pooled maps have a single pixel.
_LEAST_CHANNELS_A_GROUP = 8
_MOST_GROUPS = 32


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He, arXiv 1803.08494) of up to 32 groups with at least 8 channels each where it can."""
    groups = (n for n in range(_MOST_GROUPS, 1, -1) if channels % n == 0 and channels // n >= _LEAST_CHANNELS_A_GROUP)
    return nn.GroupNorm(next(groups, 1), channels)


class ChannelNorm(nn.LayerNorm):
    """Layer norm of each pixel's channels (eps 1e-6).  (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def no_norm(_channels: int) -> nn.Identity:
    """Leave a map as it is."""
    return nn.Identity()


NORM_LAYERS: dict[str, NormBuilder] = {"batch": nn.BatchNorm2d, "group": group_norm, "none": no_norm}

# Without batch norm in the network the reference's refiners keep a norm: a layer norm in the stem, and in the U-Net
# batch norm all the same.
STEM_NORMS: dict[str, NormBuilder] = {**NORM_LAYERS, "none": ChannelNorm}
UNET_NORMS: dict[str, NormBuilder] = {**NORM_LAYERS, "none": nn.BatchNorm2d}
