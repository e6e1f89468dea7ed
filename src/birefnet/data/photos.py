"""Where the pixels of a training come from: packs on the disk, a portable pack, or the files themselves."""

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from birefnet.data.cache import (
    Pack,
    decode_pair,
    open_raw,
    raw_bytes,
    raw_path,
    read_aspect,
    read_portable,
    write_raw,
)
from birefnet.data.pairs import Pair
from birefnet.errors import DataError

Size = tuple[int, int]

# The part of the free disk space that packs may take.
_DISK_SHARE = 0.8

# The part of the free memory of a GPU that a pack may take.
_DEVICE_SHARE = 0.5


class Photos(Protocol):
    """Photos with masks, to be read in any order.

    Attributes:
        names: what the photos are, for messages.
        categories: index of each photo's DIS5K class, None where it is not known.
        sources: where in a mixed data set each photo comes from.
        aspects: width over height of each photo's file, whatever size it is read at.
    """

    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def categories(self) -> Sequence[int | None]: ...  # noqa: D102

    @property
    def sources(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def aspects(self) -> Sequence[float]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], height: int, width: int) -> Tensor:
        """Read photos for batches of a size.

        Args:
            indices: which photos.
            height: of the batch that is made of them.
            width: the same.

        Returns:
            uint8 (B, 4, H', W'): red, green, blue and the label of `birefnet.data.cache`, of about the size of the
            batch or somewhat larger.

        Raises:
            DataError: a file cannot be read.
        """


def open_photos(
    source: Sequence[Pair] | Path,
    sizes: Sequence[Size] = (),
    *,
    cache: Path | None = None,
    headroom: float = 1.0,
    soft: bool = False,
    device: torch.device | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> "PairPhotos | PackPhotos":
    """Open photos with masks for training, and pack those of pairs at the sizes that are known beforehand.

    Which photos a batch holds, and every pixel of them, is the same whether there are packs or not; without one the
    files are decoded each time they are read. Smaller packs come first where not all fit on the disk.

    Args:
        source: pairs, or the .npz file of a portable pack, which has one size for all.
        sizes: (height, width) of the batches; others can be read too, by decoding.
        cache: folder for packs; None decodes each time.
        headroom: how much larger than a batch its photos should be, see `Augmentation.headroom`.
        soft: masks are mattes, whose levels are kept.
        device: a GPU to keep the pack in use on, where half of its free memory is enough; None for none. Photos that
            are kept there cannot be read by worker processes.
        advance: called after each pair that is packed, with how many are done and how many there are to do.

    Raises:
        DataError: a file cannot be used, or there are no photos.
        OutputError: the cache cannot be written.
    """
    if isinstance(source, Path):
        return PackPhotos(read_portable(source), device)
    if not source:
        raise DataError("there are no pairs of photos and masks to read: name data that holds some")
    wanted = sorted({_enlarged(size, headroom) for size in sizes}, key=lambda size: size[0] * size[1])
    packs = _packed(source, wanted, cache, soft, advance) if cache is not None else {}
    return PairPhotos(source, packs, headroom=headroom, soft=soft, device=device)


class PairPhotos:
    """Photos of pairs of files, from packs where there are some of the size wanted, else decoded.

    Attributes:
        names: as in `Photos`, with the data set's where there are several.
        categories: as in `Photos`.
        sources: as in `Photos`.
        packs: raw packs by the size they were made at.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        packs: dict[Size, Path],
        *,
        headroom: float = 1.0,
        soft: bool = False,
        device: torch.device | None = None,
    ) -> None:
        several = len({pair.data for pair in pairs}) > 1
        self.names = [f"{pair.data}/{pair.name}" if several else pair.name for pair in pairs]
        self.categories = [pair.category for pair in pairs]
        self.sources = [pair.source for pair in pairs]
        self.packs = packs
        self._pairs, self._headroom, self._soft = list(pairs), headroom, soft
        self._held = _Held(device)

    def __len__(self) -> int:
        return len(self._pairs)

    @cached_property
    def aspects(self) -> Sequence[float]:
        """As in `Photos`; the files' heads are read for it.

        Raises:
            DataError: a file cannot be read.
        """
        return [read_aspect(pair.image) for pair in self._pairs]

    def read(self, indices: Sequence[int], height: int, width: int) -> Tensor:
        """Read photos, `headroom` times as large as asked for: see `Photos.read`."""
        size = _enlarged((height, width), self._headroom)
        if size in self.packs:
            return self._held.rows(indices, size, lambda: torch.from_numpy(open_raw(self.packs[size], len(self), size)))
        pixels = torch.empty((len(indices), 4, *size), dtype=torch.uint8)
        for place, index in enumerate(indices):
            pixels[place] = torch.from_numpy(decode_pair(self._pairs[index], size, soft=self._soft))
        return pixels


class PackPhotos:
    """Photos of a portable pack, in memory, all of one size whatever is asked for.

    Attributes:
        names: as in `Photos`.
        categories: as in `Photos`.
        sources: as in `Photos`.
        aspects: as in `Photos`; those of `size` in packs that say nothing of it.
        size: (height, width) of what is read.
    """

    def __init__(self, pack: Pack, device: torch.device | None = None) -> None:
        self.names, self.categories, self.size = pack.names, pack.categories, pack.size
        self.sources = [Pair(name, Path(), Path()).source for name in pack.names]
        self.aspects = pack.aspects
        self._pixels = torch.from_numpy(pack.pixels)
        self._held = _Held(device)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int], height: int, width: int) -> Tensor:  # noqa: ARG002  a pack has its own size
        """Read photos at the pack's own size: see `Photos.read`."""
        return self._held.rows(indices, self.size, lambda: self._pixels)


class _Held:
    """The pixels in use, on a GPU where they fit; mapped or copied when first used, in each process for itself."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device
        self._key: Size | None = None
        self._pixels = torch.empty(0)

    def rows(self, indices: Sequence[int], key: Size, load: Callable[[], Tensor]) -> Tensor:
        if key != self._key:
            self._pixels = torch.empty(0)  # what was there makes room first
            pixels = load()
            if self._device is not None and self._device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self._device)
                if pixels.numel() < free * _DEVICE_SHARE:
                    pixels = pixels.to(self._device)
            self._key, self._pixels = key, pixels
        return self._pixels[torch.tensor(indices, device=self._pixels.device)]

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself.
        return {"_device": self._device, "_key": None, "_pixels": torch.empty(0)}


def _enlarged(size: Size, factor: float) -> Size:
    return round(size[0] * factor), round(size[1] * factor)


def _packed(
    pairs: Sequence[Pair],
    sizes: Sequence[Size],
    cache: Path,
    soft: bool,
    advance: Callable[[int, int], None] | None,
) -> dict[Size, Path]:
    """Make the packs that are missing, as far as the disk has room."""
    packs = {size: raw_path(pairs, size, cache, soft=soft) for size in sizes}
    room = _free(cache) * _DISK_SHARE
    missing = []
    for size, path in list(packs.items()):
        if path.exists():
            continue
        room -= raw_bytes(len(pairs), size)
        if room < 0:
            del packs[size]
        else:
            missing.append(size)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(done, len(pairs) * len(missing))

    for size in missing:
        write_raw(packs[size], pairs, size, soft=soft, advance=step)
    return packs


def _free(folder: Path) -> int:
    """Free bytes where a folder is or will be."""
    place = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    return shutil.disk_usage(place).free
