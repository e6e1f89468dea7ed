"""What a training run need not keep, move or interpret: activations, weights that are good as they are, Python."""

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from birefnet.errors import BiRefNetError, ConfigError
from birefnet.model import BiRefNet, TrainOutput
from birefnet.training.blocks import blocks_of
from birefnet.training.parallel import TrainStep


def checkpoint_activations(model: BiRefNet) -> int:
    """Keep only what enters each of `blocks_of` and compute the rest again in the backward pass, in place.

    It costs a second forward pass of these parts and saves most of a training's memory (Chen et al. 2016, arXiv
    1604.06174). Gradients, dropout and running statistics are those of training without; names stay as they are.

    Returns:
        How many parts there are.
    """
    blocks = blocks_of(model)
    for block in blocks.values():
        kind: Any = type(block)
        if not issubclass(kind, _Recomputed):
            block.__class__ = _recomputed(kind)
    return len(blocks)


class _Recomputed(nn.Module):
    """Mixed into a module's class: run it so that its activations are computed again when they are needed.

    A class and not a wrapped method: a copy of the module then runs itself, not the module it was copied from.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        contexts = partial(_contexts, self)
        return checkpoint(super().forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@cache
def _recomputed(kind: Any) -> Any:
    return type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let batch norm do all that it did in the first pass, but not count the batch a second time.

    It must still save its statistics, since a recomputed pass has to save as many tensors as the first: so they are
    moved by nothing instead of being left out.
    """
    training = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d) and part.training]
    before = [(part.momentum, part.num_batches_tracked) for part in training]
    for part in training:
        part.momentum, part.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for part, (momentum, count) in zip(training, before, strict=True):
            part.momentum, part.num_batches_tracked = momentum, count


def freeze(model: BiRefNet, what: Sequence[str]) -> int:
    """Fix parts of the network, which then stay in evaluation mode whatever `train` says, in place.

    Args:
        model: the network, before it is wrapped or an optimizer is made.
        what: "backbone"; "norm" for the statistics and parameters of every batch norm; or a path of a module, such as
            "decoder.stages.0".

    Returns:
        How many parameters no longer train.

    Raises:
        ConfigError: there is no part of a name, or nothing is left to train.
    """
    parts: list[nn.Module] = []
    wrong: list[str] = []
    modules = dict(model.named_modules())
    for name in what:
        if name == "backbone":
            parts.append(model.encoder.backbone)
        elif name == "norm":
            parts += [part for part in modules.values() if isinstance(part, nn.BatchNorm2d)]
        elif name and name in modules:
            parts.append(modules[name])
        else:
            wrong.append(name)
    if wrong:
        raise ConfigError(_no_such_parts(wrong, [name for name in modules if name]))
    before = _trained(model)
    for part in parts:
        part.requires_grad_(False)
        kind: Any = type(part)
        if not issubclass(kind, _Held):
            part.__class__ = _held(kind)
        part.eval()
    if not _trained(model):
        raise ConfigError(f"nothing is left to train when {', '.join(what)} is frozen: freeze less")
    return before - _trained(model)


def _no_such_parts(wrong: Sequence[str], names: Sequence[str]) -> str:
    near = [match for name in wrong for match in difflib.get_close_matches(name, names, n=2)]
    hint = f"; near: {', '.join(dict.fromkeys(near))}" if near else ""
    return (
        f"nothing to freeze is named {', '.join(map(repr, wrong))}: write backbone, norm or the path of a module, such "
        f"as encoder.squeeze or decoder.stages.0{hint}"
    )


def _trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class _Held(nn.Module):
    """Mixed into a module's class: it stays in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)


@cache
def _held(kind: Any) -> Any:
    return type(f"Frozen{kind.__name__}", (_Held, kind), {})


def compile_or_not(
    wrapped: nn.Module, report: Callable[[str], None], *, backend: str | Callable[..., Any] = "inductor"
) -> nn.Module:
    """Let torch.compile fuse the network's training pass where it can, and go on without it where it cannot.

    What can fail differs between machines (no C++ compiler, an operation that is not supported), so the first pass of
    every size is tried forward and backward before it counts; statistics and random numbers are then put back. In a
    run of several processes all of them must be able to compile, or none.

    Args:
        wrapped: what `Parallel.wrap` has returned; it is changed in place.
        report: called with one line if compiling fails.
        backend: what torch.compile generates code with.

    Returns:
        The same module.
    """
    for part in wrapped.modules():
        if isinstance(part, TrainStep):
            part.run = _Attempt(part.model, report, backend)
    return wrapped


class _Attempt:
    """The network's training pass, compiled until that fails."""

    def __init__(self, model: BiRefNet, report: Callable[[str], None], backend: str | Callable[..., Any]) -> None:
        self.model = model
        self.report = report
        self.compiled: Callable[[Tensor], TrainOutput] | None = torch.compile(model.forward_train, backend=backend)
        self.tried: set[tuple[torch.Size, torch.dtype, bool]] = set()

    def __call__(self, images: Tensor) -> TrainOutput:
        case = (images.shape, images.dtype, torch.is_grad_enabled())
        if self.compiled is not None and case not in self.tried:
            self.tried.add(case)
            self._try(self.compiled, images)
        return self.model.forward_train(images) if self.compiled is None else self.compiled(images)

    def _try(self, compiled: Callable[[Tensor], TrainOutput], images: Tensor) -> None:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        devices = [images.device] if images.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler looks at everything, deprecated things too
                output = compiled(images)
                self._differentiate(output)
        except BiRefNetError:
            raise  # the network itself refuses the images
        except Exception as error:  # each stage of the compiler has its own errors
            self.compiled = None
            reason = " ".join(str(error).split())[:200]
            self.report(f"torch.compile does not work here, training goes on without: {type(error).__name__}: {reason}")
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    def _differentiate(self, output: TrainOutput) -> None:
        """Go backward without leaving gradients: what is compiled for that may fail by itself."""
        # Sharded parameters are gathered and freed by hooks that must see each pass as a whole.
        if isinstance(self.model, FSDPModule) or not output.logits.requires_grad:
            return
        total = output.logits.float().mean()
        for logits in (*output.side_logits, *output.gradient_logits, *output.earlier_logits):
            total = total + logits.float().mean()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, trained, allow_unused=True)
