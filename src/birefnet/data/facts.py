"""What every pair of a data set is like, from decoding it once: the facts that checks and summaries stand on.

Files are read as a training reads them: `birefnet.imaging.io.read_photo` and `birefnet.imaging.masks.read_map`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from birefnet._threads import in_parallel
from birefnet.data.pairs import Pair, Problem
from birefnet.errors import DataError, ImageError
from birefnet.imaging.io import read_photo
from birefnet.imaging.masks import GreyMap, look_into, read_map, to_map

THRESHOLD = 127
"""Levels above it are foreground."""

THUMB = 16
"""Side of the thumbnails that photos are compared by."""

# A thumbnail with less contrast than this, in grey levels, is alike to any other such: a plain wall, say.
_PLAIN = 8.0

# How much the channels must differ for a pixel to be coloured: more than JPEG makes of a grey one.
_COLOURED_SPREAD = 32

_MID_LEVELS = slice(16, 240)

# The grey of trimaps, by either way of rounding, and of unlabelled pixels.
_UNKNOWN_LEVELS = slice(127, 129)

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PhotoFacts:
    """What a photo is like.

    Attributes:
        size: (height, width), upright.
        orientation: what EXIF says of it, 1 for upright.
        mode: Pillow's name for the kind of its pixels.
        transparent: whether any of it is transparent, and shown on white.
        shallow: whether it has 16 bits and uses no more than 8 of them, which leaves nothing to see.
        digest: hash of its pixels, the same for the same picture in another file.
        mean: mean of red, green and blue in [0, 1].
        square: mean of their squares.
        thumbnail: (256,) float32, grey, of mean 0 and length 1; all zero for a photo without contrast.
    """

    size: Size
    orientation: int
    mode: str
    transparent: bool
    shallow: bool
    digest: str
    mean: tuple[float, ...]
    square: tuple[float, ...]
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaskFacts:
    """What a mask is like. All shares are of its pixels and in [0, 1].

    Attributes:
        size: (height, width), upright.
        orientation: what EXIF says of it, 1 for upright.
        mode: Pillow's name for the kind of its pixels.
        transparent: whether its transparency is what is read.
        shallow: whether it has 16 bits and uses no more than 8 of them, which leaves nothing to see.
        digest: hash of its levels.
        greatest: the greatest level.
        foreground: share above 127.
        soft: share that is neither 0 nor 255.
        middle: share of middle greys, 16 to 239.
        unknown: share of the grey that trimaps have, 127 or 128.
        coloured: share that is clearly coloured.
        thinness: length of all outlines over the square root of the area, 3.5 for a disc, 4 for a square, tens for
            spokes and lattices; None where there is no foreground.
        border: share of the image's border that the foreground takes.
    """

    size: Size
    orientation: int
    mode: str
    transparent: bool
    shallow: bool
    digest: str
    greatest: int
    foreground: float
    soft: float
    middle: float
    unknown: float
    coloured: float
    thinness: float | None
    border: float


@dataclass(frozen=True, eq=False)
class Facts:
    """What a pair is like.

    Attributes:
        pair: the pair.
        photo: its photo, None where that cannot be read.
        mask: its mask, None where that cannot be read.
        problems: why not.
    """

    pair: Pair
    photo: PhotoFacts | None
    mask: MaskFacts | None
    problems: tuple[Problem, ...] = ()


def examine(
    pairs: Sequence[Pair], *, jobs: int | None = None, advance: Callable[[], None] | None = None
) -> list[Facts]:
    """Decode every file once, several at a time, and note what it is like.

    Args:
        pairs: what to look at.
        jobs: pairs decoded at a time; by default one a processor.
        advance: called after each pair.
    """
    return in_parallel(_examine, pairs, advance, jobs)


def summarise(facts: Sequence[Facts]) -> dict[str, Any]:
    """Describe a data set in numbers, as JSON values: ranges are least, quartiles and greatest.

    Pairs with an unreadable file are counted and left out.

    Raises:
        DataError: no pair can be read.
    """
    both = [(each.pair, each.photo, each.mask) for each in facts]
    read = [(pair, photo, mask) for pair, photo, mask in both if photo is not None and mask is not None]
    if not read:
        raise DataError(f"none of the {len(facts)} pairs can be read: see 'birefnet data check'")
    photos, masks = [photo for _, photo, _ in read], [mask for _, _, mask in read]
    shares = [mask.foreground for mask in masks]
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    mean = np.mean([photo.mean for photo in photos], axis=0)
    square = np.mean([photo.square for photo in photos], axis=0)
    sets: dict[str, int] = defaultdict(int)
    categories: dict[int, int] = defaultdict(int)
    for pair, _, _ in read:
        sets[pair.data] += 1
        if pair.category is not None:
            categories[pair.category] += 1
    return {
        "pairs": len(read),
        "unreadable": len(facts) - len(read),
        "sets": dict(sets),
        "categories": len(categories),
        "with_category": sum(categories.values()),
        "height": _range([photo.size[0] for photo in photos]),
        "width": _range([photo.size[1] for photo in photos]),
        "megapixels": _range([photo.size[0] * photo.size[1] / 1e6 for photo in photos]),
        "aspect": _range([photo.size[1] / photo.size[0] for photo in photos]),
        "foreground": _range(shares),
        "foreground_histogram": [int(count) for count in counts],
        "softness": _range([mask.soft for mask in masks]),
        "binary_masks": sum(mask.soft == 0 for mask in masks),
        "thinness": _range([mask.thinness for mask in masks if mask.thinness is not None]),
        "at_border": sum(mask.border > 0 for mask in masks),
        "border": _range([mask.border for mask in masks]),
        "colour_mean": [round(float(value), 4) for value in mean],
        "colour_std": [round(float(value), 4) for value in np.sqrt(square - mean**2)],
    }


def read_mask(path: Path) -> GreyMap:
    """Read a mask as a training does: (H, W) uint8, upright, what `birefnet.imaging.masks.read_map` makes of it.

    Raises:
        DataError: the file cannot be read as an image.
    """
    try:
        return read_map(path).levels
    except ImageError as error:
        raise DataError(f"{error}: replace or remove it") from error


# --- one pair ---


def _examine(pair: Pair) -> Facts:
    problems = []
    photo = mask = None
    try:
        photo = _photo_facts(pair.image)
    except ImageError as error:
        problems.append(_unreadable(pair.image, error))
    try:
        mask = look_into(pair.mask, _mask_facts)
    except ImageError as error:
        problems.append(_unreadable(pair.mask, error))
    return Facts(pair, photo, mask, tuple(problems))


def _unreadable(path: Path, error: ImageError) -> Problem:
    is_empty = path.is_file() and path.stat().st_size == 0
    reason = "empty" if is_empty else str(error).removeprefix(f"{path}: ")
    return Problem("unreadable", str(path), f"{reason}: replace or remove it")


def _photo_facts(path: Path) -> PhotoFacts:
    mode, orientation, shallow = look_into(path, _kind)
    photo = read_photo(path)
    mean, deviation = (values.ravel() / 255 for values in cv2.meanStdDev(photo.rgb))
    grey = Image.fromarray(photo.rgb).convert("L")
    thumb = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX), np.float32).ravel()
    contrast = float(thumb.std())
    thumb = thumb - thumb.mean()
    thumb /= float(np.linalg.norm(thumb)) if contrast >= _PLAIN else np.inf
    return PhotoFacts(
        photo.rgb.shape[:2],
        orientation,
        mode,
        photo.opacity is not None,
        shallow,
        _digest(photo.rgb),
        tuple(mean.tolist()),
        tuple((mean**2 + deviation**2).tolist()),
        thumb,
    )


def _kind(image: Image.Image) -> tuple[str, int, bool]:
    """Tell a file's mode and EXIF orientation, and whether it has more bits than it uses."""
    orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    shallow = image.mode.startswith("I") and 0 < int(np.asarray(image).max()) <= 255
    return image.mode, orientation if orientation in range(2, 9) else 1, shallow


