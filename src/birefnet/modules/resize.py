"""The one resizing rule of the network."""

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly.  (B, C, H, W) -> (B, C, *size).

    align_corners=True: the published weights were trained with it, everywhere in the network.
    """
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of a map (B, C, H, W)."""
    return x.shape[2], x.shape[3]
