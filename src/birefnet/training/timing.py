"""How long a training will take, told before it starts from a few small steps."""

import time
from dataclasses import dataclass

import torch

from birefnet.data.batches import MULTIPLE, DataRecipe, Stage
from birefnet.errors import InputError
from birefnet.model import BiRefNet
from birefnet.model.count import Cost, count_cost
from birefnet.training.memory import PROGRAM, Memory
from birefnet.training.parallel import TrainStep
from birefnet.training.recipe import Recipe
from birefnet.training.trial import change, empty_network, largest_stage, learn

_PROBE_MACS = 12e9
_PROBE_SECONDS = 20.0
_PROBE_SIDES = (1024, 768, 512, 384, 256, 128)


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


def can_probe(memory: Memory, available: int | None) -> bool:
    """Whether there is room to try a small step: weights, gradients and about as much again."""
    return available is None or 4 * memory.weights + PROGRAM < available


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
    change(model, recipe)
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
                learn(network, recipe, images, target, device)
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