def _mask_facts(image: Image.Image) -> MaskFacts:
    mode, orientation, shallow = _kind(image)
    read = to_map(image)
    levels = read.levels
    transparent = any(note.kind == "alpha" and "alpha channel is used" in note.detail for note in read.notes)
    coloured = 0.0
    if not transparent and mode not in ("1", "L", "LA") and not mode.startswith("I"):
        bands = np.asarray(image.convert("RGB"))
        coloured = float((bands.max(2) - bands.min(2) > _COLOURED_SPREAD).mean())
    counts = np.bincount(levels.ravel(), minlength=256) / levels.size
    solid = (levels > THRESHOLD).view(np.uint8)
    return MaskFacts(
        (levels.shape[0], levels.shape[1]),
        orientation,
        mode,
        transparent,
        shallow,
        _digest(levels),
        int(levels.max()),
        float(counts[THRESHOLD + 1 :].sum()),
        float(counts[1:255].sum()),
        float(counts[_MID_LEVELS].sum()),
        float(counts[_UNKNOWN_LEVELS].sum()),
        coloured,
        _thinness(solid),
        float(np.concatenate([solid[0], solid[-1], solid[1:-1, 0], solid[1:-1, -1]]).mean()),
    )


def _digest(pixels: GreyMap) -> str:
    found = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def _thinness(solid: GreyMap) -> float | None:
    area = int(np.count_nonzero(solid))
    if area == 0:
        return None
    outlines, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return float(sum(cv2.arcLength(outline, closed=True) for outline in outlines) / area**0.5)


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    points = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    names = ("least", "lower", "median", "upper", "greatest")
    return {name: round(float(point), 4) for name, point in zip(names, points, strict=True)}
