"""Small networks that look at an image together with a first mask of it: a stem, and a U-Net (arXiv 1505.04597)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.norm import NormBuilder
from birefnet.modules.resize import resize, size_of

LEVELS = 4
"""Resolutions that the U-Net joins on its way up; its deepest map lies one halving below them."""


class Stem(nn.Module):
    """Mix an image and its mask into a new image, which any network for photos can take.

    Args:
        in_channels: channels of the input: RGB and the mask's logits.
        hidden: channels between the convolutions.
        out_channels: channels of the result.
        norm: builder of the normalisation.
    """

    def __init__(
        self, in_channels: int = 4, hidden: int = 48, out_channels: int = 3, *, norm: NormBuilder = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm_in = norm(hidden)
        self.conv_out = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.norm_out = norm(out_channels)

    def forward(self, image_and_logits: Tensor) -> Tensor:
        """Mix the channels.  (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = F.gelu(self.norm_in(self.conv_in(image_and_logits)))
        mixed: Tensor = self.norm_out(self.conv_out(x))
        return mixed


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, normalisation and ReLU; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: NormBuilder = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class RefUNet(nn.Module):
    """A U-Net of one width that draws a mask again from the image and a first version of the mask.

    Four resolutions, each half the one before, and a fifth below them; on the way up every map is enlarged to the size
    of the encoder's and joined with it.

    Args:
        in_channels: channels of the input: RGB and the mask's logits.
        channels: width of all maps.
        norm: builder of the normalisation.
    """

    def __init__(self, in_channels: int = 4, channels: int = 64, *, norm: NormBuilder = nn.BatchNorm2d) -> None:
        super().__init__()
        # No activation follows: this and the first encoder's convolution are linear together.
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.encoders = nn.ModuleList(ConvNormRelu(channels, channels, norm=norm) for _ in range(LEVELS))
        self.bottom = ConvNormRelu(channels, channels, norm=norm)
        self.decoders = nn.ModuleList(ConvNormRelu(2 * channels, channels, norm=norm) for _ in range(LEVELS))
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image_and_logits: Tensor) -> Tensor:
        """Draw the mask again; any height and width.  (B, in_channels, H, W) -> logits (B, 1, H, W)."""
        x = self.stem(image_and_logits)
        skips = []
        for encoder in self.encoders:
            skip = encoder(x)
            skips.append(skip)
            x = F.max_pool2d(skip, 2, ceil_mode=True)
        x = self.bottom(x)
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat([resize(x, size_of(skip)), skip], dim=1))
        logits: Tensor = self.head(x)
        return logits
