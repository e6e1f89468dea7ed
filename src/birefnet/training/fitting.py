"""What would make a training fit: another batch, or settings that save memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from birefnet.errors import ConfigError, InputError
from birefnet.training.lora import LoraRecipe
from birefnet.training.memory import GPU_WORKSPACE, LIBRARIES, Machine, Memory, estimate_memory
from birefnet.training.recipe import Recipe


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
    fixed = memory.program + kept + (LIBRARIES if machine.kind == "cpu" else GPU_WORKSPACE)
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
