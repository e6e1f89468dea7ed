"""The localisation module: a backbone over two scales, context fusion and the squeeze module."""

from typing import Self

import torch
from torch import Tensor, nn

from birefnet.backbones import Backbone, Pyramid
from birefnet.errors import ConfigError
from birefnet.modules.resize import resize, size_of

Channels = tuple[int, int, int, int]
"""Channels of four maps, shallow to deep."""


class Encoder(nn.Module):
    """Encode an image at two scales and gather the context of shallower levels in the deepest map (section 3.2).

    Args:
        backbone: any image encoder that keeps the contract of `Backbone`.
        squeeze: module that brings the deepest map with its context back to `channels[3]` channels.
        scale_fusion: "cat" or "add" the maps of the image at half size, or "none".
        context_levels: how many of the three shallower maps join the deepest one, from the deepest of them on.

    Attributes:
        channels: channels of the four maps after the fusion of scales, shallow to deep.
    """

    def __init__(self, backbone: Backbone, squeeze: nn.Module, *, scale_fusion: str, context_levels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.squeeze = squeeze
        self.scale_fusion = scale_fusion
        self.context_levels = context_levels
        self.channels = fused_channels(backbone, scale_fusion)
        if backbone.frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but a frozen backbone, which stays in evaluation mode."""
        super().train(mode)
        if self.backbone.frozen:
            self.backbone.eval()
        return self

    def fuse(self, image: Tensor) -> Pyramid:
        """Maps of both scales in one.  (B, 3, H, W) -> maps with `channels` channels at the backbone's strides."""
        full = self._encode(image)
        if self.scale_fusion == "none":
            return full
        height, width = size_of(image)
        half = self._encode(resize(image, (height // 2, width // 2)))
        x1, x2, x3, x4 = (self._join(a, resize(b, size_of(a))) for a, b in zip(full, half, strict=True))
        return x1, x2, x3, x4

    def _encode(self, image: Tensor) -> Pyramid:
        maps: Pyramid = self.backbone(image)
        found = tuple(x.shape[1] for x in maps)
        if found != tuple(self.backbone.channels):
            raise ConfigError(
                f"{type(self.backbone).__name__} returns maps of {found} channels, not {self.backbone.channels} as its "
                "`channels` say"
            )
        return maps

    def _join(self, full: Tensor, half: Tensor) -> Tensor:
        return torch.cat([full, half], dim=1) if self.scale_fusion == "cat" else full + half

    def gather(self, maps: Pyramid) -> Pyramid:
        """Put the context before the deepest map: x4 gets `context_channels` more channels than it had."""
        x1, x2, x3, x4 = maps
        context = [resize(x, size_of(x4)) for x in (x1, x2, x3)[3 - self.context_levels :]]
        return x1, x2, x3, torch.cat([*context, x4], dim=1)

    def features(self, image: Tensor) -> Pyramid:
        """What the encoder knows before the squeeze module: the fused maps, the deepest with its context."""
        return self.gather(self.fuse(image))

    def squeezed(self, maps: Pyramid) -> Pyramid:
        """From the fused maps to what the decoder gets: the deepest one with its context, squeezed."""
        x1, x2, x3, x4 = self.gather(maps)
        return x1, x2, x3, self.squeeze(x4)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode a normalised image.  (B, 3, H, W) -> four maps with `channels` channels, shallow to deep."""
        return self.squeezed(self.fuse(image))


def fused_channels(backbone: Backbone, scale_fusion: str) -> Channels:
    """Channels of a backbone's maps after the fusion of both scales."""
    factor = 2 if scale_fusion == "cat" else 1
    c1, c2, c3, c4 = (factor * channels for channels in backbone.channels)
    return c1, c2, c3, c4


def context_channels(channels: Channels, levels: int) -> int:
    """Channels of the context that joins the deepest of maps with `channels` channels."""
    return sum(channels[3 - levels : 3])
