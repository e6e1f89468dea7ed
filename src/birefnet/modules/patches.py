"""Inward reference: what each decoder stage sees of the original image (BiRefNet, section 3.3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.resize import resize


def image_to_patches(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut an image into a grid of contiguous cells and stack the cells as channels.

    (B, C, gh * h, gw * w) -> (B, C * gh * gw, h, w) with size = (h, w); channel (c * gh + i) * gw + j holds cell (i, j)
    of channel c. This is not pixel-unshuffle, which would interleave neighbouring pixels.
    """
    batch, channels, height, width = image.shape
    cell_height, cell_width = size
    rows, columns = height // cell_height, width // cell_width
    cells = image.reshape(batch, channels, rows, cell_height, columns, cell_width)
    return cells.permute(0, 1, 2, 4, 3, 5).reshape(batch, channels * rows * columns, cell_height, cell_width)


def image_to_pixels(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Stack the pixels that each place of a map covers as its channels (pixel-unshuffle).

    (B, C, s * h, s * w) -> (B, C * s * s, h, w) with size = (h, w); channel (c * s + i) * s + j holds pixel (i, j) of
    each cell of channel c. Unlike `image_to_patches` it leaves everything where it is.
    """
    return F.pixel_unshuffle(image, image.shape[2] // size[0])


class InwardReference(nn.Module):
    """Two 3x3 convolutions, linear together, of the image at the size of a map (BiRefNet, section 3.3).

    Args:
        stride: size of the image divided by the size of the maps to make.
        hidden_channels: channels between the convolutions.
        out_channels: channels of the result.
        kind: how the image is brought to that size: "patches" (`image_to_patches`), "pixels" (`image_to_pixels`), or
            "whole" to resize it.
    """

    def __init__(self, stride: int, hidden_channels: int, out_channels: int, *, kind: str = "patches") -> None:
        super().__init__()
        self.kind = kind
        self.conv_in = nn.Conv2d(3 if kind == "whole" else 3 * stride * stride, hidden_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Show the image at the size of a map.  (B, 3, stride * h, stride * w) -> (B, out_channels, h, w)."""
        reference: Tensor = self.conv_out(self.conv_in(self.view(image, size)))
        return reference

    def view(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring the image to the size of a map.  (B, 3, stride * h, stride * w) -> (B, C, h, w)."""
        return _VIEWS[self.kind](image, size)


_VIEWS = {"patches": image_to_patches, "pixels": image_to_pixels, "whole": resize}
