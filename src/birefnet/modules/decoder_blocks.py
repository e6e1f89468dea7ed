"""The block that the squeeze module and every decoder stage are made of."""

import torch.nn.functional as F
from torch import Tensor, nn


class DecoderBlock(nn.Module):
    """Two 3x3 convolutions with an attention between them (the reconstruction block of BiRefNet, section 3.2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, which no activation follows.
        inner_channels: channels between the convolutions.
        attention: a module that keeps the size of an `inner_channels` map.
    """

    def __init__(self, in_channels: int, out_channels: int, inner_channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, inner_channels, 3, padding=1)
        self.norm_in = nn.BatchNorm2d(inner_channels)
        self.attention = attention
        self.conv_out = nn.Conv2d(inner_channels, out_channels, 3, padding=1)
        self.norm_out = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = F.relu(self.norm_in(self.conv_in(x)), inplace=True)
        out: Tensor = self.norm_out(self.conv_out(self.attention(x)))
        return out
