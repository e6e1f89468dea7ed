"""Which layers of a network suffer most from whole numbers: each one alone is rounded to 8 bits, and alpha compared."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from birefnet.export.traceable import traceable
from birefnet.model import BiRefNet

LEVELS = 255
"""Steps that 8 bits have."""

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one layer does.

    Attributes:
        name: of the layer, in the network's exported form.
        fingerprint: of its weights, by which it is found again in another program's file.
        loss: mean difference of alpha when this layer alone is rounded.
    """

    name: str
    fingerprint: tuple[int, float, float]
    loss: float


def sensitivities(model: BiRefNet, images: Sequence[NDArray[np.float32]]) -> list[Sensitivity]:
    """Round the layers of a network to 8 bits, one after the other, and see what becomes of alpha.

    A layer's weights are rounded symmetrically for each output channel, its input to 255 steps between the least and
    the greatest value that `images` give, as static quantisation does. (Deformable convolutions are rounded nowhere.)

    Args:
        model: the network; it stays as it is.
        images: prepared photos, (1, 3, H, W) each. The smaller they are, the sooner it is done: each layer costs one
            run for each of them.

    Returns:
        All convolutions and linear layers, the most sensitive first.
    """
    network = traceable(model)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
    batches = [torch.from_numpy(image) for image in images]
    with torch.inference_mode():
        ranges = _input_ranges(network, layers, batches)
        expected = [network(batch) for batch in batches]
        losses = {}
        for name in ranges:  # those alone that are run
            with _rounded(layers[name], ranges[name]):
                differences = [
                    (network(batch) - alpha).abs().mean() for batch, alpha in zip(batches, expected, strict=True)
                ]
            losses[name] = float(torch.stack(differences).mean())
    found = [Sensitivity(name, fingerprint(layers[name].weight.numpy()), loss) for name, loss in losses.items()]
    return sorted(found, key=lambda layer: -layer.loss)


def fingerprint(weight: NDArray[np.floating]) -> tuple[int, float, float]:
    """Tell a weight from others whatever its layout: its size, and two sums over it to five digits.

    Exporters name, turn and reshape weights as they like, but keep their values.
    """
    values = np.asarray(weight, np.float64)
    sums = (float(f"{value:.4e}") for value in (np.abs(values).sum(), np.square(values).sum()))
    first, second = sums
    return values.size, first, second


def _input_ranges(
    network: nn.Module, layers: dict[str, Layer], batches: Sequence[Tensor]
) -> dict[str, tuple[float, float]]:
    """The least and the greatest value that each layer reads, zero among them."""
    ranges: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        for name, layer in layers.items():

            def note(_module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                low, high = (float(value) for value in inputs[0].aminmax())
                before = ranges.get(name, (0.0, 0.0))
                ranges[name] = min(before[0], low), max(before[1], high)

            stack.callback(layer.register_forward_pre_hook(note).remove)
        for batch in batches:
            network(batch)
    return ranges


@contextmanager
def _rounded(layer: Layer, limits: tuple[float, float]) -> Iterator[None]:
    """Round a layer's weights and what it reads, for a while."""
    low, high = limits
    step = max(high - low, torch.finfo(torch.float32).tiny) / LEVELS

    def round_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((inputs[0].clamp(low, high) / step).round() * step, *inputs[1:])

    weight = layer.weight.data
    scale = weight.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / (LEVELS // 2)
    scale = scale.view(-1, *(1,) * (weight.ndim - 1))
    handle = layer.register_forward_pre_hook(round_input)
    layer.weight.data = (weight / scale).round() * scale
    try:
        yield
    finally:
        layer.weight.data = weight
        handle.remove()
