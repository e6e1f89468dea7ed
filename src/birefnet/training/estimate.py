"""What a training will take, told before it starts: memory, without allocating any, and time, from a short probe.

Memory is found by going through a step on shapes alone (PyTorch's fake tensors): the real network, losses and backward
pass, with savings, adapters and precision as the recipe has them. A ledger notes when each tensor comes and goes, so
checkpointing, custom autograd functions and the temporaries of the backward pass are counted as they are. On a CPU the
same comings and goings are played through a model of the C library's heap, because a process keeps the holes between
its tensors; on a GPU what is estimated is the memory that tensors occupy.
"""

import bisect
import gc
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from birefnet.data.batches import MULTIPLE, DataRecipe, Stage
from birefnet.data.cache import raw_bytes
from birefnet.errors import ConfigError, InputError
from birefnet.losses import training_losses
from birefnet.model import BiRefNet
from birefnet.model.count import Cost, count_cost
from birefnet.modules import deform_conv
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.training.blocks import blocks_of
from birefnet.training.loop import autocast
from birefnet.training.lora import LoraRecipe, add_lora
from birefnet.training.parallel import TrainStep
from birefnet.training.recipe import Recipe
from birefnet.training.savings import checkpoint_activations, freeze

# Measured on Linux with PyTorch 2.13, see benchmarks/training.py: a process that has imported all that training needs;
# and what threads and libraries of a CPU keep for themselves.
_PROGRAM = 350_000_000
_LIBRARIES = 210_000_000

# On a GPU: workspaces of cuBLAS and cuDNN.
_GPU_WORKSPACE = 300_000_000

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

_STEPS = 3
"""Steps that are played: holes that one leaves may be no room for the next; further ones change next to nothing."""

# Maps of the size of the batch that its random changes need at a time, three channels each.
_AUGMENTED = 4

_PROBE_MACS = 12e9
_PROBE_SECONDS = 20.0
_PROBE_SIDES = (1024, 768, 512, 384, 256, 128)


@dataclass(frozen=True)
class Memory:
    """Bytes that one process of a training takes at its peak.

    Attributes:
        program: the interpreter and the libraries; 0 on a GPU.
        weights: parameters and buffers.
        moments: the optimizer's two running means.
        average: averaged weights, where they are kept.
        working: activations, gradients, the batch and temporaries, at the moment when they are most.
        slack: holes between tensors, and what libraries need beside them.
        photos: decoded photos in memory; those mapped from the disk the system takes back when it needs the room.
        mapped: whether they are mapped from the disk.
    """

    program: int
    weights: int
    moments: int
    average: int
    working: int
    slack: int
    photos: int = 0
    mapped: bool = True

    @property
    def needed(self) -> int:
        """What must be there: all but photos that are mapped."""
        return self.resident - (self.photos if self.mapped else 0)

    @property
    def resident(self) -> int:
        """What the system shows at the peak, mapped photos included."""
        fixed = self.program + self.weights + self.moments + self.average
        return fixed + self.working + self.slack + self.photos


@dataclass(frozen=True)
class Machine:
    """Where a training runs.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        world: processes.
        strategy: of several processes, "ddp" or "fsdp".
    """

    kind: str = "cpu"
    world: int = 1
    strategy: str = "ddp"


# --- memory ---


