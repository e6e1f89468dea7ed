"""Lateral connections from the encoder to the decoder."""

from torch import Tensor, nn


class LateralBlock(nn.Module):
    """A 1x1 convolution that fits an encoder map to the decoder (BiRefNet, section 3.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project a map.  (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        projected: Tensor = self.conv(x)
        return projected
