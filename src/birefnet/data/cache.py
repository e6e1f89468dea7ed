"""Photos and masks decoded once, at a training size, into arrays that load without any further work.

Decoding and shrinking a photo takes a good part of the time that a small network trains on it, so it is done once.
A pack is either raw (`NAME.npy`, mapped into memory when used) or portable (`NAME.npz` with JPEG photos and PNG labels:
a small part of the size, to carry to another machine).

A label is one byte: 0 to 254 the share of foreground in the pixel, 255 unlabelled. Masks are binarised (> 127) at
their own resolution, as they are when a prediction is scored, and only then shrunk: so an edge is soft exactly as
far as the smaller pixel spans it, whatever grey levels or compression noise the mask file holds. Mattes keep their
levels.
"""

import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from birefnet._atomic import atomic_path, make_folder
from birefnet._threads import in_parallel
from birefnet.data.facts import THRESHOLD, read_mask
from birefnet.data.pairs import Pair
from birefnet.errors import DataError, ImageError, first_line
from birefnet.imaging.io import read_photo
from birefnet.imaging.masks import look_into

UNLABELLED = 255
FULL = 254

# Masks of these sources mark unlabelled pixels with exactly 128.
_GREY_IS_UNLABELLED = frozenset({"flower17"})

# Raised when the same files would be decoded to other pixels.
_VERSION = 2

# What EXIF says of photos whose width is their height upright.
_ON_ITS_SIDE = (5, 6, 7, 8)

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
_Number = TypeVar("_Number", np.uint8, np.float32)


@dataclass(frozen=True)
class Pack:
    """A decoded data set.

    Attributes:
        names: of each pair, below its data set's folder.
        pixels: (N, 4, H, W): red, green, blue and the label.
        categories: index of each photo's DIS5K class, None where it is not known.
        aspects: width over height of each photo before it was stretched.
    """

    names: list[str]
    pixels: Pixels
    categories: list[int | None]
    aspects: list[float]

    @property
    def size(self) -> Size:
        """(height, width) that photos and masks were stretched to."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


# --- one pair ---


def decode_pair(pair: Pair, size: Size, *, soft: bool = False) -> Pixels:
    """Decode a photo and its mask, stretched to a size: (4, H, W).

    Args:
        pair: the files.
        size: (H, W).
        soft: the mask is a matte: its levels are kept.

    Raises:
        DataError: a file cannot be read, photo and mask differ in size, or the mask's foreground is 1 in place of 255.
    """
    try:
        image = read_photo(pair.image).rgb
    except ImageError as error:
        raise DataError(f"{error}: replace or remove it") from error
    mask = read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{pair.mask}: is {mask.shape[1]} x {mask.shape[0]}, its photo {image.shape[1]} x {image.shape[0]}: "
            "make both the same size"
        )
    if mask.max() == 1:
        raise DataError(f"{pair.mask}: its greatest level is 1, foreground is 255: multiply it by 255")
    pixels: Pixels = np.empty((4, *size), np.uint8)
    pixels[:3] = np.asarray(_stretch(image, size)).transpose(2, 0, 1)
    pixels[3] = _label(mask, size, soft=soft, grey_is_unlabelled=pair.source in _GREY_IS_UNLABELLED)
    return pixels


def read_aspect(path: Path) -> float:
    """Tell a photo's width over its height, upright, from the head of its file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        (width, height), orientation = look_into(
            path, lambda image: (image.size, image.getexif().get(ExifTags.Base.Orientation, 1))
        )
    except ImageError as error:
        raise DataError(f"{error}: replace or remove it") from error
    return height / width if orientation in _ON_ITS_SIDE else width / height


def _label(mask: Pixels, size: Size, *, soft: bool, grey_is_unlabelled: bool) -> Pixels:
    levels = mask if soft else np.where(mask > THRESHOLD, np.uint8(255), np.uint8(0))
    known = mask != 128 if grey_is_unlabelled else None
    if known is None or known.all():
        exact: Pixels = np.rint(_stretch(levels, size) * np.float32(FULL / 255)).astype(np.uint8)
        return exact
    foreground = _stretch((levels * known).astype(np.float32) / 255, size)
    share = _stretch(known.astype(np.float32), size)
    label = np.rint(FULL * (foreground / np.maximum(share, 1e-6)).clip(0, 1)).astype(np.uint8)
    # A pixel mostly unlabelled says nothing; one that only touches the border goes by its known part.
    return np.where(share < 0.5, np.uint8(UNLABELLED), label)


def _stretch(array: NDArray[_Number], size: Size) -> NDArray[_Number]:
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BILINEAR))


# --- raw packs ---


def raw_path(pairs: Sequence[Pair], size: Size, cache: Path, *, soft: bool = False) -> Path:
    """Name the raw pack of some pairs at a size; its name changes when a file's name, length or time does.

    Raises:
        DataError: a file is not there.
    """
    digest = hashlib.sha256(f"{_VERSION} {size} {soft}".encode())
    for pair in pairs:
        for path in (pair.image, pair.mask):
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            line = f"\n{pair.data}/{pair.name} {path.name} {status.st_size} {status.st_mtime_ns}"
            digest.update(line.encode(errors="surrogateescape"))
    name = re.sub(r"[^\w.-]+", "_", "+".join(dict.fromkeys(pair.data for pair in pairs)))[:60]
    return cache / f"{name or 'data'}-{size[0]}x{size[1]}-{digest.hexdigest()[:16]}.npy"


