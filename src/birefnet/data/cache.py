"""Photos and masks decoded once, at a training size, into arrays that load without any further work.

Decoding and shrinking a photo takes a good part of the time that a small network trains on it, so it is done once.
A pack is either raw (`NAME.npy` with the pixels and `NAME.json` with the names, mapped into memory when used) or
portable (`NAME.npz` with JPEG photos and PNG labels: a small part of the size, to carry to another machine).

A label is one byte: 0 to 254 the share of foreground in the pixel, 255 unlabelled. Masks are binarised (> 127) at
their own resolution, as they are when a prediction is scored, and only then shrunk: so an edge is soft exactly as
far as the smaller pixel spans it, whatever grey levels or compression noise the mask file holds.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from birefnet._atomic import atomic_path
from birefnet.data.pairs import Pair, find_pairs
from birefnet.errors import DataError, OutputError

UNLABELLED = 255
FULL = 254

# Masks of these sources mark unlabelled pixels with exactly 128.
_GREY_IS_UNLABELLED = frozenset({"flower17"})

_VERSION = 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pack:
    """A decoded data set.

    Attributes:
        names: file stem of each pair.
        pixels: (N, 4, S, S): red, green, blue and the label.
    """

    names: list[str]
    pixels: Pixels

    @property
    def size(self) -> int:
        """Side of the square that photos and masks were stretched to."""
        return int(self.pixels.shape[-1])


def load_pack(source: Path, size: int, cache: Path = Path(".cache")) -> Pack:
    """Open a portable pack, or a folder of pairs by way of a raw pack that is made on first use.

    Args:
        source: a folder with im/ and gt/, or the .npz file of a portable pack.
        size: side of the square to decode a folder at; a portable pack has its own.
        cache: folder for raw packs; created if missing.

    Raises:
        DataError: the source cannot be used.
        OutputError: the cache cannot be written.
    """
    if source.suffix == ".npz":
        return read_portable(source)
    pairs = find_pairs(source)
    place = source.resolve()
    stem = cache / f"{place.parent.name}-{place.name}-{size}-{_fingerprint(pairs, size)}"
    if not Path(f"{stem}.json").exists():
        _write_raw(stem, pairs, size)
    names: list[str] = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))["names"]
    # Copy on write: torch takes no read-only arrays, and nothing may change the file.
    return Pack(names, np.load(f"{stem}.npy", mmap_mode="c"))


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
    with ThreadPoolExecutor() as pool:
        labels = list(pool.map(lambda item: _encode(item[3], "PNG"), pack.pixels))
        room = limit - sum(map(len, labels)) - 200 * len(labels)
        for quality in (95, 90, 85, 80, 75, 70, 60, 50):
            photos = list(pool.map(lambda item, q=quality: _encode(item[:3], "JPEG", q), pack.pixels))
            if sum(map(len, photos)) <= room:
                break
        else:
            raise DataError(f"{path}: would be over {limit:,} bytes: pack at a smaller size or raise the limit")
    arrays = {"names": np.array(pack.names), "version": np.array(_VERSION), "size": np.array(pack.size)}
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
        size = int(arrays["size"])
        pixels: Pixels = np.empty((len(names), 4, size, size), np.uint8)
        photos, labels = (list(_blobs(arrays[f"{k}_bytes"], arrays[f"{k}_ends"])) for k in ("photo", "label"))

        def decode(index: int) -> None:
            pixels[index, :3] = np.asarray(Image.open(io.BytesIO(photos[index]))).transpose(2, 0, 1)
            pixels[index, 3] = np.asarray(Image.open(io.BytesIO(labels[index])))

        with ThreadPoolExecutor() as pool:
            list(pool.map(decode, range(len(names))))
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: cannot be read as a pack ({error}): write it again with `pack`") from error
    return Pack(names, pixels)


def decode_pair(pair: Pair, size: int) -> Pixels:
    """Decode a photo and its mask, stretched to a square: (4, S, S).

    Raises:
        DataError: a file cannot be read, or photo and mask differ in size.
    """
    image = _open(pair.image).convert("RGB")
    mask = _open(pair.mask).convert("L")
    if image.size != mask.size:
        raise DataError(
            f"{pair.mask}: is {mask.width} x {mask.height}, its photo {image.width} x {image.height}: "
            "make both the same size"
        )
    pixels: Pixels = np.empty((4, size, size), np.uint8)
    pixels[:3] = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels[3] = _label(np.asarray(mask), size, pair.source in _GREY_IS_UNLABELLED)
    return pixels


def _label(mask: Pixels, size: int, grey_is_unlabelled: bool) -> Pixels:
    known = mask != 128 if grey_is_unlabelled else np.ones(mask.shape, bool)
    foreground = _shrink((mask > 127) & known, size)
    share = _shrink(known, size)
    label = np.rint(FULL * (foreground / np.maximum(share, 1e-6)).clip(0, 1)).astype(np.uint8)
    # A pixel mostly unlabelled says nothing; one that only touches the border goes by its known part.
    return np.where(share < 0.5, np.uint8(UNLABELLED), label)


def _shrink(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}): replace or remove it") from error


def _write_raw(stem: Path, pairs: list[Pair], size: int) -> None:
    array, names = Path(f"{stem}.npy"), Path(f"{stem}.json")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{stem.parent}: cannot be created ({error}): name another cache folder") from error
    with atomic_path(array) as temporary:
        shape = (len(pairs), 4, size, size)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def decode(index: int) -> None:
            pixels[index] = decode_pair(pairs[index], size)

        with ThreadPoolExecutor() as pool:
            list(pool.map(decode, range(len(pairs))))
        pixels.flush()
    # Written last: where this file is, the pixels are complete.
    with atomic_path(names) as temporary:
        temporary.write_text(json.dumps({"names": [pair.name for pair in pairs]}), encoding="utf-8")


def _fingerprint(pairs: list[Pair], size: int) -> str:
    """Tell apart what a pack was made of, so that a changed data set is packed again."""
    parts = [f"{_VERSION} {size}"]
    for pair in pairs:
        for path in (pair.image, pair.mask):
            status = path.stat()
            parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


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
