"""The folder of a run: what is in it, how it begins, and whether a run that goes on is the same."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from birefnet._atomic import make_folder, write_whole
from birefnet.errors import ConfigError, DataError, OutputError
from birefnet.training.environment import environment
from birefnet.training.recipe import Json, Recipe, differences, read_file
from birefnet.training.sets import Choice, Sets

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CHECKPOINT = "checkpoint.pt"
"""All that a run needs to go on."""

WEIGHTS = "model.safetensors"
"""Weights as of the last step."""

BEST = "best.safetensors"
"""Weights of the best validation."""

RECIPE = "recipe.toml"
DATA = "data.json"
ENVIRONMENT = "environment.json"


def check_vacant(run: Path) -> None:
    """See that a run may begin in a folder: there is none, it is empty, or a run had begun there.

    Raises:
        OutputError: it holds files that are not of a run, or is a file itself.
    """
    if not run.exists():
        return
    if not run.is_dir():
        raise OutputError(f"{run}: is a file: name a folder for the run")
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if names and RECIPE not in names:
        raise OutputError(f"{run}: holds files that are not of a run, such as {names[0]}: name another folder")


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep other processes from training in the same folder, for as long as the context lasts.

    Raises:
        OutputError: another one does already.
    """
    if fcntl is None:
        yield  # a system without such locks
        return
    place = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{run}: another process trains in this folder: wait for it or stop it") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(place)


def begin(run: Path, recipe: Recipe, data: Json) -> None:
    """Make the folder of a run and write down what it will do, on what and where.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    make_folder(run, "name another run folder")
    write_whole(run / RECIPE, recipe.to_toml().encode())
    _write_json(run / DATA, data)
    _write_json(run / ENVIRONMENT, environment())


def as_begun(run: Path, sets: Sets, choice: Choice) -> Sets:
    """Leave out what a run that goes on has left out before, and see that it has the photos it began with.

    Raises:
        DataError: the photos are others, or the run's own files are damaged.
    """
    known = read_data(run)
    sets = sets.without(known["left_out"]) if known["left_out"] else sets
    facts = sets.to_json(choice)
    changes = [
        text
        for name in ("train", "validation")
        for text in differences({name: known.get(name)}, {name: facts.get(name)})
    ]
    if changes:
        raise DataError(
            f"{run}: the photos are not those that the run began with ({'; '.join(changes)}): restore them, or begin "
            f"another run from its weights, with --from {run / WEIGHTS}"
        )
    return sets


def read_data(run: Path) -> Json:
    """Read what a run is trained on.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content: Json = json.loads((run / DATA).read_text(encoding="utf-8"))
        return {"left_out": [], **content}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{run / DATA}: cannot be read ({error}): is {run} the folder of a run?") from error


def read_recipe(run: Path) -> Recipe:
    """Read the recipe of a run.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    if not (run / RECIPE).exists():
        raise ConfigError(f"{run}: is not the folder of a run: it has no {RECIPE}")
    return Recipe.from_dict(read_file(run / RECIPE))


def _write_json(path: Path, content: Json) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