def raw_bytes(count: int, size: Size) -> int:
    """Bytes that a raw pack takes on the disk."""
    return count * 4 * size[0] * size[1]


def write_raw(
    path: Path,
    pairs: Sequence[Pair],
    size: Size,
    *,
    soft: bool = False,
    advance: Callable[[], None] | None = None,
) -> None:
    """Decode pairs into a raw pack, several at a time; whatever stops it, nothing takes the pack's name but the whole.

    Args:
        path: as `raw_path` gives it; its folder is made.
        pairs: what to decode.
        size: (height, width) to stretch to.
        soft: masks are mattes.
        advance: called after each pair.

    Raises:
        DataError: as `decode_pair`.
        OutputError: the disk is full or cannot be written.
    """
    make_folder(path.parent, "name another cache folder")
    with atomic_path(path) as temporary:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(pairs), 4, *size))
        _reserve(temporary)

        def decode(index: int) -> None:
            pixels[index] = decode_pair(pairs[index], size, soft=soft)

        in_parallel(decode, range(len(pairs)), advance)
        pixels.flush()


def open_raw(path: Path, count: int, size: Size) -> Pixels:
    """Map a raw pack into memory, copy on write: torch takes no read-only arrays, and nothing may change the file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        pixels = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the pack cannot be read ({first_line(error)}): delete it") from error
    if pixels.shape != (count, 4, *size) or pixels.dtype != np.uint8:
        raise DataError(f"{path}: the pack is damaged: delete it")
    mapped: Pixels = pixels
    return mapped


def _reserve(path: Path) -> None:
    """Claim the disk space of a file: a mapped page that finds no room ends the process without a word."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system knows no such claim
                    raise


# --- portable packs ---


def write_portable(pack: Pack, path: Path, limit: int = 40_000_000) -> int:
    """Write a pack as JPEG photos and PNG labels, at the best quality that keeps the file under a limit.

    Args:
        pack: what to write.
        path: the .npz file to write.
        limit: largest size of the file in bytes.

    Returns:
        The JPEG quality used.

    Raises:
        DataError: even the lowest quality is too large.
        OutputError: the file cannot be written.
    """
    labels = in_parallel(partial(_encode, form="PNG"), list(pack.pixels[:, 3]))
    # Beside the pictures: the names, the ends of the blobs, categories, and the heads of the arrays.
    room = limit - sum(map(len, labels)) - np.array(pack.names).nbytes - 28 * len(labels) - 2816
    for quality in (95, 90, 85, 80, 75, 70, 60, 50):
        photos = in_parallel(partial(_encode, form="JPEG", quality=quality), list(pack.pixels[:, :3]))
        if sum(map(len, photos)) <= room:
            break
    else:
        raise DataError(f"{path}: would be over {limit:,} bytes: pack at a smaller size or raise the limit")
    arrays = {
        "names": np.array(pack.names),
        "version": np.array(1),
        "size": np.array(pack.size),
        "categories": np.array([-1 if category is None else category for category in pack.categories]),
        "aspects": np.array(pack.aspects, np.float32),
    }
    for key, blobs in (("photo", photos), ("label", labels)):
        arrays[f"{key}_bytes"] = np.frombuffer(b"".join(blobs), np.uint8)
        arrays[f"{key}_ends"] = np.cumsum([len(blob) for blob in blobs])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return quality


def read_portable(path: Path) -> Pack:
    """Decode a portable pack into memory.

    Raises:
        DataError: the file is missing or is no portable pack.
    """
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
        names = [str(name) for name in arrays["names"]]
        # Earlier packs were square and said so in one number, and knew no categories nor the photos' proportions.
        sides = np.atleast_1d(arrays["size"]).tolist()
        numbers = arrays["categories"].tolist() if "categories" in arrays else [-1] * len(names)
        aspects = arrays["aspects"].tolist() if "aspects" in arrays else [sides[-1] / sides[0]] * len(names)
        pixels: Pixels = np.empty((len(names), 4, sides[0], sides[-1]), np.uint8)
        photos, labels = (list(_blobs(arrays[f"{k}_bytes"], arrays[f"{k}_ends"])) for k in ("photo", "label"))

        def decode(index: int) -> None:
            pixels[index, :3] = np.asarray(Image.open(io.BytesIO(photos[index]))).transpose(2, 0, 1)
            pixels[index, 3] = np.asarray(Image.open(io.BytesIO(labels[index])))

        in_parallel(decode, range(len(names)))
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: cannot be read as a pack ({first_line(error)}): write it again") from error
    return Pack(names, pixels, [None if number < 0 else number for number in numbers], aspects)


def count_portable(path: Path) -> int:
    """Number of photos in a portable pack, which is not decoded.

    Raises:
        DataError: the file is missing or is no portable pack.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return len(file["names"])
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as a pack ({first_line(error)}): write it again") from error


def _encode(planes: Pixels, form: str, quality: int = 75) -> bytes:
    array = planes.transpose(1, 2, 0) if planes.ndim == 3 else planes
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, form, quality=quality)
    return buffer.getvalue()


def _blobs(data: Pixels, ends: NDArray[np.int64]) -> Iterator[bytes]:
    start = 0
    for end in ends.tolist():
        yield data[start:end].tobytes()
        start = end
