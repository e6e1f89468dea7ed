"""Batch norm folded into the convolution before it, wherever a network's own run shows that this is exact."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d

Scale = tuple[Tensor, Tensor]
"""What a batch norm does to a channel: its factor and its summand, (C,) each."""


def fold_batch_norms(network: nn.Module, image: Tensor) -> None:
    """Put batch norms into the convolutions before them, in place; identities take their places.

    A norm is folded where it alone reads what one convolution gives, which is found out by running the network once.
    Norms that follow something else, or that have no running statistics, stay, and so does all that belongs to a part
    of a user's own: what it does in one run need not be what it does in the next.

    Args:
        network: in evaluation mode.
        image: an input that it takes.
    """
    try:
        pairs = _foldable(network, image)
    except Exception:
        if not _custom(network):
            raise
        return  # a user's own part cannot take this image; it says so itself when it is used
    for conv, norm in pairs:
        scale, shift = affine_of(norm)
        if isinstance(conv, ModulatedDeformConv2d):
            # It has no summand of its own: the norm's stays behind.
            _replace(network, norm, ChannelBias(shift))
            conv.weight = _scaled(conv.weight, scale)
            continue
        bias = shift if conv.bias is None else shift + scale * conv.bias.detach()
        conv.weight = _scaled(conv.weight, scale)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
        _replace(network, norm, nn.Identity())


class ChannelBias(nn.Module):
    """Add a number to each channel.  (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias[:, None, None].clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return x + self.bias


def affine_of(norm: nn.BatchNorm2d) -> Scale:
    """Say what a batch norm in evaluation mode does to each channel: x * scale + shift, computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    return scale.to(norm.running_mean.dtype), shift.to(norm.running_mean.dtype)


def _scaled(weight: Tensor, scale: Tensor) -> nn.Parameter:
    scaled = weight.detach() * scale.view(-1, *(1,) * (weight.ndim - 1))
    return nn.Parameter(scaled.to(weight.dtype), requires_grad=False)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


# --- what follows what ---


class _Reads(TorchFunctionMode):
    """Counts how often each tensor is read by something that gives tensors, and keeps all of them alive meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self._alive: list[Any] = []  # a tensor that is gone would leave its identity to another

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and note what it reads."""
        result = func(*args, **(kwargs or {}))
        if any(isinstance(item, Tensor) for item in _flat(result)):  # shapes and the like are no use of values
            for item in (*_flat(args), *_flat((kwargs or {}).values())):
                if isinstance(item, Tensor):
                    self.counts[id(item)] += 1
                    self._alive.append(item)
        self._alive.append(result)
        return result


def _flat(items: Any) -> Iterator[Any]:
    if isinstance(items, Tensor | str) or not hasattr(items, "__iter__"):
        yield items
        return
    for item in items:
        yield from _flat(item)


def _custom(network: nn.Module) -> tuple[str, ...]:
    return network.config.custom if isinstance(network, BiRefNet) else ()


def _own_modules(network: nn.Module) -> list[nn.Module]:
    """The modules that are ours, without those of a user's parts."""
    if not isinstance(network, BiRefNet):
        return list(network.modules())
    custom = network.config.custom
    parts: list[nn.Module] = []
    if "backbone" in custom:
        parts.append(network.encoder.backbone)
    if "squeeze" in custom:
        parts.append(network.encoder.squeeze)
    if any(part not in ("backbone", "squeeze") for part in custom):
        parts.append(network.decoder)
    foreign = {module for part in parts for module in part.modules()}
    return [module for module in network.modules() if module not in foreign]


def _foldable(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d | ModulatedDeformConv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the batch norm that alone reads what it gives, in every call of either."""
    made: dict[int, nn.Module] = {}  # a convolution's output, by its identity
    sources: dict[nn.BatchNorm2d, list[Tensor]] = {}
    calls: Counter[nn.Module] = Counter()
    reads = _Reads()

    def leave(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        sources.setdefault(module, []).append(inputs[0])

    own = _own_modules(network)
    # Exactly these types: what derives from them may do more.
    convs = [module for module in own if type(module) in (nn.Conv2d, ModulatedDeformConv2d)]
    norms = [m for m in own if type(m) is nn.BatchNorm2d and m.running_mean is not None and not m.training]
    hooks = [conv.register_forward_hook(leave) for conv in convs]
    hooks += [norm.register_forward_pre_hook(enter) for norm in norms]
    with torch.inference_mode(), _removed(hooks), reads:
        network(image)
    pairs = []
    for norm, inputs in sources.items():
        makers = {made.get(id(item)) for item in inputs}
        conv = makers.pop()
        alone = all(reads.counts[id(item)] == 1 for item in inputs)
        if not makers and conv in convs and calls[conv] == len(inputs) and alone:
            assert isinstance(conv, nn.Conv2d | ModulatedDeformConv2d)
            pairs.append((conv, norm))
    return pairs


@contextmanager
def _removed(hooks: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
