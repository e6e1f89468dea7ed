"""What a training run need not keep, move or interpret: activations, weights that are good as they are, Python."""

import difflib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from birefnet.errors import ConfigError
from birefnet.model import BiRefNet, TrainOutput
from birefnet.training.blocks import blocks_of
from birefnet.training.parallel import TrainStep

# Times that a part is run each way, compiled or not; the quickest counts.
_LAPS = 3

# Above the number of parts and sizes of any run: what is compiled for them shares a limit.
_PARTS = 1000


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
    wrapped: nn.Module,
    report: Callable[[str], None],
    *,
    backend: str | Callable[..., Any] = "inductor",
    limit: float = 600.0,
    gain: float = 1.05,
) -> nn.Module:
    """Let torch.compile make those blocks of a transformer backbone quicker that it can, and leave alone all else.

    Compiled as a whole, the smallest network takes inductor minutes on a CPU and is no quicker afterwards; the
    decoder's deformable convolutions, which go by chunks of pixels, take longest. So each block of the backbone is
    compiled by itself, when a batch of a new size first reaches it, and tried forward and backward against the block
    as it is; random numbers are then put back. Compiling one block cannot be interrupted: whether the time is up is
    looked at before each. What fails, such as for lack of a C++ compiler, ends the attempts.

    Blocks that are recomputed (`checkpoint_activations`) or sharded stay as they are, and so do those with batch norm:
    the backbone runs twice a step, and compiled code writes the running statistics in a way that autograd takes for a
    change of what the other run has saved. Without them no block waits for other processes either, so that each
    process can choose for itself.

    Args:
        wrapped: what `Parallel.wrap` has returned; it is changed in place.
        report: called with a line before blocks are compiled and one that says what came of it.
        backend: what torch.compile generates code with.
        limit: seconds of a run after which no further block is compiled.
        gain: how many times quicker a block must become to be used compiled; 0 uses all that compile.

    Returns:
        The same module.
    """
    for step in [part for part in wrapped.modules() if isinstance(part, TrainStep)]:
        blocks = _compilable(step.model)
        if not blocks:
            report(
                "torch.compile is left out: it is for blocks of a backbone without batch norm, neither recomputed "
                "(memory.checkpoint) nor sharded (--strategy fsdp)"
            )
            continue
        compiler = _Compiler(report, backend, limit, gain)
        for block in blocks:
            kind: Any = type(block)
            block.__class__ = _compiled(kind)
            vars(block)["choice"] = _Choice(compiler)
        step.run = partial(compiler.run, step.model)
    return wrapped


def _compilable(model: BiRefNet) -> list[nn.Module]:
    if isinstance(model, FSDPModule):
        return []
    return [
        block
        for name, block in blocks_of(model).items()
        if name.startswith("encoder.backbone")
        and not isinstance(block, _Recomputed)
        and not any(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    ]


class _Compiled(nn.Module):
    """Mixed into a module's class: run it in training as its `choice` says."""

    choice: "_Choice"

    def forward(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():  # validation has sizes of its own, and little of the time
            return super().forward(*args)
        return self.choice.run(self, super().forward, args)


@cache
def _compiled(kind: Any) -> Any:
    return type(f"Compiled{kind.__name__}", (_Compiled, kind), {})


class _Compiler:
    """What the parts of a network share: how they are compiled, and what came of it."""

    def __init__(
        self, report: Callable[[str], None], backend: str | Callable[..., Any], limit: float, gain: float
    ) -> None:
        self.report = report
        self.backend = backend
        self.limit = limit
        self.gain = gain
        self.seconds = 0.0
        self.tried = self.quicker = 0
        self.failure: Exception | None = None
        self.sizes: set[tuple[torch.Size, torch.dtype]] = set()

    @property
    def done(self) -> bool:
        """Whether no further part is to be compiled."""
        return self.failure is not None or self.seconds >= self.limit

    def run(self, model: BiRefNet, images: Tensor) -> TrainOutput:
        """The network's training pass, with lines around the first of a size.  (B, 3, H, W) -> `TrainOutput`."""
        size = (images.shape, images.dtype)
        if self.done or size in self.sizes or not torch.is_grad_enabled():
            return model.forward_train(images)
        self.sizes.add(size)
        self.tried = self.quicker = 0
        before = self.seconds
        named = f"{images.shape[0]} photos of {images.shape[2]} x {images.shape[3]}"
        self.report(
            f"torch.compile: compiling the backbone for {named}; this can take minutes, and is given up after "
            f"{self.limit - before:.0f} s"
        )
        output = model.forward_train(images)
        if self.failure is not None:
            reason = f"{type(self.failure).__name__}: {' '.join(str(self.failure).split())[:200]}"
            self.report(f"torch.compile does not work here, training goes on without: {reason}")
        elif self.tried:
            self.report(
                f"torch.compile: {self.quicker} of a step's {self.tried} block runs are quicker compiled and done so, "
                f"after {self.seconds - before:.0f} s{'; the time for it is up' if self.done else ''}"
            )
        return output


class _Choice:
    """How a part is run for what it is given: as it is or compiled."""

    def __init__(self, compiler: _Compiler) -> None:
        self.compiler = compiler
        self.ways: dict[Any, Callable[..., Any] | None] = {}

    def run(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a part, whose own way is `forward`."""
        case = (torch.is_autocast_enabled(_device(args).type), *(_described(leaf) for leaf in tree_leaves(args)))
        if case not in self.ways and not self.compiler.done:
            self.ways[case] = self._chosen(module, forward, args)
        compiled = self.ways.get(case)
        if compiled is None:
            return forward(*args)
        # Nothing is compiled later on, behind the time limit.
        with torch.compiler.set_stance("eager_on_recompile"):
            return compiled(*args)

    def _chosen(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...]
    ) -> Callable[..., Any] | None:
        """Compile a part and try it, and give it back if it is quicker."""
        compiler = self.compiler

        def part(*inputs: Any) -> Any:  # of this file, since what PyTorch itself holds would not be compiled as one
            return forward(*inputs)

        compiled: Callable[..., Any] = torch.compile(part, backend=compiler.backend, dynamic=False)
        device = _device(args)
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        begun = time.perf_counter()
        quicker = False
        try:
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                warnings.catch_warnings(),
                torch._dynamo.config.patch(recompile_limit=_PARTS, accumulated_recompile_limit=_PARTS),
            ):
                warnings.simplefilter("ignore")  # the compiler looks at everything, deprecated things too
                _lap(compiled, args, weights)
                own, new = (min(_lap(way, args, weights) for _ in range(_LAPS)) for way in (forward, compiled))
                quicker = new * compiler.gain <= own
        except Exception as error:  # each stage of the compiler has its own errors
            compiler.failure = error
        compiler.seconds += time.perf_counter() - begun
        compiler.tried += 1
        compiler.quicker += quicker
        return compiled if quicker else None


def _lap(way: Callable[..., Any], args: tuple[Any, ...], weights: Sequence[Tensor]) -> float:
    """Go forward and backward through a part, without leaving gradients, and tell the seconds."""
    device = _device(args)
    copies = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in args]
    wanted = [x for x in copies if isinstance(x, Tensor) and x.requires_grad] + list(weights)
    begun = time.perf_counter()
    results = [leaf for leaf in tree_leaves(way(*copies)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if results and wanted:
        torch.autograd.grad(results, wanted, [torch.ones_like(leaf) for leaf in results], allow_unused=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _device(args: tuple[Any, ...]) -> torch.device:
    return next(leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor))


def _described(leaf: Any) -> Any:
    """All that what is compiled may depend on."""
    return (leaf.shape, leaf.stride(), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
