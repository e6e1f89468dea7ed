"""An evaluation from beginning to end: look up what is known, predict and score the rest, sum up."""

import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import birefnet
from birefnet.errors import BiRefNetError, DataError, OutputError
from birefnet.evaluation.cache import Cache, file_digest, key_of
from birefnet.evaluation.model import Model
from birefnet.evaluation.score import Failure, Scored, Settings, score_and_keep, start_process
from birefnet.evaluation.sets import Entry, Item, Problem
from birefnet.imaging.masks import Note
from birefnet.metrics import MEASURES
from birefnet.metrics.pair import Curve

# Files looked up ahead of what is scored.
_LOOKERS = 4
_AHEAD = 32
# Pairs handed to each scoring process ahead: enough that none waits.
_QUEUED = 3

MISSING = frozenset(["missing-prediction", "missing-image"])
"""Kinds of problems that leave an image out because a file is not there."""

FAILED = frozenset(["unreadable-truth", "unreadable-prediction", "unreadable-image", "size-differs"])
"""Kinds of problems that leave an image out because a file cannot be used."""


@dataclass(frozen=True)
class _Unit:
    """What is scored once, however many rows it counts in."""

    item: Item
    prediction: Path
    model: Model | None


@dataclass(frozen=True)
class _Look:
    """What is known of a unit before anything is computed.

    Attributes:
        scored: its scores, if they are known.
        key: under which they are to be kept; None where a file cannot be read, or is still to be predicted.
        truth: digest of the truth, None where it cannot be read.
        foretold: key under which the digest of the prediction is kept, for a model.
        predicted: whether the prediction is there as a file.
    """

    scored: Scored | None = None
    key: str | None = None
    truth: str | None = None
    foretold: str | None = None
    predicted: bool = True


