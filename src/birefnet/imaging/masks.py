"""Reading grey maps, predicted or true, from whatever kind of image file they come in, and saying what was done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from birefnet.errors import ImageError
from birefnet.imaging.io import naming

GreyMap = NDArray[np.uint8]
"""(H, W) uint8, 255 for foreground."""

_SIXTEEN_BIT = 65535

_T = TypeVar("_T")


class Note(NamedTuple):
    """What had to be done to read a file, or is odd about it: a kind in a few words, and the matter."""

    kind: str
    detail: str


@dataclass(frozen=True, eq=False)
class MapFile:
    """A map as it was read.

    Attributes:
        levels: (H, W) uint8.
        notes: what had to be done to read it so; empty for an 8-bit grey image.
    """

    levels: GreyMap
    notes: tuple[Note, ...] = ()


def read_map(path: Path) -> MapFile:
    """Read a grey map from an image file.

    16-bit grey is scaled to 8 bit, palettes and colours are turned to grey, and where the file has transparency that
    is not the same everywhere the map is its alpha channel, as in a cut-out.

    Raises:
        ImageError: the file is missing, no image, damaged, or of floating-point numbers.
    """
    return look_into(path, to_map)


def look_into(path: Path, look: Callable[[Image.Image], _T]) -> _T:
    """Open an image file and hand it to a function; whatever its decoder raises becomes one line that names the file.

    Raises:
        ImageError: the file is missing, no image or damaged, or the function says so of it.
    """
    with naming(path), Image.open(path) as image:
        return look(image)


def to_map(image: Image.Image) -> MapFile:
    """Turn an open image into a grey map, as `read_map` does.

    Raises:
        ImageError: the image is of floating-point numbers.
    """
    notes: list[Note] = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append(Note("frames", f"{getattr(image, 'n_frames', 0)} frames: the first is used"))
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
        notes.append(Note("turned", "turned upright as its EXIF orientation says"))
    mode = image.mode
    if mode == "F":
        raise ImageError("a floating-point image, whose white is not defined; save it with 8 or 16 bits")
    if mode == "1":
        return MapFile(np.asarray(image).astype(np.uint8) * np.uint8(255), tuple(notes))
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.float64).clip(0, _SIXTEEN_BIT)
        notes.append(Note("16-bit", "16-bit levels are scaled to 8 bit"))
        return MapFile(np.rint(values * (255 / _SIXTEEN_BIT)).astype(np.uint8), tuple(notes))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        if alpha.min() != alpha.max():
            return MapFile(alpha, (*notes, Note("alpha", f"{mode}: the alpha channel is used, not the colours")))
        unused = f"{mode}: the colours are used, not the alpha channel, which is {alpha.min()} everywhere"
        notes.append(Note("alpha", unused))
        image = rgba.convert("RGB")
    if mode == "P":
        notes.append(Note("palette", "the colours of its palette are turned to grey"))
    elif mode != "L":
        bands = np.asarray(image.convert("RGB"))
        if (bands != bands[..., :1]).any():
            notes.append(Note("colour", f"{mode}: the colours are turned to grey"))
    return MapFile(np.asarray(image.convert("L")), tuple(notes))


def truth_notes(levels: GreyMap, threshold: int) -> list[Note]:
    """Say what is odd about a truth mask: that it is empty, or soft, which only mattes should be.

    Args:
        levels: (H, W) uint8.
        threshold: levels above it are foreground.
    """
    greatest = int(levels.max())
    if greatest <= threshold:
        hint = "; is it a mask of zeros and ones?" if greatest == 1 else ""
        return [Note("empty-truth", f"nothing is above {threshold}, the greatest level is {greatest}{hint}")]
    counts = np.bincount(levels.ravel(), minlength=256)
    between = int(counts[1:255].sum())
    if between:
        share = between / levels.size
        return [Note("soft-truth", f"{share:.2%} of the pixels are neither 0 nor 255")]
    return []


def resize_map(levels: GreyMap, size: tuple[int, int]) -> GreyMap:
    """Stretch a prediction to the size of its truth as the reference's evaluation does: bilinear, on 8-bit levels.

    Args:
        levels: (h, w) uint8.
        size: (height, width) of the truth.

    Returns:
        (*size) uint8.
    """
    resized: GreyMap = np.asarray(cv2.resize(levels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)
    return resized
