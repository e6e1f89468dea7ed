"""The blocks that the squeeze module and every decoder stage are made of."""

import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.norm import NormBuilder


class DecoderBlock(nn.Module):
    """Two 3x3 convolutions with an attention between them (the reconstruction block of BiRefNet, section 3.2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, which no activation follows.
        inner_channels: channels between the convolutions.
        attention: a module that keeps the size of an `inner_channels` map.
        residual: add a 1x1 convolution of the input to the output.
        norm: builder of the normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inner_channels: int,
        attention: nn.Module,
        *,
        residual: bool = False,
        norm: NormBuilder = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, inner_channels, 3, padding=1)
        self.norm_in = norm(inner_channels)
        self.attention = attention
        self.conv_out = nn.Conv2d(inner_channels, out_channels, 3, padding=1)
        self.norm_out = norm(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map.  (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        inner = F.relu(self.norm_in(self.conv_in(x)), inplace=True)
        out: Tensor = self.norm_out(self.conv_out(self.attention(inner)))
        return out if self.shortcut is None else out + self.shortcut(x)
