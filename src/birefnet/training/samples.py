"""Predictions of a run's last validation, kept small beside the run, and which of them are shown; needs no torch."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet._atomic import make_folder, write_whole
from birefnet.errors import DataError
from birefnet.training.log import is_lower_better

VALIDATION = "validation"

Pixels = NDArray[np.uint8]

_INDEX = "samples.json"
_THUMB = 320


@dataclass(frozen=True)
class Sample:
    """A photo of the validation, with what the network made of it.

    Attributes:
        name: what photo it is.
        photo: uint8 (H, W, 3), RGB.
        truth: uint8 (H, W), 255 for foreground.
        prediction: uint8 (H, W), of the same size.
        scores: its own measures, by name.
        valid: bool (H, W), where the truth is known; None for everywhere.
    """

    name: str
    photo: Pixels
    truth: Pixels
    prediction: Pixels
    scores: Mapping[str, float] = field(default_factory=dict)
    valid: NDArray[np.bool_] | None = None


def ranked(samples: Sequence[Sample], measure: str, count: int = 12) -> list[Sample]:
    """Choose a third each of the best, those in the middle and the worst by a measure, the best first.

    Where there are no more than `count`, all are given, in that order. Those without the measure come last. It becomes
    the first of each sample's scores, as a contact sheet shows only as many as there is room for.
    """

    def badness(sample: Sample) -> float:
        value = sample.scores.get(measure, math.nan)
        if not math.isfinite(value):
            return math.inf
        return value if is_lower_better(measure) else -value

    first = [
        replace(each, scores=dict(sorted(each.scores.items(), key=lambda it: it[0] != measure))) for each in samples
    ]
    order = sorted(first, key=badness)
    if len(order) <= count:
        return order
    third = count // 3
    middle = (len(order) - (count - 2 * third)) // 2
    return [*order[:third], *order[middle : middle + count - 2 * third], *order[len(order) - third :]]


def save_samples(run: Path, samples: Sequence[Sample], step: int, title: str = "") -> None:
    """Keep small copies of a validation's samples in the folder validation/ of a run, in place of the last one's.

    For each sample there are three files to look at, named after the step, the sample's place and its name:
    …photo.jpg, …truth.png (with alpha 0 where the truth is not known) and …prediction.png; samples.json lists them. It
    is replaced last, at once, so that what it lists is always whole and of one validation.

    Args:
        run: folder of the run.
        samples: in the order in which they are to be shown, such as `ranked` gives them.
        step: the step of the validation.
        title: what to write above them, such as the order they are in.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = run / VALIDATION
    make_folder(folder)
    rows, written = [], {_INDEX}
    for place, sample in enumerate(samples):
        safe = re.sub(r"[^\w.-]+", "_", sample.name, flags=re.ASCII)[-60:]
        stem = f"{step:07}-{place:02}-{safe}"
        files = {}
        for kind, image in _thumbs(sample).items():
            buffer = io.BytesIO()
            image.save(buffer, *(("JPEG",) if kind == "photo" else ("PNG",)), quality=90)
            files[kind] = f"{stem}-{kind}.{'jpg' if kind == 'photo' else 'png'}"
            write_whole(folder / files[kind], buffer.getvalue())
        written |= set(files.values())
        scores = {name: float(value) if math.isfinite(value) else None for name, value in sample.scores.items()}
        rows.append({"name": sample.name, **files, "scores": scores})
    write_whole(
        folder / _INDEX, (json.dumps({"step": step, "title": title, "samples": rows}, indent=1) + "\n").encode()
    )
    for path in folder.iterdir():
        if path.name not in written:
            path.unlink(missing_ok=True)


def load_samples(run: Path) -> tuple[str, list[Sample]]:
    """Read the samples of a run's last validation, and what to write above them; none where there was no validation.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = run / VALIDATION
    samples = []
    try:
        content = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        title = f"validation at step {content['step']:,}" + (f": {content['title']}" if content["title"] else "")
        for row in content["samples"]:
            images = [Image.open(folder / row[kind]) for kind in ("photo", "truth", "prediction")]
            photo, truth, prediction = (np.array(image) for image in images)
            valid = None if truth.ndim == 2 else truth[..., 1] > 127
            truth = truth if truth.ndim == 2 else truth[..., 0]
            scores = {name: math.nan if value is None else value for name, value in row["scores"].items()}
            samples.append(Sample(row["name"], photo, truth, prediction, scores, valid))
    except FileNotFoundError as error:
        if not (folder / _INDEX).exists():
            return "", []
        raise DataError(f"{error.filename}: is missing: it is made anew at the next validation") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: is damaged ({error}): remove it, it is made anew at the next validation") from error
    return title, samples


def _thumbs(sample: Sample) -> dict[str, Image.Image]:
    height, width = sample.truth.shape
    factor = min(1.0, _THUMB / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    truth = Image.fromarray(sample.truth).resize(size, Image.Resampling.BOX)
    if sample.valid is not None:
        # What is unknown must not be mixed into what is known: such a pixel is known where it is so altogether.
        valid = Image.fromarray(sample.valid.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        truth = Image.merge("LA", (truth, valid.point(lambda level: 255 if level == 255 else 0)))
    return {
        "photo": Image.fromarray(sample.photo).resize(size, Image.Resampling.LANCZOS),
        "truth": truth,
        "prediction": Image.fromarray(sample.prediction).resize(size, Image.Resampling.BOX),
    }
