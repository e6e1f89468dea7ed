"""Scoring one prediction against its truth, from file to values: what runs in each process."""

import base64
import multiprocessing
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from birefnet.errors import ImageError
from birefnet.evaluation.cache import Cache, file_digest, key_of
from birefnet.imaging.masks import MapFile, Note, read_map, resize_map, truth_notes
from birefnet.metrics import MEASURES, Conventions, Scorer
from birefnet.metrics.pair import Curve

VALUES = tuple(name for measure in MEASURES.values() for name in measure.names)
"""Names of all values that can be measured."""

SKELETONS = "skeletons"
"""Folder of the cache for the truths' skeletons, which one measure takes most of its time for."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        measures: names of values, in the order of a table's columns.
        conventions: how prediction and truth are prepared.
        resize: stretch a prediction to the size of its truth; otherwise another size is an error.
    """

    measures: tuple[str, ...]
    conventions: Conventions = Conventions()  # noqa: RUF009 - frozen
    resize: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the measures that give the values: several values come from one."""
        return tuple(name for name, measure in MEASURES.items() if not set(self.measures).isdisjoint(measure.names))

    def to_json(self) -> dict[str, Any]:
        """What values hang on as JSON values, by which the cache goes."""
        return {
            "measures": self.groups,
            "conventions": asdict(self.conventions),
            "resize": self.resize,
        }


@dataclass(frozen=True, eq=False)
class Scored:
    """What was found about one pair.

    Attributes:
        size: (height, width) of the truth.
        object_share: how much of the truth is foreground.
        values: measure -> value.
        curves: name -> (256,) over the thresholds 255, 254, ..., 0.
        truth_notes: how the truth was read, and what is odd about it.
        prediction_notes: how the prediction was read.
    """

    size: tuple[int, int]
    object_share: float
    values: dict[str, float]
    curves: dict[str, Curve]
    truth_notes: tuple[Note, ...] = ()
    prediction_notes: tuple[Note, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, exactly."""
        return {
            "size": self.size,
            "object_share": self.object_share,
            "values": self.values,
            "curves": {name: _pack(curve) for name, curve in self.curves.items()},
            "truth_notes": self.truth_notes,
            "prediction_notes": self.prediction_notes,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Scored":
        """The inverse of `to_json`."""
        height, width = values["size"]
        return cls(
            (height, width),
            values["object_share"],
            values["values"],
            {name: _unpack(text) for name, text in values["curves"].items()},
            tuple(Note(*note) for note in values["truth_notes"]),
            tuple(Note(*note) for note in values["prediction_notes"]),
        )


@dataclass(frozen=True)
class Failure:
    """Why a pair could not be scored: the kind of the problem, the file and the matter."""

    kind: str
    file: str
    detail: str


def score_files(truth: Path, prediction: Path, settings: Settings, skeletons: Path | None = None) -> Scored | Failure:
    """Read two files and measure how well one predicts the other.

    Args:
        truth: the truth mask.
        prediction: the predicted map.
        settings: what is measured.
        skeletons: folder where skeletons of truths are kept.
    """
    try:
        true = read_map(truth)
    except ImageError as error:
        return Failure("unreadable-truth", str(truth), _without(error, truth))
    try:
        predicted = read_map(prediction)
    except ImageError as error:
        return Failure("unreadable-prediction", str(prediction), _without(error, prediction))
    levels, size, notes = predicted.levels, (true.levels.shape[0], true.levels.shape[1]), list(predicted.notes)
    if levels.shape != size:
        sizes = f"{levels.shape[0]} x {levels.shape[1]}, and its truth is {size[0]} x {size[1]}"
        if not settings.resize:
            return Failure("size-differs", str(prediction), f"{sizes} (height x width)")
        levels = resize_map(levels, size)
        notes.append(Note("resized", f"{sizes}: resized"))
    return _measure(MapFile(levels, tuple(notes)), true, settings, skeletons)


def _measure(predicted: MapFile, true: MapFile, settings: Settings, skeletons: Path | None) -> Scored:
    scorer = Scorer(settings.groups, settings.conventions, cache=skeletons)
    values = scorer.update(predicted.levels, true.levels)
    odd = truth_notes(true.levels, settings.conventions.truth_above)
    height, width = true.levels.shape
    share = float((true.levels > settings.conventions.truth_above).mean())
    return Scored((height, width), share, values, scorer.curves(), (*true.notes, *odd), predicted.notes)


def score_and_keep(
    truth: Path, prediction: Path, settings: Settings, folder: Path | None, key: str | None
) -> Scored | Failure:
    """Score two files and keep what was found in the cache, so that nothing is lost whatever happens after.

    Args:
        truth: the truth mask.
        prediction: the predicted map.
        settings: what is measured.
        folder: of the cache, None for none.
        key: under which it is kept; None keeps nothing.
    """
    skeletons = None if folder is None else folder / SKELETONS
    try:
        if skeletons is not None:
            skeletons.mkdir(parents=True, exist_ok=True)
        scored = score_files(truth, prediction, settings, skeletons)
        # Files may have changed since the key was made of them; what was read is then worth no more than this once.
        if isinstance(scored, Scored) and key is not None and key == score_key(truth, prediction, settings):
            Cache(folder).put(key, scored.to_json())
    except OSError as error:  # of which OutputError is one
        return Failure("cache", str(folder), f"{error}; name another folder with --cache, or pass --no-cache")
    return scored


def score_key(truth: Path, prediction: Path, settings: Settings) -> str:
    """Name in the cache of the scores of two files as they are now.

    Raises:
        OSError: a file cannot be read.
    """
    return key_of("scores", file_digest(truth), file_digest(prediction), settings.to_json())


def start_process() -> None:
    """Prepare a process for scoring: one thread, since the processes share the cores, and an end with its parent."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent that is killed cannot tell its processes, and they would wait for work forever.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def _without(error: ImageError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _pack(curve: Curve) -> str:
    return base64.b64encode(zlib.compress(np.asarray(curve, "<f8").tobytes(), 1)).decode()


def _unpack(text: str) -> Curve:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f8").astype(np.float64)
