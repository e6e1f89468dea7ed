"""What a network costs: its parameters, and the multiplications of one forward pass, counted without running it."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.modules.deform_conv import ModulatedDeformConv2d


class Cost(NamedTuple):
    """The size of a network and of its work on one image.

    Attributes:
        parameters: numbers that are learned.
        macs: multiply-accumulate operations of a forward pass.
    """

    parameters: int
    macs: int


def count_cost(model: nn.Module, size: tuple[int, int] = (1024, 1024)) -> Cost:
    """Count a network's parameters and what one image of a size (height, width) costs in evaluation mode.

    Counted are the matrix products: convolutions, deformable ones included, linear layers, and both products of
    attention, on windows as they are padded. Biases, norms, activations and resizing are not, as is the custom.
    The pass runs on shapes alone, so neither memory nor time depends much on the size; the model is left as it is.

    Raises:
        InputError: the network does not take this size.
    """
    # Imported here: beside an installed triton it changes the environment.
    from torch.utils.flop_counter import FlopCounterMode

    shapes = _without_weights(model).eval()
    dtype = next((p.dtype for p in shapes.parameters() if p.is_floating_point()), torch.float32)
    image = torch.empty(1, 3, *size, dtype=dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(image)
    # A multiplication and an addition each, where a MAC is both.
    macs = counter.get_total_flops() // 2
    return Cost(sum(p.numel() for p in model.parameters()), macs)


def _without_weights(model: nn.Module) -> nn.Module:
    """Copy a network onto the meta device, where a tensor is its shape alone."""
    # What the copy finds in its memo it takes as copied already, so that no weight ever is.
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    shapes = copy.deepcopy(model, memo)
    for module in shapes.modules():
        if isinstance(module, ModulatedDeformConv2d):
            module.__class__ = _UndeformedConv2d
    return shapes


class _UndeformedConv2d(ModulatedDeformConv2d):
    """The same products in one step, where the real one goes through thousands of chunks for a large image."""

    def forward(self, x: Tensor) -> Tensor:
        """Predict offsets and modulation, then convolve as if they were none.  (B, C, H, W) -> (B, O, H, W)."""
        self.offset_conv(x)
        self.modulation_conv(x)
        return F.conv2d(x, self.weight, padding=self.padding)
