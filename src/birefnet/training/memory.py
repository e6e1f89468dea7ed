"""What memory a training takes, told before it starts and without allocating any.

A step is gone through on shapes alone. On a CPU the comings and goings of its tensors are played through a model of the
C library's heap, because a process keeps the holes between them; on a GPU what is estimated is the memory that tensors
occupy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from birefnet.data.batches import DataRecipe
from birefnet.data.cache import raw_bytes
from birefnet.errors import ConfigError
from birefnet.model import BiRefNet
from birefnet.training.blocks import blocks_of
from birefnet.training.fake_step import play_step
from birefnet.training.heap import reach_of
from birefnet.training.recipe import Recipe
from birefnet.training.trial import empty_network

# Measured on Linux with PyTorch 2.13, see benchmarks/training.py: a process that has imported all that training needs;
# and what threads and libraries of a CPU keep for themselves.
PROGRAM = 350_000_000
LIBRARIES = 210_000_000

# On a GPU: workspaces of cuBLAS and cuDNN.
GPU_WORKSPACE = 300_000_000


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
    weights = bytes_of([*model.parameters(), *model.buffers()])
    trained = bytes_of([parameter for parameter in model.parameters() if parameter.requires_grad])
    average = _floating_bytes(model) if recipe.optimizer.ema else 0
    sharded = machine.world > 1 and machine.strategy == "fsdp"
    extra = _gathered(model) if sharded else 0
    share = machine.world if sharded else 1
    fixed = (weights // share, 2 * trained // share, average // share)
    # Gradients that processes exchange lie in buffers of their own, from the first step to the last.
    exchanged = 0 if machine.world == 1 else trained // share
    kept = sum(fixed) + exchanged + extra
    peak, events = play_step(model, recipe, machine.world, torch.device(kind), kept)
    working = peak - sum(fixed)
    held = sum(raw_bytes(photos, size) for size in packed_sizes(recipe.data))
    if machine.kind != "cpu":
        return Memory(0, *fixed, working, GPU_WORKSPACE)
    # A checkpoint is collected in memory before it is written: a copy of all that is kept.
    heap = max(reach_of(kept, events), 2 * sum(fixed))
    return Memory(PROGRAM, *fixed, working, heap - peak + LIBRARIES, held)


def packed_sizes(recipe: DataRecipe) -> list[tuple[int, int]]:
    """(height, width) of the packs that photos are decoded into; none where sizes are drawn."""
    if recipe.dynamic is not None:
        return []
    factor = recipe.augmentation.headroom
    return list(dict.fromkeys((round(s.height * factor), round(s.width * factor)) for s in recipe.stages))


def cache_bytes(recipe: DataRecipe, photos: int) -> int:
    """Bytes on the disk of photos decoded for a recipe."""
    return sum(raw_bytes(photos, size) for size in packed_sizes(recipe))


def _gathered(model: BiRefNet) -> int:
    """Bytes of whole weights and gradients at a time where they are sharded: two blocks, and all outside of blocks."""
    blocks = [bytes_of(block.parameters()) for block in blocks_of(model).values()]
    rest = bytes_of(model.parameters()) - sum(blocks)
    return 2 * (2 * max(blocks, default=0) + rest)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors that share no memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _floating_bytes(model: nn.Module) -> int:
    return bytes_of(tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