def evaluate_entries(
    entries: Sequence[tuple[Entry, Model | None]],
    settings: Settings,
    *,
    jobs: int = 1,
    cache: Cache | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score methods on sets and sum up.

    While one photo is predicted, others are scored. What is scored is kept in the cache at once, so that a run that
    was stopped goes on where it was. The results do not depend on the number of processes, to the last bit.

    Args:
        entries: methods on sets, each with the model that makes the predictions or None where they are files.
        settings: what is measured.
        jobs: processes that score; with 1 it is a thread of this one.
        cache: of earlier scores.
        advance: called after each image, from the calling thread.

    Returns:
        The content of a results file; `docs/metrics.md` lists the fields.

    Raises:
        BiRefNetError: the model does not load, or results cannot be written.
    """
    units: dict[_Unit, None] = {}
    for entry, model in entries:
        units.update((_unit(entry, item, model), None) for item in entry.items)
    _spare_inputs(units)
    outcomes: dict[_Unit, Scored | Failure] = {}
    for unit, outcome in _outcomes(list(units), settings, jobs, cache or Cache(None)):
        outcomes[unit] = outcome
        advance()
    return {
        "birefnet": birefnet.__version__,
        "conventions": conventions_of(settings),
        "measures": list(settings.measures),
        "rows": [
            _row(entry, [(item, outcomes[_unit(entry, item, model)]) for item in entry.items], settings, model)
            for entry, model in entries
        ],
    }


def _spare_inputs(units: Iterable[_Unit]) -> None:
    """Refuse predictions that would be written over photos or masks.

    Raises:
        OutputError: one would.
    """
    targets = {unit.prediction.resolve(): unit for unit in units if unit.model is not None}
    for unit in units:
        for path in (unit.item.truth, unit.item.image):
            if targets and path is not None and path.resolve() in targets:
                raise OutputError(f"{path}: would be replaced by a prediction; keep the masks in another folder")


def count_units(entries: Sequence[tuple[Entry, Model | None]]) -> int:
    """Count the images that `evaluate_entries` will look at: one that is in several rows counts once."""
    return len({_unit(entry, item, model) for entry, model in entries for item in entry.items})


def conventions_of(settings: Settings) -> dict[str, Any]:
    """Everything beside the files that values hang on, as JSON values."""
    return {**asdict(settings.conventions), "resize_predictions": settings.resize}


def _unit(entry: Entry, item: Item, model: Model | None) -> _Unit:
    if model is None:
        assert item.prediction is not None
        return _Unit(item, item.prediction, None)
    # A part of a set is predicted with the set.
    return _Unit(item, model.masks / (entry.part_of or entry.data) / f"{item.name}.png", model)


# --- scoring ---


def _outcomes(
    units: Sequence[_Unit], settings: Settings, jobs: int, cache: Cache
) -> Iterator[tuple[_Unit, Scored | Failure]]:
    """Give what was found about each unit, in the order in which it is found."""
    jobs = max(1, min(jobs, len(units)))
    left = iter(units)
    looking: deque[tuple[_Unit, Future[_Look]]] = deque()
    scoring: deque[tuple[_Unit, Future[Scored | Failure]]] = deque()
    with _executor(jobs) as scorers, _stopping(ThreadPoolExecutor(_LOOKERS)) as lookers:

        def submit(unit: _Unit, key: str | None) -> None:
            work = (unit.item.truth, unit.prediction, settings, cache.folder, key)
            with _deaf():
                scoring.append((unit, scorers.submit(score_and_keep, *work)))

        while True:
            while len(looking) < _AHEAD and (unit := next(left, None)) is not None:
                looking.append((unit, lookers.submit(_look, unit, settings, cache)))
            if not looking:
                break
            unit, look = looking[0][0], looking[0][1].result()
            looking.popleft()
            if look.scored is not None:
                yield unit, look.scored
            elif unit.model is None or look.predicted:
                submit(unit, look.key)
            else:
                outcome = _predict(unit, look, settings, cache)
                if isinstance(outcome, Scored | Failure):
                    yield unit, outcome
                else:
                    submit(unit, outcome)
            while scoring and (len(scoring) > jobs * _QUEUED or scoring[0][1].done()):
                yield _finished(*scoring.popleft())
        while scoring:
            yield _finished(*scoring.popleft())


def _finished(unit: _Unit, future: Future[Scored | Failure]) -> tuple[_Unit, Scored | Failure]:
    try:
        outcome = future.result()
    except BrokenProcessPool as error:
        raise DataError("a scoring process was killed, perhaps for lack of memory: pass a lower --jobs") from error
    if isinstance(outcome, Failure) and outcome.kind == "cache":
        raise OutputError(outcome.detail)
    return unit, outcome


def _look(unit: _Unit, settings: Settings, cache: Cache) -> _Look:
    """Find out what the cache knows of a unit."""
    if cache.folder is None:
        return _Look(predicted=unit.model is None)
    try:
        truth = file_digest(unit.item.truth)
        if unit.model is None:
            return _known(truth, file_digest(unit.prediction), settings, cache)
        assert unit.item.image is not None
        foretold = key_of("prediction", unit.model.identity, file_digest(unit.item.image))
    except OSError:  # which scoring will report
        return _Look(predicted=unit.model is None)
    digest = (cache.get(foretold) or {}).get("digest")
    if not isinstance(digest, str) or (unit.model.keep and _digest_or_none(unit.prediction) != digest):
        return _Look(truth=truth, foretold=foretold, predicted=False)
    look = _known(truth, digest, settings, cache)
    if look.scored is None and _digest_or_none(unit.prediction) != digest:
        return _Look(truth=truth, foretold=foretold, predicted=False)
    return look


def _known(truth: str, prediction: str, settings: Settings, cache: Cache) -> _Look:
    key = key_of("scores", truth, prediction, settings.to_json())
    kept = cache.get(key)
    try:
        return _Look(None if kept is None else Scored.from_json(kept), key, truth)
    except (KeyError, TypeError, ValueError, AttributeError):  # kept by something else
        return _Look(None, key, truth)


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _predict(unit: _Unit, look: _Look, settings: Settings, cache: Cache) -> Scored | Failure | str | None:
    """Predict a unit's photo: its scores where they are known all the same, otherwise the key to keep them under.

    Raises:
        BiRefNetError: the model does not load, or the mask cannot be written.
    """
    assert unit.model is not None
    assert unit.item.image is not None
    model = unit.model
    model.ready()
    try:
        model.predict(unit.item.image, unit.prediction)
    except OutputError:
        raise
    except BiRefNetError as error:
        return Failure("unreadable-image", str(unit.item.image), str(error).removeprefix(f"{unit.item.image}: "))
    if look.truth is None or look.foretold is None:
        return None
    digest = file_digest(unit.prediction)
    cache.put(look.foretold, {"digest": digest})
    known = _known(look.truth, digest, settings, cache)
    return known.scored if known.scored is not None else known.key


@contextmanager
def _executor(jobs: int) -> Iterator[Executor]:
    if jobs == 1:
        with _stopping(ThreadPoolExecutor(1)) as thread:
            yield thread
        return
    # Spawned, because a forked copy of a process with threads may hang.
    with _stopping(ProcessPoolExecutor(jobs, get_context("spawn"), start_process)) as processes:
        yield processes


@contextmanager
def _stopping(executor: Executor) -> Iterator[Executor]:
    """End an executor at once, but for what it is in the middle of, where its user fails or is interrupted."""
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: their parent decides what becomes of them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- summing up ---


def _row(
    entry: Entry, outcomes: Sequence[tuple[Item, Scored | Failure]], settings: Settings, model: Model | None
) -> dict[str, Any]:
    """Sum up a method on a set, always in the order of its items, so that the sums are the same in every run."""
    problems = list(entry.problems)
    images = []
    scores = []
    for item, outcome in outcomes:
        prediction = item.prediction or _unit(entry, item, model).prediction
        if isinstance(outcome, Failure):
            problems.append(Problem(outcome.kind, outcome.file, outcome.detail))
            continue
        scores.append(outcome)
        # A matte's truth is soft because it is meant to be.
        true_notes = [n for n in outcome.truth_notes if n.kind != "soft-truth" or entry.task != "matting"]
        problems += _problems(true_notes, item.truth, "truth")
        problems += _problems(outcome.prediction_notes, prediction, "prediction")
        images.append(
            {
                "name": item.name,
                "image": None if item.image is None else str(item.image),
                "truth": str(item.truth),
                "prediction": str(prediction),
                "size": list(outcome.size),
                "object": outcome.object_share,
                "values": {name: _finite(outcome.values[name]) for name in settings.measures},
                "notes": [f"truth: {note.detail}" for note in true_notes]
                + [f"prediction: {note.detail}" for note in outcome.prediction_notes],
            }
        )
    summary, curves = summarise(scores, settings)
    return {
        "method": entry.method,
        "set": entry.data,
        "task": entry.task,
        "count": len(images),
        "summary": summary,
        "curves": curves,
        "images": images,
        "problems": [asdict(problem) for problem in problems],
    }


def summarise(scores: Sequence[Scored], settings: Settings) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """Average the values and curves of some images, with the same additions in the same order as `Scorer` makes.

    Returns:
        Measure -> mean, for maxima that of the mean curve, None where there is none; and the mean curves.
    """
    if not scores:
        return dict.fromkeys(settings.measures), {}
    best = {name: curve for measure in MEASURES.values() for name, curve in measure.best.items()}
    curves: dict[str, Curve] = {name: sum(s.curves[name] for s in scores) for name in scores[0].curves}  # type: ignore[misc]
    summary: dict[str, float | None] = {}
    for name in settings.measures:
        if name in best:
            mean = float(curves[best[name]].max()) / len(scores)
        else:
            mean = sum((s.values[name] for s in scores), 0.0) / len(scores)
        summary[name] = _finite(mean)
    return summary, {name: (curve / len(scores)).tolist() for name, curve in curves.items()}


def _problems(notes: Iterable[Note], path: Path, what: str) -> list[Problem]:
    return [Problem(note.kind, str(path), f"{what}: {note.detail}") for note in notes]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
