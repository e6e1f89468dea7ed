"""The options that `evaluate` and `evaluate checkpoints` share, and what they ask for."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from birefnet._processors import processors
from birefnet.cli.engine_options import EngineOptions, engine_options
from birefnet.evaluation.cache import Cache, default_folder
from birefnet.evaluation.model import HowToRun
from birefnet.evaluation.score import VALUES, Settings
from birefnet.evaluation.sets import (
    Entry,
    TruthSet,
    by_source,
    data_sets,
)
from birefnet.evaluation.tables import (
    PAPER_ORDER,
    PRESETS,
    choose_measures,
    in_order,
)
from birefnet.metrics import PYSODMETRICS, REFERENCE

HELP = {"help_option_names": ["-h", "--help"]}
TASKS = ("general", *PAPER_ORDER)
CONVENTIONS = {"reference": REFERENCE, "pysodmetrics": PYSODMETRICS}
PATH = click.Path(path_type=Path)

_CACHE = "$XDG_CACHE_HOME/birefnet/evaluation, else ~/.cache/birefnet/evaluation"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def running(command: _Command) -> _Command:
    """Add the options that say how a model is run, and how scores are computed and kept."""
    options = (
        click.option(
            "--measures",
            metavar="NAMES",
            help=f"What to measure: all, {', '.join(PRESETS)}, or names parted by commas ({', '.join(VALUES)}).  "
            "[default: those of the task's papers]",
        ),
        click.option(
            "--task",
            type=click.Choice(TASKS),
            help="Whose papers' columns to show, in their order.  [default: what the folder ROOT/TASK/SET says, "
            "else general]",
        ),
        click.option(
            "--conventions",
            type=click.Choice(list(CONVENTIONS)),
            default="reference",
            show_default=True,
            help="Whose program to agree with where they differ.",
        ),
        click.option(
            "--truth-threshold",
            type=click.IntRange(0, 254),
            metavar="LEVEL",
            help=f"Levels of the truth above it are foreground.  [default: {REFERENCE.truth_above}]",
        ),
        click.option(
            "--resize-predictions",
            is_flag=True,
            help="Stretch predictions to the size of their truth, bilinearly, where it differs; otherwise that is an "
            "error.",
        ),
        click.option(
            "--by-source", is_flag=True, help='Score the parts of a set apart, too: names up to the first "-".'
        ),
        click.option("--allow-missing", is_flag=True, help="Exit with 0 although predictions or photos are missing."),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=processors,
            metavar="N",
            help="Processes that score.  [default: one for each processor]",
        ),
        click.option("--cache", type=PATH, metavar="DIR", help=f"Where scores are kept.  [default: {_CACHE}]"),
        click.option("--no-cache", is_flag=True, help="Compute everything anew and keep nothing."),
        click.option("-o", "--output", metavar="FILE", help="Write everything as JSON, with each image's values."),
    )
    for option in reversed(options):
        command = option(command)
    return engine_options(command)


@dataclass(frozen=True)
class Common(EngineOptions):
    """The options that `evaluate` and `evaluate checkpoints` share."""

    measures: str | None
    task: str | None
    conventions: str
    truth_threshold: int | None
    resize_predictions: bool
    by_source: bool
    allow_missing: bool
    jobs: int
    cache: Path | None
    no_cache: bool
    output: str | None

    @property
    def how(self) -> HowToRun:
        """How a model is to be run."""
        return HowToRun(**{field.name: getattr(self, field.name) for field in fields(HowToRun)})

    @property
    def kept(self) -> Cache:
        """Where scores are kept."""
        return Cache(None if self.no_cache else self.cache or default_folder())

    def task_of(self, sets: Iterable[TruthSet]) -> str | None:
        """The task whose columns are shown: the one asked for, else that of all sets."""
        tasks = {data.task for data in sets}
        return self.task or (tasks.pop() if len(tasks) == 1 else None)

    def settings(self, sets: Iterable[TruthSet], *, also: Sequence[str] = ()) -> Settings:
        """What is measured, in the order of the task's columns.

        Raises:
            ConfigError: an unknown measure.
        """
        task = self.task_of(sets)
        chosen = choose_measures(self.measures or (task if task in PRESETS else "dis"), VALUES)
        conventions = CONVENTIONS[self.conventions]
        if self.truth_threshold is not None:
            conventions = replace(conventions, truth_above=self.truth_threshold)
        measures = in_order(dict.fromkeys([*chosen, *also]), task)
        return Settings(tuple(measures), conventions, self.resize_predictions)

    def parted(self, entry: Entry) -> list[Entry]:
        """An entry under the task asked for, with its parts by source where these are wanted."""
        entry = entry if self.task is None else replace(entry, task=self.task)
        return by_source(entry) if self.by_source else [entry]


def part(text: str, option: str) -> tuple[str, Path]:
    """Part NAME=PATH.

    Raises:
        UsageError: there is no name, or no path.
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise click.UsageError(f"{option} takes NAME=PATH, not {text!r}")
    return name, Path(path)


def read_data(text: str) -> list[TruthSet]:
    """Find the sets that --data names: a folder, or NAME=FOLDER for a single set.

    Raises:
        DataError: there is none.
        UsageError: one name for several sets.
    """
    name, separator, path = text.partition("=")
    if Path(text).exists() or not separator:
        return data_sets(Path(text))
    found = data_sets(Path(path))
    if len(found) > 1:
        raise click.UsageError(f"--data {text}: {len(found)} sets cannot all be called {name}; name each of them")
    return [replace(found[0], name=name)]


def refuse_twins(names: Sequence[str], what: str, remedy: str) -> None:
    """Refuse names that stand for several things.

    Raises:
        UsageError: one is there twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise click.UsageError(f"several {what} are called {twice[0]}; name them apart with {remedy}")
