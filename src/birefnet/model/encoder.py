"""The localisation module: a backbone over two scales, context fusion and the squeeze module."""

import torch
from torch import Tensor, nn

from birefnet.backbones import Backbone, Pyramid
from birefnet.modules.resize import resize, size_of


class Encoder(nn.Module):
    """Encode an image at two scales and gather the context of all levels in the deepest map (section 3.2).

    Args:
        backbone: any image encoder that keeps the contract of `Backbone`.
        squeeze: module that brings the deepest map with its context back to `channels[3]` channels.

    Attributes:
        channels: channels of the four maps after the fusion of scales, shallow to deep.
    """

    def __init__(self, backbone: Backbone, squeeze: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.squeeze = squeeze
        self.channels = fused_channels(backbone)

    def features(self, image: Tensor) -> Pyramid:
        """Maps of both scales, concatenated, the deepest one with its context before it.

        (B, 3, H, W) -> maps with `channels` channels at the backbone's strides; the last has sum(channels).
        """
        height, width = size_of(image)
        full = self.backbone(image)
        half = self.backbone(resize(image, (height // 2, width // 2)))
        x1, x2, x3, x4 = (torch.cat([a, resize(b, size_of(a))], dim=1) for a, b in zip(full, half, strict=True))
        context = [resize(x, size_of(x4)) for x in (x1, x2, x3)]
        return x1, x2, x3, torch.cat([*context, x4], dim=1)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode a normalised image.  (B, 3, H, W) -> four maps with `channels` channels, shallow to deep."""
        x1, x2, x3, x4 = self.features(image)
        return x1, x2, x3, self.squeeze(x4)


def fused_channels(backbone: Backbone) -> tuple[int, int, int, int]:
    """Channels of a backbone's maps after concatenating those of both scales."""
    c1, c2, c3, c4 = backbone.channels
    return 2 * c1, 2 * c2, 2 * c3, 2 * c4
