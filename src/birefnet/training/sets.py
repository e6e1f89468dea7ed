"""What a run is trained and validated on: found, parted and checked before the first step."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from birefnet.data.cache import count_portable
from birefnet.data.check import check_pairs, sort_problems
from birefnet.data.pairs import Pair, Problem, discover
from birefnet.data.split import split
from birefnet.data.structures import Drawn
from birefnet.errors import ConfigError, DataError
from birefnet.training.recipe import Json

Source = tuple[Pair, ...] | Drawn | Path
"""Photos as pairs of files, drawn ones, or the .npz file of a portable pack."""

Work = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows the progress of something long: called with a title and the number of parts, gives what to call after each."""

_LISTED = 200
_LEAST_DRAWN = 16


@dataclass(frozen=True)
class Choice:
    """What the user asks for.

    Attributes:
        data: a data set, as for `birefnet.data.pairs.discover`; "drawn:2000" for drawn photos, or a .npz pack.
        masks: folder of the masks, where `data` is that of the photos.
        val: the same to validate on; None to hold photos of `data` out.
        share: of the photos to hold out where `val` is None; 0 for no validation.
        groups: pairs that stay together when they are parted, see `birefnet.data.split`.
        seed: of the split.
        skip_bad: leave out what cannot be used instead of refusing to start.
    """

    data: str
    masks: Path | None = None
    val: str | None = None
    share: float = 0.1
    groups: str | None = None
    seed: int = 0
    skip_bad: bool = False

    @classmethod
    def from_json(cls, asked: Json) -> "Choice":
        """Read what `Sets.to_json` has written under "asked"."""
        masks = asked.get("masks")
        return cls(**{**asked, "masks": None if masks is None else Path(masks)})


@dataclass(frozen=True)
class Sets:
    """What was found.

    Attributes:
        train: what to train on.
        validation: what to validate on, None for nothing.
        problems: files that belong to no pair.
        notes: what was chosen where there was a choice, a line each.
        left_out: files that cannot be used and were left out.
    """

    train: Source
    validation: Source | None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def without(self, files: Iterable[str]) -> "Sets":
        """The same, but for pairs that one of these files belongs to.

        Raises:
            DataError: nothing is left to train or to validate on.
        """
        bad = frozenset(files)
        train, validation = _without(self.train, bad), _without(self.validation, bad)
        if train == () or validation == ():
            raise DataError(f"nothing is left to {'train' if train == () else 'validate'} on: mend the photos first")
        assert train is not None
        return replace(self, train=train, validation=validation, problems=(), left_out=tuple(sorted(bad)))

    def to_json(self, choice: Choice) -> Json:
        """What a run remembers of its data: what was asked for, and enough to tell whether it is still the same."""
        asked = vars(choice) | {name: _absolute(getattr(choice, name)) for name in ("data", "masks", "val")}
        return {
            "asked": asked,
            "train": _facts(self.train),
            "validation": None if self.validation is None else _facts(self.validation),
            "notes": list(self.notes),
            "left_out": [_absolute(file) for file in self.left_out],
        }


def find_sets(choice: Choice) -> Sets:
    """Find the photos and part them.

    Raises:
        DataError: there is no such data set, or it is too small to be parted.
        ConfigError: the share or the pattern is impossible.
    """
    train, problems, notes = _find(choice.data, choice.masks)
    if choice.val is not None:
        validation, more, others = _find(choice.val, None)
        return Sets(train, validation, (*problems, *more), (*notes, *others))
    if choice.share == 0:
        return Sets(train, None, problems, notes)
    if isinstance(train, Path):
        raise ConfigError(f"{train}: a pack is not parted: name another one with --val, or pass --val-share 0")
    if isinstance(train, Drawn):
        # Another seed gives other drawings: nothing need be held out of the first.
        held_out: Source = Drawn(max(_LEAST_DRAWN, round(len(train) * choice.share)), seed=train.seed + 1)
        return Sets(train, held_out, problems, notes)
    rest, held = split(train, choice.share, choice.seed, choice.groups)
    return Sets(tuple(rest), tuple(held), problems, notes)


