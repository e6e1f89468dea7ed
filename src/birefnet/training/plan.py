"""What a run is to do, put together from what is asked for before anything is written or trained."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from birefnet.config import InputSpec
from birefnet.data.batches import check_sources, parse_sizes
from birefnet.data.structures import Drawn
from birefnet.errors import ConfigError, DataError
from birefnet.model import BiRefNet
from birefnet.training.folder import CHECKPOINT, DATA, read_data, read_recipe
from birefnet.training.recipe import NOTHING, Json, Recipe, changed, differences, read_file
from birefnet.training.recipes import Basis, make_recipe
from birefnet.training.sets import Choice, Sets, count, find_sets


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        recipe: all that decides the outcome.
        choice: what photos were asked for.
        sets: those that it is trained and validated on.
        input_spec: how photos are prepared for the weights that come out.
        start: the network that it starts from, None for random weights.
    """

    recipe: Recipe
    choice: Choice
    sets: Sets
    input_spec: InputSpec
    start: BiRefNet | None = None


DEFAULT = "finetune"
"""The recipe where none is named."""


@dataclass(frozen=True)
class Asked:
    """What a recipe is made from.

    Attributes:
        recipe: name of a function in `birefnet.training.recipes`; None for the one that the file names, or
            `DEFAULT`.
        start: weights to start from.
        file: TOML file with a recipe, or with changes to the named one.
        changes: fields to change, by their dotted names.
    """

    recipe: str | None = None
    start: str | None = None
    file: Path | None = None
    changes: Json = field(default_factory=dict)


def make_plan(asked: Asked, choice: Choice) -> Plan:
    """Find the photos and make the recipe for them.

    Raises:
        BiRefNetError: something asked for does not exist or is impossible.
    """
    written = read_file(asked.file) if asked.file else {}
    seed = asked.changes.get("seed", written.get("seed", choice.seed))
    choice = replace(choice, seed=seed if isinstance(seed, int) else choice.seed)
    sets = find_sets(choice)
    name = asked.recipe or str(written.get("name", DEFAULT))
    start = _start(asked, written, name)
    network = BiRefNet.from_pretrained(start) if start else None
    section = written.get("data")
    batch = asked.changes.get("data.batch", section.get("batch") if isinstance(section, dict) else None)
    basis = Basis(
        count(sets.train),
        None if network is None else network.config,
        None if network is None else network.input_spec.size,
        batch if isinstance(batch, int) and batch > 0 else None,
        keep_aspect=network is not None and network.input_spec.keep_aspect,
    )
    # One after the other: a length that is typed takes the place of the file's.
    recipe = changed(changed(make_recipe(name, basis), written), {"start": start, **asked.changes})
    if network is not None and network.config != recipe.model:
        lines = differences(network.config.to_dict(), recipe.model.to_dict())
        raise ConfigError(f"{start}: its network is another one than asked for ({'; '.join(lines)})")
    if network is None:
        with torch.device("meta"):  # what cannot be built is refused before a folder is made
            BiRefNet(recipe.model)
    if not isinstance(sets.train, Path):  # a pack is opened when the run begins
        train = sets.train
        check_sources(recipe.data, train.sources if isinstance(train, Drawn) else [pair.source for pair in train])
    size = parse_sizes(recipe.validation.size or recipe.data.sizes)[-1]
    spec = network.input_spec if network is not None else InputSpec()
    spec = replace(spec, size=(size.height, size.width), keep_aspect=recipe.data.keep_aspect)
    return Plan(recipe, choice, sets, spec, network)


def _start(asked: Asked, written: Json, name: str) -> str | None:
    """Tell the weights that a run starts from: those that are named, or for fine-tuning the bundled ones."""
    named = asked.start or written.get("start")
    if named is not None and named != NOTHING:
        return str(named)
    if name != DEFAULT:
        return None
    if any(field.split(".")[0] in ("model", "pretrained_backbone") for field in (*asked.changes, *written)):
        raise ConfigError(
            "fine-tuning starts from trained weights, whose network is what it is: name them with --from, or train "
            "another network from nothing with --recipe nano or one of the published recipes"
        )
    return "nano"


def plan_of(run: Path) -> Plan:
    """Read the plan of a run that has begun.

    Raises:
        BiRefNetError: a file of the run is damaged, or its photos are no longer there.
    """
    recipe, data = read_recipe(run), read_data(run)
    try:
        choice = Choice.from_json(data["asked"])
        spec = InputSpec.from_dict(data["input_spec"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{run / DATA}: was changed and does not say what the run asked for ({error})") from error
    # The checkpoint of a run holds all weights: what it once started from may be gone.
    fresh = recipe.start is not None and not (run / CHECKPOINT).exists()
    network = BiRefNet.from_pretrained(recipe.start) if fresh and recipe.start else None
    return Plan(recipe, choice, find_sets(choice), spec, network)
