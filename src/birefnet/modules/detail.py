"""A last block at half the image's size, for edges finer than the decoder's cells of four pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.norm import NormBuilder
from birefnet.modules.resize import resize, size_of

_STRIDE = 2


class DetailBlock(nn.Module):
    """Narrow the decoder's last map, enlarge it, show it the image's pixels, and draw edges with 3x3 convolutions.

    The published network has none: after its last stage, at stride 4, all is linear, so the edge within a cell of 4 x 4
    pixels follows from the cells around it and from a linear filter of the image. This block is for networks that work
    on small inputs and are yet to find edges to the pixel.

    Args:
        in_channels: channels of the map at stride 4.
        channels: channels of the block and of its output.
        image_channels: channels that the image is shown in, 0 for not at all.
        norm: builder of the normalisation.
    """

    def __init__(
        self, in_channels: int, channels: int, image_channels: int, norm: NormBuilder = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(in_channels, channels, 1)
        self.look = nn.Conv2d(3 * _STRIDE**2, image_channels, 3, padding=1) if image_channels else None
        self.conv_in = nn.Conv2d(channels + image_channels, channels, 3, padding=1)
        self.norm_in = norm(channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = norm(channels)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Draw the edges.  (B, in_channels, H / 4, W / 4), image (B, 3, H, W) -> (B, channels, H / 2, W / 2)."""
        height, width = size_of(image)
        size = (height // _STRIDE, width // _STRIDE)
        x = resize(self.narrow(x), size)  # narrowed first: a 1x1 convolution and resizing change places
        if self.look is not None:
            x = torch.cat([x, F.relu(self.look(F.pixel_unshuffle(image, _STRIDE)), inplace=True)], dim=1)
        x = F.relu(self.norm_in(self.conv_in(x)), inplace=True)
        return F.relu(self.norm_out(self.conv_out(x)), inplace=True)