def check_sets(sets: Sets, choice: Choice, work: Work) -> Sets:
    """Look at every file, before the first step, and refuse what cannot be trained on, all of it at once.

    Args:
        sets: what to look at.
        choice: whether to leave out what cannot be used.
        work: shows the progress.

    Returns:
        The sets, without what was left out, and with a note on that.

    Raises:
        DataError: something cannot be used; the message lists every file with what is the matter.
    """
    train, validation = (source if isinstance(source, tuple) else () for source in (sets.train, sets.validation))
    problems = list(sets.problems)
    if train or validation:
        with work("look at the photos", len(train) + len(validation)) as advance:
            if choice.val is None:  # of one set: photos that are alike are for the user to know, not to be refused
                problems += check_pairs((*train, *validation), advance=advance)
            else:
                problems += check_pairs(train, validation, advance=advance)
    problems = sort_problems(problems)
    stopping, odd = ([problem for problem in problems if problem.stops == stops] for stops in (True, False))
    notes = _warnings(odd)
    sets = replace(sets, notes=(*sets.notes, *notes), problems=())
    if not stopping:
        return sets
    if not choice.skip_bad:
        raise DataError(
            f"{len(stopping)} file{'s' * (len(stopping) > 1)} cannot be trained on: mend or remove them, or pass "
            "--skip-bad to leave them out\n" + _listed(stopping) + (f"\nworth a look:\n{_listed(odd)}" if odd else "")
        )
    left_out = f"left out, {len(stopping)} files:\n" + _listed(stopping)
    sets = sets.without(problem.file for problem in stopping)
    return replace(sets, notes=(*sets.notes, left_out))


def count(source: Source) -> int:
    """Number of photos."""
    return count_portable(source) if isinstance(source, Path) else len(source)


def _find(spec: str, masks: Path | None) -> tuple[Source, tuple[Problem, ...], tuple[str, ...]]:
    drawn = Drawn.from_spec(spec)
    if drawn is not None:
        return drawn, (), ()
    if Path(spec).suffix == ".npz":
        return Path(spec), (), ()
    found = discover(spec, masks)
    if not found.pairs:
        raise DataError(f"{spec}: no photo has a mask\n" + _listed(list(found.problems)))
    return found.pairs, found.problems, found.notes


def _absolute(spec: str | Path | None) -> str | None:
    """Make a path that is found from any folder; drawn photos are no path."""
    if spec is None or (isinstance(spec, str) and Drawn.from_spec(spec) is not None):
        return spec if spec is None else str(spec)
    return str(Path(spec).absolute())


def _facts(source: Source) -> Json:
    if isinstance(source, Drawn):
        return {"drawn": len(source), "seed": source.seed}
    if isinstance(source, Path):
        return {"pack": source.name, "photos": count(source), "digest": _digest([f"{source.stat().st_size}"])}
    names = [pair.name for pair in source]
    sets: dict[str, int] = {}
    for pair in source:
        sets[pair.data] = sets.get(pair.data, 0) + 1
    sizes = [f"{pair.name} {pair.image.stat().st_size} {pair.mask.stat().st_size}" for pair in source]
    return {"photos": len(names), "sets": sets, "digest": _digest(sizes)}


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def _without(source: Source | None, bad: frozenset[str]) -> Source | None:
    if not isinstance(source, tuple):
        return source
    bad = frozenset(str(_absolute(file)) for file in bad)
    return tuple(pair for pair in source if not {_absolute(pair.image), _absolute(pair.mask)} & bad)


def _listed(problems: list[Problem]) -> str:
    lines = [f"  {problem.file}: {problem.detail}" for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f"  and {len(problems) - _LISTED} more: see birefnet data check")
    return "\n".join(lines)


def _warnings(problems: list[Problem]) -> tuple[str, ...]:
    if not problems:
        return ()
    kinds: dict[str, int] = {}
    for problem in problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    counted = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return (f"worth a look ({counted}): see birefnet data check",)
