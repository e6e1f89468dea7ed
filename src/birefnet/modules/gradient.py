"""Outward reference: the decoder learns the gradient map of the image and attends by it (BiRefNet, section 3.3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from birefnet._extras import require
from birefnet.modules.norm import NormBuilder
from birefnet.modules.resize import resize, size_of


def gradient_map(image: Tensor) -> Tensor:
    """Laplacian of an image's channel mean.  (B, 3, H, W) -> (B, 1, H, W).

    The kernel is 5x5, normalised, with reflected borders; the image is the network's own, normalised input.
    """
    # Imported here: only training needs kornia, and it takes longer to import than a photo to segment.
    filters = require("kornia.filters", extra="torch")
    laplacian: Tensor = filters.laplacian(image.mean(dim=1, keepdim=True), kernel_size=5)
    return laplacian


def gradient_label(gradient: Tensor, side_logits: Tensor) -> Tensor:
    """What a stage's gradient prediction is trained towards: the image's gradient where the stage sees an object.

    (B, 1, H, W) and (B, 1, h, w) -> (B, 1, H, W). The side logits enter as they are, without a sigmoid, and detached:
    a label must not be moved towards its prediction.
    """
    return gradient * resize(side_logits.detach(), size_of(gradient))


class OutwardReference(nn.Module):
    """Gradient features of a decoder map, a prediction of the gradient map and an attention made of them.

    Args:
        in_channels: channels of the decoder map.
        channels: channels of the gradient features.
        norm: builder of the normalisation.
    """

    def __init__(self, in_channels: int, channels: int, *, norm: NormBuilder = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm = norm(channels)
        self.prediction = nn.Conv2d(channels, 1, 1)
        self.attention = nn.Conv2d(channels, 1, 1)

    def features(self, x: Tensor) -> Tensor:
        """Gradient features of a decoder map.  (B, in_channels, H, W) -> (B, channels, H, W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend by the gradient features.  (B, C, H, W) -> the map (B, C, H, W) and the features."""
        features = self.features(x)
        return x * self.attention(features).sigmoid(), features
