"""A network in the form that exporters follow: no batch norms, no loops over pixels, the sigmoid inside."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from birefnet.backbones.swin_v1 import SwinStage
from birefnet.export.windows import TraceableSwinStage
from birefnet.inference.folding import fold_batch_norms
from birefnet.inference.form import drop_training_heads
from birefnet.model import BiRefNet
from birefnet.model.decoder import GRID
from birefnet.modules.deform_conv import ModulatedDeformConv2d, deform_conv2d
from birefnet.modules.patches import InwardReference

OPERATOR = "birefnet::deform_conv2d"
"""Name of the operator by which exporters know a deformable convolution."""

MOST_CELLS = 256
"""The largest height and width of an exported network's input, in multiples of its grid: 8192 pixels."""


@torch.library.custom_op(OPERATOR, mutates_args=())
def deform_conv2d_op(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`birefnet.modules.deform_conv.deform_conv2d` as one operator, which exporters keep whole."""
    return deform_conv2d(x, offset, modulation, weight, padding=padding)


@deform_conv2d_op.register_fake
def _(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:  # noqa: ARG001
    """Give a tensor of the operator's shape and memory layout."""
    height, width = (
        side + 2 * padding - kernel + 1 for side, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    return x.new_empty(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)


class TraceableDeformConv2d(nn.Module):
    """A `ModulatedDeformConv2d` at inference: one convolution predicts offsets and modulation, one operator samples.

    The modulation's factor of 2 is in the kernel, where it is exact.

    Args:
        conv: what to do the same as.
    """

    def __init__(self, conv: ModulatedDeformConv2d) -> None:
        super().__init__()
        self.padding = conv.padding
        predictors = (conv.offset_conv, conv.modulation_conv)
        with torch.no_grad():
            self.predictor = nn.Conv2d(
                conv.weight.shape[1],
                sum(part.out_channels for part in predictors),
                conv.offset_conv.kernel_size,  # type: ignore[arg-type]  # two numbers, typed as any count of them
                padding=conv.padding,
                device=conv.weight.device,
                dtype=conv.weight.dtype,
            )
            self.predictor.weight.copy_(torch.cat([part.weight for part in predictors]))
            assert self.predictor.bias is not None
            self.predictor.bias.copy_(torch.cat([part.bias for part in predictors if part.bias is not None]))
            self.weight = nn.Parameter(2 * conv.weight)
        self.splits = [part.out_channels for part in predictors]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.  (B, C, H, W) -> (B, O, H, W)."""
        offset, modulation = self.predictor(x).split(self.splits, dim=1)
        out: Tensor = deform_conv2d_op(x, offset, modulation.sigmoid(), self.weight, self.padding)
        return out


class TraceableInward(nn.Module):
    """An `InwardReference` that cuts into a known number of pieces, which saves a tracer half of its time.

    Args:
        inward: what to do the same as; it cuts, it does not resize.
    """

    def __init__(self, inward: InwardReference) -> None:
        super().__init__()
        self.conv_in, self.conv_out = inward.conv_in, inward.conv_out
        self.stride = math.isqrt(inward.conv_in.in_channels // 3)
        self.kind = inward.kind

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Show the image at the size of a map.  (B, 3, stride * h, stride * w) -> (B, out_channels, h, w)."""
        (height, width), stride = size, self.stride
        if self.kind == "pixels":
            cells = image.reshape(image.shape[0], 3, height, stride, width, stride).permute(0, 1, 3, 5, 2, 4)
        else:
            cells = image.reshape(image.shape[0], 3, stride, height, stride, width).transpose(3, 4)
        shown: Tensor = self.conv_out(self.conv_in(cells.reshape(image.shape[0], 3 * stride**2, height, width)))
        return shown


class _Affine(nn.Module):
    """A batch norm in evaluation mode, written so that no exporter folds it into weights that are to stay."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", (norm.bias.detach() - norm.running_mean * scale).view(1, -1, 1, 1))
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel.  (B, C, H, W) -> the same."""
        return x * self.scale + self.shift


class _Alpha(nn.Module):
    """A network with the sigmoid inside, so that nobody has to know what the output means."""

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Segment.  (B, 3, H, W) -> alpha (B, 1, H, W)."""
        # Sizes are the exporter's to check: what the network asks of them would be guards of the traced program.
        if self.model.refinement is None:
            logits = self.model._segment(image).logits
        else:
            logits = self.model.refinement(image, lambda view: (self.model._segment(view).logits,))[-1]
        alpha: Tensor = logits.sigmoid()
        return alpha


def traceable(model: BiRefNet, *, fold: bool = True) -> nn.Module:
    """Copy a network into the form that exporters follow, on the CPU, in float32 and evaluation mode.

    Batch norms are folded into the convolutions before them unless told otherwise, deformable convolutions are single
    operators (`birefnet::deform_conv2d`), what only training needs is gone, and the output is alpha: (B, 3, H, W)
    float32 called `image` -> (B, 1, H, W) called `alpha`. The model itself stays as it is.

    Args:
        model: what to copy.
        fold: fold the batch norms; without it all weights are the network's own, and a norm is a product and a sum.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    drop_training_heads(network)
    if fold:
        fold_batch_norms(network, *example(network))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            # By its type: what derives from it may do more, and stays.
            if not fold and type(child) is nn.BatchNorm2d and child.affine and child.track_running_stats:
                setattr(parent, name, _Affine(child))
            elif isinstance(child, ModulatedDeformConv2d):
                setattr(parent, name, TraceableDeformConv2d(child))
            elif isinstance(child, InwardReference) and child.kind != "whole":
                setattr(parent, name, TraceableInward(child))
            elif isinstance(child, SwinStage):
                setattr(parent, name, TraceableSwinStage(child))
    return _Alpha(network).eval().requires_grad_(False)


def dynamic_shapes(model: BiRefNet, cells: int = 1) -> tuple[dict[int, Any]]:
    """Say to `torch.export` how the input may vary: any batch, height and width in multiples of the grid.

    Args:
        model: whose input it is.
        cells: least multiple of the grid.
    """
    grid = model.grid
    least = max(model.least_side, cells * grid)
    batch = torch.export.Dim("batch", min=1)
    height, width = (
        grid * torch.export.Dim(name, min=least // grid, max=GRID * MOST_CELLS // grid) for name in ("rows", "columns")
    )
    return ({0: batch, 2: height, 3: width},)


def example(model: BiRefNet) -> tuple[Tensor]:
    """An input to follow: no two sizes alike and none of them 1, lest an exporter take them for one or for fixed."""
    grid, least = model.grid, model.least_side
    cells = max(4, least // grid)
    return (torch.zeros(2, 3, cells * grid, (cells + 1) * grid),)
