"""The pictures of a report: photo, truth, predictions and where these err, small enough to look through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet.errors import ImageError
from birefnet.imaging.io import RgbImage, read_photo
from birefnet.imaging.masks import GreyMap, read_map

SMALL = 480
"""Longest side of the pictures that lie side by side, in pixels."""

FALSE_POSITIVE = (213, 94, 0)
"""Vermilion: found although it is background. It and the other are told apart by the colour-blind and in grey.

Okabe and Ito, Color Universal Design (2008).
"""

FALSE_NEGATIVE = (86, 180, 233)
"""Sky blue: missed although it is foreground."""

Mask = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""


@dataclass(frozen=True)
class Case:
    """What the pictures of one image are made from.

    Attributes:
        image: path of the photo, if there is one.
        truth: path of the truth, if there is one.
        predictions: path of each method's prediction, None where it made none.
    """

    image: str | None
    truth: str | None
    predictions: tuple[str | None, ...]


@dataclass
class Made:
    """What became of a case.

    Attributes:
        size: (height, width) of the small pictures.
        views: which pictures there are: "photo", "truth", "p0", "e0" (prediction and errors of method 0), "p1" ...
        notes: why others are missing or were changed, a line each.
    """

    size: tuple[int, int] = (0, 0)
    views: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def file_name(number: int, view: str, *, large: bool = False) -> str:
    """What a picture's file is called; the page derives the same names."""
    suffix = ".jpg" if view == "photo" or view[0] == "e" else ".png"
    return f"{number}-{view}{'-large' if large else ''}{suffix}"


def object_share(truth: str | None) -> float | None:
    """How much of a truth is foreground, from 0 to 1; None where the file cannot be read."""
    mask = None if truth is None else _read_mask(truth, [])
    return None if mask is None else float((mask > 128).mean())


def make_pictures(case: Case, number: int, folder: Path, large: int) -> Made:
    """Write a case's pictures into a folder, each small and, unless `large` is 0, with a longest side up to that.

    All have the truth's shape, as what is compared has to lie in the same place; a prediction of another shape is
    stretched, with a note. What cannot be read is left out, with a note.
    """
    made = Made()
    limit = max(large, SMALL)
    photo = None if case.image is None else _read_photo(case.image, made.notes)
    truth = None if case.truth is None else _read_mask(case.truth, made.notes)
    found = [None if path is None else _read_mask(path, made.notes) for path in case.predictions]
    shape = next((array.shape[:2] for array in (truth, *found, photo) if array is not None), None)
    if shape is None:
        return made
    for path, array in ((case.image, photo), *zip(case.predictions, found, strict=True)):
        if array is not None and array.shape[:2] != shape:
            made.notes.append(
                f"{Path(path or '').name}: {array.shape[1]} x {array.shape[0]} was stretched to {shape[1]} x {shape[0]}"
            )
    size = _fit(shape, limit)
    made.size = _fit(shape, SMALL)

    def write(view: str, array: NDArray[Any]) -> None:
        made.views.append(view)
        if large > SMALL:
            _save(array, folder / file_name(number, view, large=True))
        _save(_resize(array, made.size), folder / file_name(number, view))

    rgb = None if photo is None else _resize(photo, size)
    if rgb is not None:
        write("photo", rgb)
    reference = None if truth is None else _resize(truth, size)
    if reference is not None:
        write("truth", reference)
    for method, array in enumerate(found):
        if array is None:
            continue
        prediction = _resize(array, size)
        write(f"p{method}", prediction)
        if reference is not None:
            write(f"e{method}", error_map(_unit(prediction), _unit(reference), rgb))
    return made


def error_map(prediction: Mask, truth: Mask, photo: RgbImage | None = None) -> RgbImage:
    """Show where a prediction differs from the truth, on a pale picture of the photo.

    What is found wrongly is `FALSE_POSITIVE`, what is missed `FALSE_NEGATIVE`, the more so the larger the difference.

    Args:
        prediction: (H, W) in [0, 1].
        truth: (H, W) in [0, 1]; its foreground is shown darker.
        photo: (H, W, 3), or None to show the truth's shape alone.

    Returns:
        (H, W, 3).
    """
    grey = np.full(truth.shape, 0.5, np.float32) if photo is None else _unit(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
    base = (0.72 - 0.5 * truth + 0.24 * grey)[:, :, None] * np.float32(255)
    difference = (prediction - truth)[:, :, None]
    excess, lack = np.maximum(difference, 0), np.maximum(-difference, 0)
    colours = excess * np.array(FALSE_POSITIVE, np.float32) + lack * np.array(FALSE_NEGATIVE, np.float32)
    mixed: RgbImage = np.rint(base * (1 - excess - lack) + colours).clip(0, 255).astype(np.uint8)
    return mixed


def _read_photo(path: str, notes: list[str]) -> RgbImage | None:
    """(H, W, 3); None, with a note, of what cannot be read."""
    try:
        return read_photo(path).rgb
    except ImageError as error:
        notes.append(str(error))
        return None


def _read_mask(path: str, notes: list[str]) -> GreyMap | None:
    """(H, W), read as for the scores; None, with a note, of what cannot be read."""
    try:
        return read_map(Path(path)).levels
    except ImageError as error:
        notes.append(str(error))
        return None


def _fit(shape: Sequence[int], limit: int) -> tuple[int, int]:
    """(height, width) whose longer side is at most the limit."""
    scale = min(1.0, limit / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resize(array: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if array.shape[:2] == size:
        return array
    # Area averages where it shrinks, so that thin parts fade and do not vanish by chance.
    shrinks = array.shape[0] >= size[0] and array.shape[1] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(array, size[::-1], interpolation=method), np.uint8)


def _unit(array: NDArray[Any]) -> Mask:
    return np.asarray(array, np.float32) / np.float32(255)


def _save(array: NDArray[np.uint8], path: Path) -> None:
    image = Image.fromarray(array)
    if path.suffix == ".jpg":
        # Full colour resolution: an error of one pixel's width is to keep its colour.
        image.save(path, quality=82, subsampling=0 if "-e" in path.name else 2)
    else:
        image.save(path, optimize=False, compress_level=6)
