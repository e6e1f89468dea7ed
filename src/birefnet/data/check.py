"""Looking at every pair of a data set once: what is wrong with it, and what it is like.

Files are read as a training reads them: turned upright, photos as RGB, masks as 8-bit grey, foreground above 127.
"""

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from birefnet.data.pairs import Pair, Problem
from birefnet.errors import DataError

KINDS = {
    "no-mask": "photos without a mask",
    "no-photo": "masks without a photo",
    "several-masks": "photos with more than one mask",
    "same-name": "photos of one name",
    "missing-file": "files that a table names and that are not there",
    "unknown-class": "classes that DIS5K does not have",
    "unreadable": "files that cannot be read as images",
    "size": "masks of another size than their photo",
    "turned": "photos that EXIF turns on their side, with masks that are not",
    "colour-mask": "masks that are a photo, a cut-out or a map of classes",
    "clipped": "levels of 16 bits or more that training cannot hold",
    "zeros-and-ones": "masks whose foreground is 1 in place of 255",
    "leak": "photos that are both trained on and validated on",
    "near-leak": "photos to validate on that are much like one trained on",
    "duplicate": "photos that are there more than once",
    "near-duplicate": "photos that are much like another",
    "empty-mask": "masks without foreground",
    "full-mask": "masks without background",
    "trimap": "masks of black, white and one grey",
    "soft-mask": "masks with levels between 0 and 255",
    "grey-mask": "masks that are mostly neither dark nor bright",
    "exif": "photos that EXIF turns round or mirrors, with masks that say nothing of it",
    "mode": "masks and photos whose file is of an unusual kind",
    "tiny": "photos too small to learn details from",
}
"""What may be the matter, the worst first: kind of problem -> heading of its list."""

SMALLEST = 128
"""Shorter side in pixels below which a photo counts as tiny."""

THRESHOLD = 127

ALIKE = 0.994
"""Correlation of two photos' thumbnails from which on they count as near duplicates.

Copies of 200 photos, shrunk, enlarged, brightened by a tenth and saved as JPEG of quality 30 to 90, gave 0.9949 and
more; of 3,592 different photos the two most alike gave 0.9892. Copies cropped by 3% give 0.95 and are not found.
"""

_THUMB = 16

# A thumbnail with less contrast than this, in grey levels, is alike to any other such: a plain wall, say.
_PLAIN = 8.0

# How much the channels must differ for a pixel to be coloured: more than JPEG makes of a grey one.
_COLOURED_SPREAD, _COLOURED_SHARE = 32, 0.05

_MID_LEVELS, _MID_SHARE = slice(16, 240), 0.5

# The grey of trimaps, by either way of rounding, and of unlabelled pixels; how much of all there is at least, and of
# all that is neither black nor white.
_UNKNOWN_LEVELS, _UNKNOWN_SHARE, _UNKNOWN_PART = slice(127, 129), 0.005, 0.95

_BLOCK = 1024

Levels = NDArray[np.uint8]
Size = tuple[int, int]
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class PhotoFacts:
    """What a photo is like.

    Attributes:
        size: (height, width), upright.
        orientation: what EXIF says of it, 1 for upright.
        mode: Pillow's name for the kind of its pixels.
        transparent: whether it has transparency that is not the same everywhere.
        greatest: the greatest level, of 16-bit photos above 255.
        digest: hash of its pixels, the same for the same picture in another file.
        mean: mean of red, green and blue in [0, 1].
        square: mean of their squares.
        thumbnail: (256,) float32, grey, of mean 0 and length 1; all zero for a photo without contrast.
    """

    size: Size
    orientation: int
    mode: str
    transparent: bool
    greatest: int
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
        transparent: whether it has transparency that is not the same everywhere.
        clipped: whether it holds several levels above 255, which become one.
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
    clipped: bool
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


def check_pairs(
    pairs: Sequence[Pair],
    validation: Sequence[Pair] = (),
    *,
    binary: bool = False,
    smallest: int = SMALLEST,
    jobs: int | None = None,
    advance: Callable[[], None] | None = None,
) -> list[Problem]:
    """Look at every pair and list all that is the matter, the worst first.

    Args:
        pairs: what is to be trained on.
        validation: what is to be validated on; it is checked as well, and for photos that are in `pairs` too.
        binary: report masks that are soft, where they should not be.
        smallest: shorter side in pixels below which a photo is reported as tiny.
        jobs: pairs decoded at a time; by default one a processor.
        advance: called after each pair.
    """
    facts = examine([*pairs, *validation], jobs=jobs, advance=advance)
    problems = [problem for each in facts for problem in judge(each, binary=binary, smallest=smallest)]
    train, held_out = facts[: len(pairs)], facts[len(pairs) :]
    return sort_problems([*problems, *duplicates(train), *duplicates(held_out), *leaks(train, held_out)])


def sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    """Put problems that stop a training first, then those of one kind together, in the order of their files."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(problems, key=lambda p: (not p.stops, order[p.kind], p.file))


def examine(
    pairs: Sequence[Pair], *, jobs: int | None = None, advance: Callable[[], None] | None = None
) -> list[Facts]:
    """Decode every file once, several at a time, and note what it is like.

    Args:
        pairs: what to look at.
        jobs: pairs decoded at a time; by default one a processor.
        advance: called after each pair.
    """
    found = []
    count = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Pillow remarks on odd but readable files. Silenced here, because threads share what is silenced.
    with warnings.catch_warnings(), ThreadPoolExecutor(count) as pool:
        warnings.simplefilter("ignore")
        try:
            for facts in pool.map(_examine, pairs):
                found.append(facts)
                if advance is not None:
                    advance()
        except BaseException:  # Ctrl-C: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def judge(facts: Facts, *, binary: bool = False, smallest: int = SMALLEST) -> list[Problem]:
    """List what is the matter with a pair by itself.

    Args:
        facts: of the pair.
        binary: report a mask that is soft.
        smallest: shorter side in pixels below which the photo is reported as tiny.
    """
    problems = list(facts.problems)
    if facts.photo is not None:
        problems += _judge_photo(str(facts.pair.image), facts.photo, smallest)
    if facts.mask is not None:
        problems += _judge_mask(str(facts.pair.mask), facts.mask, binary=binary)
    if facts.photo is not None and facts.mask is not None:
        problems += _judge_sizes(str(facts.pair.mask), facts.photo, facts.mask)
    return problems


def duplicates(facts: Sequence[Facts]) -> list[Problem]:
    """Find photos of one set that are the same, pixel by pixel, or much alike."""
    readable = [each for each in facts if each.photo is not None]
    problems = []
    first: dict[str, Facts] = {}
    for each in readable:
        assert each.photo is not None
        other = first.setdefault(each.photo.digest, each)
        if other is not each:
            detail = f"is the same photo as {other.pair.image}, {_masks_of(each, other)}"
            problems.append(Problem("duplicate", str(each.pair.image), detail, stops=False))
    singles = list(first.values())
    for i, j, alike in _alike(singles, singles):
        if i < j:
            detail = f"is much like {singles[i].pair.image} ({alike:.4f}), {_masks_of(singles[j], singles[i])}"
            problems.append(Problem("near-duplicate", str(singles[j].pair.image), detail, stops=False))
    return problems


def leaks(train: Sequence[Facts], validation: Sequence[Facts]) -> list[Problem]:
    """Find photos to validate on that are the same as one to train on, or much like one."""
    known = {each.photo.digest: each for each in train if each.photo is not None}
    problems, rest = [], []
    for each in validation:
        other = known.get(each.photo.digest) if each.photo is not None else None
        if other is None:
            rest.append(each)
        else:
            detail = f"is the same photo as {other.pair.image}, which is trained on: take it out of one of the sets"
            problems.append(Problem("leak", str(each.pair.image), detail))
    near: dict[int, tuple[int, float]] = {}
    for i, j, alike in _alike(rest, train):
        if alike > near.get(i, (0, 0.0))[1]:
            near[i] = (j, alike)
    for i, (j, alike) in near.items():
        detail = f"is much like {train[j].pair.image} ({alike:.4f}), which is trained on"
        problems.append(Problem("near-leak", str(rest[i].pair.image), detail, stops=False))
    return problems


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


def read_mask(path: Path) -> Levels:
    """Read a mask as a training does: (H, W) uint8, upright, colours and palettes turned to grey.

    Raises:
        DataError: the file cannot be read as an image.
    """
    try:
        return _read(path, lambda image: np.asarray(_upright(image)[0].convert("L")))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


# --- one pair ---


def _examine(pair: Pair) -> Facts:
    problems = []
    photo = mask = None
    try:
        photo = _read(pair.image, _photo_facts)
    except DataError as error:
        problems.append(Problem("unreadable", str(pair.image), str(error)))
    try:
        mask = _read(pair.mask, _mask_facts)
    except DataError as error:
        problems.append(Problem("unreadable", str(pair.mask), str(error)))
    return Facts(pair, photo, mask, tuple(problems))


def _read(path: Path, look: Callable[[Image.Image], _T]) -> _T:
    try:
        with Image.open(path) as image:
            return look(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        what = "empty" if path.stat().st_size == 0 else "not an image, or of a kind that cannot be read"
        raise DataError(f"{what}: replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise DataError("has too many pixels: make it smaller") from error
    except OSError as error:
        if error.errno is not None:  # the file system's, not a decoder's
            raise DataError(f"cannot be read ({error.strerror})") from error
        raise DataError(f"damaged or cut off ({_first_line(error)}): replace or remove it") from error
    except Exception as error:  # decoders of many formats, which damaged files make raise anything
        raise DataError(f"damaged or cut off ({_first_line(error)}): replace or remove it") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _upright(image: Image.Image) -> tuple[Image.Image, int]:
    image.load()
    orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return (image, 1) if orientation not in range(2, 9) else (ImageOps.exif_transpose(image), orientation)


def _photo_facts(image: Image.Image) -> PhotoFacts:
    image, orientation = _upright(image)
    rgb = image.convert("RGB")
    pixels = np.asarray(rgb)
    mean, deviation = (values.ravel() / 255 for values in cv2.meanStdDev(pixels))
    thumb = np.asarray(rgb.convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float32).ravel()
    contrast = float(thumb.std())
    thumb = thumb - thumb.mean()
    thumb /= float(np.linalg.norm(thumb)) if contrast >= _PLAIN else np.inf
    return PhotoFacts(
        (image.height, image.width),
        orientation,
        image.mode,
        _is_transparent(image),
        _greatest(image),
        _digest(pixels),
        tuple(mean.tolist()),
        tuple((mean**2 + deviation**2).tolist()),
        thumb,
    )


def _mask_facts(image: Image.Image) -> MaskFacts:
    image, orientation = _upright(image)
    levels = np.asarray(image.convert("L"))
    counts = np.bincount(levels.ravel(), minlength=256) / levels.size
    solid = (levels > THRESHOLD).view(np.uint8)
    coloured = 0.0
    if image.mode not in ("1", "L", "LA") and not image.mode.startswith(("I", "F")):
        bands = np.asarray(image.convert("RGB"))
        coloured = float((bands.max(2) - bands.min(2) > _COLOURED_SPREAD).mean())
    clipped = False
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        # Black and one white alone stay what they are, whatever number stands for white.
        clipped = bool((values % 1 != 0).any() or len(np.unique(values[values > 255])) > 1)
    return MaskFacts(
        (image.height, image.width),
        orientation,
        image.mode,
        _is_transparent(image),
        clipped,
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


def _greatest(image: Image.Image) -> int:
    return int(np.asarray(image).max()) if image.mode.startswith(("I", "F")) else 255


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    low, high = image.convert("RGBA").getchannel("A").getextrema()
    return low != high


def _digest(pixels: Levels) -> str:
    found = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def _thinness(solid: Levels) -> float | None:
    area = int(np.count_nonzero(solid))
    if area == 0:
        return None
    outlines, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return float(sum(cv2.arcLength(outline, closed=True) for outline in outlines) / area**0.5)


# --- judging ---


def _judge_photo(file: str, photo: PhotoFacts, smallest: int) -> Iterator[Problem]:
    if photo.greatest > 255:
        yield Problem("clipped", file, f"{photo.mode}: levels above 255 are read as 255: save it with 8 bits")
    if photo.transparent:
        detail = f"{photo.mode}: its transparency is not used, and the colours under it show: put it on a background"
        yield Problem("mode", file, detail, stops=False)
    if min(photo.size) < smallest:
        yield Problem("tiny", file, f"is {_shown(photo.size)}: has a side shorter than {smallest}", stops=False)


def _judge_mask(file: str, mask: MaskFacts, *, binary: bool) -> Iterator[Problem]:
    if mask.coloured > _COLOURED_SHARE:
        detail = f"{mask.coloured:.0%} of its pixels are coloured: a mask is grey, white for foreground"
        yield Problem("colour-mask", file, detail)
    elif mask.clipped:
        yield Problem("clipped", file, f"{mask.mode}: its levels do not fit 8 bits: save it as 8-bit grey")
    elif mask.greatest == 1:
        yield Problem("zeros-and-ones", file, "its greatest level is 1, foreground is 255: multiply it by 255")
    elif mask.foreground == 0:
        detail = f"nothing is above {THRESHOLD}, the greatest level is {mask.greatest}"
        yield Problem("empty-mask", file, detail, stops=False)
    elif mask.foreground == 1:
        yield Problem("full-mask", file, f"nothing is at {THRESHOLD} or below", stops=False)
    if mask.mode.startswith(("I", "F")) and not mask.clipped:
        yield Problem("mode", file, f"{mask.mode}: is read as black and white", stops=False)
    if mask.transparent:
        detail = f"{mask.mode}: its colours are read, not its transparency: save that as a grey image if it is the mask"
        yield Problem("mode", file, detail, stops=False)
    elif mask.mode == "P" and mask.coloured <= _COLOURED_SHARE:
        yield Problem("mode", file, "P: the colours of its palette are turned to grey", stops=False)
    if mask.unknown > _UNKNOWN_SHARE and mask.unknown > _UNKNOWN_PART * mask.soft:
        detail = f"{mask.unknown:.1%} of its pixels are one middle grey: is it a trimap, or not labelled there?"
        yield Problem("trimap", file, detail, stops=False)
    elif mask.coloured <= _COLOURED_SHARE and mask.middle > _MID_SHARE:
        detail = f"{mask.middle:.0%} of its pixels are neither dark nor bright: is it a photo?"
        yield Problem("grey-mask", file, detail, stops=False)
    elif binary and mask.soft:
        yield Problem("soft-mask", file, f"{mask.soft:.2%} of its pixels are neither 0 nor 255", stops=False)


def _judge_sizes(file: str, photo: PhotoFacts, mask: MaskFacts) -> Iterator[Problem]:
    on_side = photo.orientation >= 5
    if photo.size == mask.size:
        if photo.orientation != 1 and mask.orientation == 1 and (not on_side or photo.size[0] == photo.size[1]):
            detail = f"its photo is turned as EXIF says (orientation {photo.orientation}): see that it fits that"
            yield Problem("exif", file, detail, stops=False)
        return
    sizes = f"is {_shown(mask.size)}, its photo {_shown(photo.size)}"
    if photo.size == mask.size[::-1]:
        why = "" if photo.orientation == mask.orientation else " as EXIF turns it"
        yield Problem("turned", file, f"{sizes}{why}: turn the mask the same way")
        return
    # The same picture at another scale, but for rounding to whole pixels.
    scale = (mask.size[0] / photo.size[0] * mask.size[1] / photo.size[1]) ** 0.5
    same = all(abs(m - p * scale) <= 1 for m, p in zip(mask.size, photo.size, strict=True))
    hint = "the same picture at another scale: resize one" if same else "of another shape: one of them is cropped"
    yield Problem("size", file, f"{sizes}, {hint}")


def _shown(size: Size) -> str:
    return f"{size[1]} x {size[0]}"


def _masks_of(one: Facts, other: Facts) -> str:
    if one.mask is None or other.mask is None:
        return "of which one mask cannot be read"
    return "with the same mask" if one.mask.digest == other.mask.digest else "with another mask"


def _alike(some: Sequence[Facts], others: Sequence[Facts]) -> Iterator[tuple[int, int, float]]:
    """Compare all thumbnails of two sets, and tell which are alike: positions in both, and their correlation."""
    blank = np.zeros(_THUMB**2, np.float32)
    left, right = (
        np.stack([each.photo.thumbnail if each.photo is not None else blank for each in facts])
        if facts
        else blank[None]
        for facts in (some, others)
    )
    for top in range(0, len(left), _BLOCK):
        products = left[top : top + _BLOCK] @ right.T
        for i, j in np.argwhere(products > ALIKE):
            yield top + int(i), int(j), float(products[i, j])


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    points = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    names = ("least", "lower", "median", "upper", "greatest")
    return {name: round(float(point), 4) for name, point in zip(names, points, strict=True)}