def estimate_memory(recipe: Recipe, machine: Machine | None = None, *, photos: int = 0) -> Memory:
    """Estimate the memory of one process of a training, at the largest size of the recipe; nothing is allocated.

    On a CPU that is the peak of the whole process, on a GPU what tensors take there. What is computed on the CPU beside
    a GPU, worker processes and `memory.compile` are not counted.

    Args:
        recipe: what is trained.
        machine: where.
        photos: how many photos are held decoded, mapped from packs on the disk; see `cache_bytes`.

    Raises:
        ConfigError: the recipe cannot be carried out.
        InputError: the network does not take the recipe's size or batch.
    """
    machine = machine or Machine()
    if recipe.data.batch % machine.world:
        raise ConfigError(f"a batch of {recipe.data.batch} cannot be shared by {machine.world} processes")
    # Fake tensors of a GPU need a GPU's build and driver; a CPU's are of the same sizes.
    kind = machine.kind if machine.kind == "cpu" or torch.cuda.is_available() else "cpu"
    model = empty_network(recipe)
    weights = _bytes([*model.parameters(), *model.buffers()])
    trained = _bytes([parameter for parameter in model.parameters() if parameter.requires_grad])
    average = _floating_bytes(model) if recipe.optimizer.ema else 0
    sharded = machine.world > 1 and machine.strategy == "fsdp"
    extra = _gathered(model) if sharded else 0
    share = machine.world if sharded else 1
    fixed = (weights // share, 2 * trained // share, average // share)
    # Gradients that processes exchange lie in buffers of their own, from the first step to the last.
    exchanged = 0 if machine.world == 1 else trained // share
    peak, heap = _played(model, recipe, machine, kind, sum(fixed) + exchanged + extra)
    working = peak - sum(fixed)
    held = sum(raw_bytes(photos, size) for size in packed_sizes(recipe.data))
    if machine.kind != "cpu":
        return Memory(0, *fixed, working, _GPU_WORKSPACE)
    # A checkpoint is collected in memory before it is written: a copy of all that is kept.
    heap = max(heap, 2 * sum(fixed))
    return Memory(_PROGRAM, *fixed, working, heap - peak + _LIBRARIES, held)


def empty_network(recipe: Recipe) -> BiRefNet:
    """Build a recipe's network as it is trained, with adapters and frozen parts, but weights that have shapes alone.

    Raises:
        ConfigError: the recipe cannot be carried out.
    """
    with _NoMemory():
        model = BiRefNet(recipe.model)
        model.train()
        _changed(model, recipe)
    layout = torch.channels_last if recipe.memory.channels_last else torch.contiguous_format
    model.to("meta", memory_format=layout)  # type: ignore[call-overload]
    return model


def _changed(model: BiRefNet, recipe: Recipe) -> None:
    """Do to a network what a run does to it before the first step."""
    if recipe.lora is not None:
        add_lora(model, recipe.lora)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    if recipe.memory.checkpoint:
        checkpoint_activations(model)


def largest_stage(recipe: DataRecipe) -> Stage:
    """The stage whose batches are largest; with dynamic sizes, one of the upper end."""
    if recipe.dynamic is not None:
        return Stage(recipe.dynamic[1], recipe.dynamic[1], 1.0)
    return max(recipe.stages, key=lambda stage: stage.height * stage.width)


def _played(model: BiRefNet, recipe: Recipe, machine: Machine, kind: str, fixed: int) -> tuple[int, int]:
    """Go through a step on shapes: bytes of tensors at the peak, and how far the heap of several steps reaches."""
    stage = largest_stage(recipe.data)
    batch = recipe.data.batch // machine.world
    # Gradients of two parts meet; further parts are as the second.
    parts = min(2, recipe.memory.accumulate)
    part = batch // recipe.memory.accumulate
    device = torch.device(kind)
    was_collecting = gc.isenabled()
    gc.disable()  # what cycles keep alive would be freed at random moments
    try:
        with FakeTensorMode(), torch.device(device), _Ledger() as ledger:
            _materialize(model, device)
            # In place of everything fixed, the weights among it.
            ledger.restart(fixed)
            network = TrainStep(model)
            if machine.world > 1:
                _hand_on_gradients(model)
            images, target = _fake_batch(recipe, batch, stage)
            for number in range(parts):
                cut = slice(number * part, (number + 1) * part)
                _learn(network, recipe, images[cut], target[cut], device)
            del images, target
            for parameter in model.parameters():
                parameter.grad = None
    finally:
        if was_collecting:
            gc.enable()
    return ledger.peak, _reach(fixed, ledger.events)


def _learn(network: nn.Module, recipe: Recipe, images: Tensor, target: Tensor, device: torch.device) -> None:
    with autocast(recipe.precision, device):
        output = network(images)
    terms = training_losses(
        output,
        target,
        recipe.loss,
        classes=torch.zeros(len(images), dtype=torch.int64),
        valid=torch.ones_like(target),
        compare_at=recipe.compare_at,
        reference_defects=recipe.reference_defects,
    )
    loss = torch.stack(list(terms.values())).sum()
    del output, terms
    loss.backward()


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


def _gathered(model: BiRefNet) -> int:
    """Bytes of whole weights and gradients at a time where they are sharded: two blocks, and all outside of blocks."""
    blocks = [_bytes(block.parameters()) for block in blocks_of(model).values()]
    rest = _bytes(model.parameters()) - sum(blocks)
    return 2 * (2 * max(blocks, default=0) + rest)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _floating_bytes(model: nn.Module) -> int:
    return _bytes(tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())


class _NoMemory(TorchFunctionMode):
    """Makes what weights are first made of without memory; small tables that a network computes are real."""

    _WEIGHTS = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._WEIGHTS:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class _Ledger(TorchDispatchMode):
    """Notes when the memory of each tensor comes and goes.

    Attributes:
        peak: greatest number of bytes of tensors at a time.
        events: in their order, the number of a piece of memory with its size where it comes, with 0 where it goes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[int, int]] = {}
        self._count = 0
        self.restart(0)

    def restart(self, fixed: int) -> None:
        """Forget what happened, and take what is there for so many bytes that stay."""
        self._known = dict.fromkeys(self._known, (-1, 0))
        self._live = self.peak = fixed
        self.events: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note its results."""
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0  # a shape has no value; what asks for one here chooses between ways to the same result
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for storage in storages:
            self._note(storage)
        if func in _CONVOLUTIONS:
            # On a CPU it works on copies, in an order of its own, of what it reads and writes.
            storages += [leaf.untyped_storage() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self._count += 1
            self.events += [(self._count, sum(storage.nbytes() for storage in storages)), (self._count, 0)]
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key: int = storage._cdata
        size = storage.nbytes()
        if key in self._known or not size:
            return
        self._count += 1
        self._known[key] = (self._count, size)
        self.events.append((self._count, size))
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        number, size = self._known.pop(key)
        if size:
            self.events.append((number, 0))
            self._live -= size


def _reach(fixed: int, events: Sequence[tuple[int, int]]) -> int:
    """How far a heap reaches that keeps `fixed` bytes, and then sees the events of a step several times over."""
    heap = _Heap()
    heap.take(fixed)
    for _ in range(_STEPS):
        places: dict[int, int] = {}
        for number, size in events:
            if size:
                places[number] = heap.take(size)
            elif number in places:
                heap.give(places.pop(number))
        for place in places.values():
            heap.give(place)
    return heap.reach


class _Heap:
    """A heap as the C library of Linux keeps one: the smallest hole that is large enough is taken, and holes merge.

    Attributes:
        reach: how far it ever went, in bytes.
    """

    _ALIGNED = 64

    def __init__(self) -> None:
        self.reach = 0
        self._end = 0
        self._holes: list[tuple[int, int]] = []  # size and place, sorted
        self._hole_sizes: dict[int, int] = {}  # by place
        self._hole_places: dict[int, int] = {}  # by end
        self._taken: dict[int, int] = {}  # size by place

    def take(self, size: int) -> int:
        """Find room, and tell where."""
        size = -(-(size + self._ALIGNED) // self._ALIGNED) * self._ALIGNED
        index = bisect.bisect_left(self._holes, (size, 0))
        if index < len(self._holes):
            room, place = self._holes[index]
            self._fill(place)
            if room > size:
                self._open(place + size, room - size)
        else:
            place = self._end
            self._end += size
            self.reach = max(self.reach, self._end)
        self._taken[place] = size
        return place

    def give(self, place: int) -> None:
        """Free what is at a place."""
        size = self._taken.pop(place)
        if place + size in self._hole_sizes:
            size += self._fill(place + size)
        if place in self._hole_places:
            place = self._hole_places[place]
            size += self._fill(place)
        if place + size == self._end:
            self._end = place
        else:
            self._open(place, size)

    def _open(self, place: int, size: int) -> None:
        bisect.insort(self._holes, (size, place))
        self._hole_sizes[place] = size
        self._hole_places[place + size] = place

    def _fill(self, place: int) -> int:
        size = self._hole_sizes.pop(place)
        del self._hole_places[place + size]
        del self._holes[bisect.bisect_left(self._holes, (size, place))]
        return size


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


# --- photos on the disk ---


def packed_sizes(recipe: DataRecipe) -> list[tuple[int, int]]:
    """(height, width) of the packs that photos are decoded into; none where sizes are drawn."""
    if recipe.dynamic is not None:
        return []
    factor = recipe.augmentation.headroom
    return list(dict.fromkeys((round(s.height * factor), round(s.width * factor)) for s in recipe.stages))


def cache_bytes(recipe: DataRecipe, photos: int) -> int:
    """Bytes on the disk of photos decoded for a recipe."""
    return sum(raw_bytes(photos, size) for size in packed_sizes(recipe))


# --- this machine ---


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that a new process could take: of a GPU, or of the machine within the limits set for this process.

    Args:
        device: where memory is wanted.
        root: where the file systems of the kernel are.

    Returns:
        None where it cannot be told.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        free, _ = torch.cuda.mem_get_info(device)
        return free
    figures = _table(root / "proc/meminfo")
    if "MemAvailable" not in figures:
        return _physical_memory()
    return min([figures["MemAvailable"] * 1024, *_group_limits(root)])


def _physical_memory() -> int | None:
    """What is built in, where the system does not tell what is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group_limits(root: Path) -> list[int]:
    """What the control groups of this process leave, of version 1 and 2, each with those it lies in."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        old = bool(controllers)
        top = root / "sys/fs/cgroup" / ("memory" if old else "")
        limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        # In a container the path is often that of the host, of which only the top is to be seen.
        folder = top / path.lstrip("/")
        for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(top))):
            most, used = _number(place / limit), _number(place / usage)
            if most is not None and used is not None and most < 2**60:
                # Pages of files are taken back when the room is needed.
                files = _table(place / "memory.stat").get("total_inactive_file" if old else "inactive_file", 0)
                left.append(max(0, most - used + files))
    return left


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """Read numbers by name, of lines such as "MemTotal:  24 kB" or "file 4096"."""
    rows = [line.replace(":", " ").split() for line in _lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


# --- what would fit ---


@dataclass(frozen=True)
class Saving:
    """A change to a recipe that needs less memory.

    Attributes:
        settings: what to change, each as for `--set`.
        memory: what it then takes, batch as it was.
        batch: the greatest batch that fits, 0 for none.
    """

    settings: tuple[str, ...]
    memory: Memory
    batch: int


def largest_batch(recipe: Recipe, machine: Machine, memory: Memory, available: int) -> int:
    """Estimate the greatest batch that fits, of all processes together; 0 if not the least one does.

    Args:
        recipe: what is trained.
        machine: where.
        memory: the estimate for the recipe as it is.
        available: bytes that there are for each process.
    """
    kept = memory.weights + memory.moments + memory.average
    fixed = memory.program + kept + (_LIBRARIES if machine.kind == "cpu" else _GPU_WORKSPACE)
    each = (memory.needed - fixed) / recipe.data.batch
    grain = machine.world * recipe.memory.accumulate
    fitting = int((available - fixed) / each // grain) * grain
    # Batch norm cannot be trained on a single photo.
    return fitting if fitting >= 2 * grain else 0


def savings(recipe: Recipe, machine: Machine, available: int) -> list[Saving]:
    """Estimate what changes to a recipe would save, the mildest first; those that save nothing are left out."""
    found = []
    now = estimate_memory(recipe, machine).needed
    for settings, other in _milder(recipe, machine):
        try:
            memory = estimate_memory(other, machine)
        except (ConfigError, InputError):
            continue  # frozen parts can exclude each other
        if memory.needed < 0.97 * now:
            found.append(Saving(settings, memory, largest_batch(other, machine, memory, available)))
    return found


def with_batch(recipe: Recipe, batch: int) -> Recipe:
    """The same recipe with another batch."""
    return replace(recipe, data=replace(recipe.data, batch=batch))


def _milder(recipe: Recipe, machine: Machine) -> list[tuple[tuple[str, ...], Recipe]]:
    """Changes one by one, then those together that leave alone what is learnt."""
    changes: list[tuple[tuple[str, ...], Recipe]] = []
    names: tuple[str, ...] = ()
    together = recipe

    def add(name: str, precision: str | None = None, **memory: Any) -> None:
        nonlocal names, together
        first, together = (
            replace(one, precision=precision or one.precision, memory=replace(one.memory, **memory))
            for one in (recipe, together)
        )
        names = (*names, name)
        changes.append(((name,), first))
        if len(names) > 1:
            combined.append((names, together))

    combined: list[tuple[tuple[str, ...], Recipe]] = []
    if recipe.precision == "float32":
        add("precision=bfloat16", "bfloat16")
    if not recipe.memory.checkpoint:
        add("memory.checkpoint=true", checkpoint=True)
    share = recipe.data.batch // machine.world
    parts = next((n for n in range(share // 2, 1, -1) if share % n == 0), 1)
    if recipe.memory.accumulate < parts:
        add(f"memory.accumulate={parts}", accumulate=parts)
    if "backbone" not in recipe.freeze and recipe.lora is None:
        frozen = replace(recipe, freeze=(*recipe.freeze, "backbone"))
        changes.append(((f"freeze={_toml(frozen.freeze)}",), frozen))
        if not (machine.strategy == "fsdp" and machine.world > 1):
            changes.append((("lora.rank=8",), replace(recipe, lora=LoraRecipe())))
    return [*changes, *combined]


def _toml(values: Sequence[str]) -> str:
    if len(values) == 1:
        return values[0]
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


# --- time ---


@dataclass(frozen=True)
class Probe:
    """A real step, small.

    Attributes:
        height: of its photos.
        width: of its photos.
        batch: photos of it.
        macs: multiply-accumulate operations of a forward pass of one photo.
        seconds: how long it took.
    """

    height: int
    width: int
    batch: int
    macs: int
    seconds: float


@dataclass(frozen=True)
class StageTime:
    """What a stage of a run is estimated to take.

    Attributes:
        stage: its size and share.
        cost: what the network costs there.
        images_per_second: of one process.
        seconds: the whole stage.
    """

    stage: Stage
    cost: Cost
    images_per_second: float
    seconds: float


def measure_step(recipe: Recipe, device: torch.device, batch: int | None = None) -> Probe:
    """Take a few real steps of a recipe's network from random weights, at a small size, and time them.

    Args:
        recipe: what is trained.
        device: where.
        batch: photos of a step; None for the recipe's, up to 8.

    Raises:
        ConfigError: the recipe cannot be carried out.
        InputError: the network takes none of the sizes that are tried.
    """
    batch = batch or max(2, min(8, recipe.data.batch // recipe.memory.accumulate))
    shapes = empty_network(recipe)
    height, width, cost = _probe_size(shapes, recipe, device, batch)
    if device.type != "cuda":
        batch = max(2, min(batch, int(_PROBE_MACS // cost.macs)))
    model = BiRefNet(recipe.model)
    model.train()
    _changed(model, recipe)
    layout = torch.channels_last if recipe.memory.channels_last else torch.contiguous_format
    network = TrainStep(model.to(device=device, memory_format=layout))  # type: ignore[call-overload]
    images = torch.randn(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.rand(batch, 1, height, width, device=device)
    laps: list[float] = []
    begun = time.perf_counter()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        while len(laps) < 4 and (not laps or time.perf_counter() - begun < _PROBE_SECONDS):
            start = time.perf_counter()
            with torch.device(device):
                _learn(network, recipe, images, target, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            model.zero_grad()
            laps.append(time.perf_counter() - start)
    # The first step is slower: kernels are chosen, memory is fetched.
    return Probe(height, width, batch, cost.macs, min(laps[1:] or laps))


def _probe_size(shapes: BiRefNet, recipe: Recipe, device: torch.device, batch: int) -> tuple[int, int, Cost]:
    """Choose the largest size that is quick to try."""
    stage = largest_stage(recipe.data)
    if device.type == "cuda":  # a small size would leave most of a GPU idle, and a large one is quick
        return stage.height, stage.width, count_cost(shapes, (stage.height, stage.width))
    smallest: tuple[int, int, Cost] | None = None
    for side in [side for side in _PROBE_SIDES if side * side <= stage.height * stage.width] or [MULTIPLE * 2]:
        try:
            cost = count_cost(shapes, (side, side))
        except InputError:
            break
        smallest = (side, side, cost)
        if cost.macs * batch <= _PROBE_MACS:
            break
    return smallest or (stage.height, stage.width, count_cost(shapes, (stage.height, stage.width)))


def estimate_time(recipe: Recipe, probe: Probe, samples: int, world: int = 1) -> list[StageTime]:
    """Scale a measured step to the stages of a run by the network's work; validations come on top.

    Args:
        recipe: what is trained.
        probe: what was measured.
        samples: photos seen in all.
        world: processes, each on a device of its own.
    """
    shapes = empty_network(recipe)
    a_mac = probe.seconds / (probe.batch * probe.macs)
    times = []
    for stage in mean_stages(recipe.data):
        cost = count_cost(shapes, (stage.height, stage.width))
        rate = 1 / (a_mac * cost.macs)
        times.append(StageTime(stage, cost, rate, samples * stage.share / (rate * world)))
    return times


def mean_stages(recipe: DataRecipe) -> tuple[Stage, ...]:
    """Stages of a run; where sizes are drawn, one of their mean."""
    if recipe.dynamic is None:
        return recipe.stages
    side = round(sum(recipe.dynamic) / 2 / MULTIPLE) * MULTIPLE
    return (Stage(side, side, 1.0),)


def can_probe(memory: Memory, available: int | None) -> bool:
    """Whether there is room to try a small step: weights, gradients and about as much again."""
    return available is None or 4 * memory.weights + _PROGRAM < available
