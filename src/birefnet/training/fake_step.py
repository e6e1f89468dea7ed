"""A training step on shapes alone (PyTorch's fake tensors), with a ledger of when tensors come and go.

It is the real network, losses and backward pass, with savings, adapters and precision as the recipe has them, so
checkpointing, custom autograd functions and the temporaries of the backward pass are counted as they are.
"""

import gc
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from birefnet.data.batches import Stage
from birefnet.model import BiRefNet
from birefnet.model.ledger import Ledger
from birefnet.modules import deform_conv
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.training.parallel import TrainStep
from birefnet.training.recipe import Recipe
from birefnet.training.trial import largest_stage, learn

# Maps of the size of the batch that its random changes need at a time, three channels each.
_AUGMENTED = 4


def play_step(
    model: BiRefNet, recipe: Recipe, world: int, device: torch.device, fixed: int
) -> tuple[int, list[tuple[int, int]]]:
    """Go through a step on shapes, at the largest size of a recipe.

    Args:
        model: the network, whose weights are replaced by fake ones.
        recipe: what is trained.
        world: processes that share the batch.
        device: where it would be; fake tensors of a GPU need a GPU's build and driver.
        fixed: bytes that are there all the time, the weights among them.

    Returns:
        Bytes at the peak, and the ledger's events.

    Raises:
        InputError: the network does not take the recipe's size or batch.
    """
    stage = largest_stage(recipe.data)
    batch = recipe.data.batch // world
    # Gradients of two parts meet; further parts are as the second.
    parts = min(2, recipe.memory.accumulate)
    part = batch // recipe.memory.accumulate
    was_collecting = gc.isenabled()
    gc.disable()  # what cycles keep alive would be freed at random moments
    try:
        with FakeTensorMode(), torch.device(device), Ledger() as ledger:
            _materialize(model, device)
            # In place of everything fixed, the weights among it.
            ledger.restart(fixed)
            network = TrainStep(model)
            if world > 1:
                _hand_on_gradients(model)
            images, target = _fake_batch(recipe, batch, stage)
            for number in range(parts):
                cut = slice(number * part, (number + 1) * part)
                learn(network, recipe, images[cut], target[cut], device)
            del images, target
            for parameter in model.parameters():
                parameter.grad = None
    finally:
        if was_collecting:
            gc.enable()
    return ledger.peak, ledger.events


def _fake_batch(recipe: Recipe, batch: int, stage: Stage) -> tuple[Tensor, Tensor]:
    """A batch, after the temporaries that it is made with: images (B, 3, H, W) and truth (B, 1, H, W)."""
    shape = (batch, 3, stage.height, stage.width)
    if recipe.data.augmentation.headroom > 1 or recipe.data.augmentation.flip:
        made = [torch.empty(shape) for _ in range(_AUGMENTED)]
        del made
    images = torch.empty(shape, memory_format=torch.channels_last)
    return images, torch.empty(batch, 1, stage.height, stage.width)


def _materialize(model: nn.Module, device: torch.device) -> None:
    """Put fake tensors of a device in place of the weights, and deformable convolutions that work on shapes."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_like(parameter, device), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer, device)
        if isinstance(module, ModulatedDeformConv2d):
            module.__class__ = _SizedDeformConv2d


def _like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _hand_on_gradients(model: nn.Module) -> None:
    """Let a gradient go as soon as it is made, as where processes add it to the buffer that they exchange."""

    def let_go(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(let_go)


class _SizedDeformConv2d(ModulatedDeformConv2d):
    """Takes the memory of a deformable convolution in one step; the real one reads values, and takes many."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        offset = self.offset_conv(x)
        modulation = 2 * torch.sigmoid(self.modulation_conv(x))
        weight: Tensor = self.weight
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        output: Tensor = _SizedDeform.apply(x, offset, modulation, weight)  # type: ignore[no-untyped-call]
        return output


class _SizedDeform(torch.autograd.Function):
    """Saves and allocates what `birefnet.modules.deform_conv` does, for one of its chunks of pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, offset, modulation, weight)
        _SizedDeform._chunk(x, modulation, weight, columns=1)
        shape = (x.shape[0], weight.shape[0], *x.shape[2:])
        return torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        del gradients
        x, offset, modulation, weight = ctx.saved_tensors
        results = [torch.empty_like(tensor) for tensor in (offset, modulation, weight)]
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        table = torch.empty_like(x[0], dtype=torch.float32)
        # Columns, their gradient, and the rows that are scattered back.
        _SizedDeform._chunk(x, modulation, weight, columns=3)
        del table
        return grad_x, *results

    @staticmethod
    def _chunk(x: Tensor, modulation: Tensor, weight: Tensor, columns: int) -> None:
        taps, width = modulation.shape[1], weight[0].numel()
        rows = max(deform_conv._CHUNK_ELEMENTS // width, deform_conv._CHUNK_MIN_PIXELS)
        rows = min(rows, x.shape[2] * x.shape[3])
        table = torch.empty_like(x[0])
        # Four table rows a tap, with their weights and positions, take about ten numbers.
        made = [torch.empty(rows * taps, 10 * columns), torch.empty(rows, columns * width, dtype=x.dtype)]
        del table, made
