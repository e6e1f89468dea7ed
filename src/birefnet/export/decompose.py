"""Deformable convolution out of operators that every runtime has, for those that lack the operator itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.export.traceable import TraceableDeformConv2d


class DecomposedDeformConv2d(nn.Module):
    """A deformable convolution out of grid sampling and 1x1 convolutions, a row of the kernel at a time.

    Grid sampling reads a map bilinearly and takes it to be zero outside, which is what this convolution does, at
    borders too. The taps of a row lie below each other in one grid, so that what is sampled is, without a copy, a map
    of channels times taps; rows are added up. The largest tensor has as many elements as the map, times the width of
    the kernel: the row's samples.

    Args:
        conv: what to do the same as.
    """

    def __init__(self, conv: TraceableDeformConv2d) -> None:
        super().__init__()
        self.predictor = conv.predictor
        self.splits = conv.splits
        out_channels, channels, self.side, _ = conv.weight.shape
        rows = conv.weight.detach().unbind(2)  # (O, C, kw) each
        self.rows = nn.ParameterList(
            nn.Parameter(row.reshape(out_channels, channels * self.side, 1, 1).clone(), requires_grad=False)
            for row in rows
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.  (B, C, H, W) -> (B, O, H, W)."""
        batch, channels, height, width = x.shape
        offset, modulation = self.predictor(x).split(self.splits, dim=1)
        offset = offset.reshape(batch, self.side, self.side, 2, height, width)
        step = torch.arange(self.side).to(x.dtype) - self.side // 2
        down = torch.arange(height).to(x.dtype)[:, None] + step[:, None, None, None]
        right = torch.arange(width).to(x.dtype) + step[:, None, None]
        # Without `align_corners` -1 and 1 are the map's outer edges: pixel p has its centre at (2p + 1) / size - 1.
        y = (offset[:, :, :, 0] + down) * (2 / height) + (1 / height - 1)
        z = (offset[:, :, :, 1] + right) * (2 / width) + (1 / width - 1)
        grids = torch.stack([z, y], dim=-1).reshape(batch, self.side, self.side * height, width, 2)
        factors = modulation.sigmoid().reshape(batch, 1, self.side, self.side * height, width)
        out: Tensor | None = None
        for grid, factor, weight in zip(grids.unbind(1), factors.unbind(2), self.rows, strict=True):
            sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            row = F.conv2d((sampled * factor).reshape(batch, channels * self.side, height, width), weight)
            out = row if out is None else out + row
        assert out is not None
        return out


def decompose(network: nn.Module) -> None:
    """Put decomposed deformable convolutions into a `traceable` network, in place."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, TraceableDeformConv2d):
                setattr(parent, name, DecomposedDeformConv2d(child))
