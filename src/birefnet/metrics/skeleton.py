"""Thinning to lines one pixel wide, bit for bit as scikit-image does, with work in proportion to the pixels removed."""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from birefnet._atomic import make_folder, write_whole
from birefnet.metrics.bits import Bits, Mask

# A pixel's neighbours clockwise from the upper left one: (row, column), neighbour i has the value 2^i in a code.
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# Where scikit-image's table departs from the published rule. It removes the corners of stairs, which the rule keeps,
# and keeps pairs of pixels that the rule would remove at once. Code of the neighbours: passes that remove the pixel.
_DEPARTURES = {
    **dict.fromkeys((10, 40, 130, 160), 3),
    **dict.fromkeys((3, 6, 11, 12, 14, 131, 134, 161, 194, 198), 1),
    **dict.fromkeys((24, 26, 56, 96, 104, 108, 176, 192, 224), 2),
    **dict.fromkeys((48, 129), 0),
}
_FOLDER_VERSION = "skeleton-1"


def _removable() -> NDArray[np.uint8]:
    """For each code of neighbours, whether the first pass (1), the second (2), both (3) or none (0) remove a pixel.

    Zhang and Suen: "A fast parallel algorithm for thinning digital patterns", CACM 1984: pixels on a border, with two
    to six neighbours in one run, and on the lower right side in the first pass, on the upper left in the second.
    """
    table = np.zeros(256, np.uint8)
    for code in range(256):
        around = [code >> i & 1 for i in range(8)]
        runs = sum(not around[i] and around[(i + 1) % 8] for i in range(8))
        if runs == 1 and 2 <= sum(around) <= 6:
            north, east, south, west = around[1::2]
            first = not (east and south and (north or west))
            second = not (north and west and (east or south))
            table[code] = first + 2 * second
    table[list(_DEPARTURES)] = list(_DEPARTURES.values())
    return table


_REMOVABLE = _removable()


def thin(mask: Mask) -> Mask:
    """Reduce a binary image to its skeleton: equal to `skimage.morphology.skeletonize`.  (H, W) -> (H, W) of 0 and 1.

    Passes over the image would each look at all pixels, as many times as the object is thick. Here each pixel's code
    of neighbours is kept up to date, so that a pass looks only around what the two passes before removed.
    """
    height, width = mask.shape
    alive = np.zeros((height + 2, width + 2), np.uint8)
    np.not_equal(mask, 0, out=alive[1:-1, 1:-1].view(np.bool_))
    codes = np.zeros_like(alive)
    inner = codes[1:-1, 1:-1]
    for i, (dy, dx) in enumerate(_NEIGHBOURS):
        inner |= alive[1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx] << np.uint8(i)
    codes *= alive  # no neighbours: a code that is never removed, for what is not there
    alive_flat, codes_flat = alive.reshape(-1), codes.reshape(-1)
    steps = [dy * (width + 2) + dx for dy, dx in _NEIGHBOURS]
    # The neighbour in direction i sees the pixel in the opposite direction.
    masks = [np.uint8(255 ^ (1 << (i + 4) % 8)) for i in range(8)]
    stamps = np.empty(len(alive_flat), np.int32)

    candidates = np.flatnonzero(_REMOVABLE.take(codes_flat))
    waiting = candidates[:0]
    idle = 0  # passes in a row that removed nothing; after two there is nothing left to do
    current = np.uint8(1)
    while idle < 2:
        passes = _REMOVABLE.take(codes_flat.take(candidates))
        chosen = (passes & current) != 0
        removed = candidates[chosen]
        waiting = candidates[~chosen & (passes != 0)]
        idle = 0 if len(removed) else idle + 1
        if len(removed):
            # A pixel may be a candidate several times: the last one to stamp it stands for all.
            order = np.arange(len(removed), dtype=np.int32)
            stamps[removed] = order
            removed = removed[stamps.take(removed) == order]
            alive_flat[removed] = 0
            codes_flat[removed] = 0
            around = np.empty((8, len(removed)), np.intp)
            for place, step, keep in zip(around, steps, masks, strict=True):
                np.add(removed, step, out=place)
                codes_flat[place] = codes_flat.take(place) & keep
            changed = around.reshape(-1)
            changed = changed[_REMOVABLE.take(codes_flat.take(changed)) != 0]
            candidates = np.concatenate([waiting, changed])
        else:
            candidates = waiting
        current ^= np.uint8(3)
    return alive[1:-1, 1:-1]


def skeleton(truth: Bits, folder: Path | None = None) -> Bits:
    """Thin a truth, or read what an earlier call left in `folder`.

    Args:
        truth: the binary truth.
        folder: where skeletons are kept by the content of their truths, some kilobytes each; it is made if need be.
            None keeps none.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    if folder is None:
        return Bits.pack(thin(truth.unpack()))
    content = hashlib.sha256(f"{_FOLDER_VERSION} {truth.shape}".encode())
    content.update(truth.words.tobytes())
    path = folder / f"{content.hexdigest()}.npz"
    kept = _read(path, truth)
    if kept is not None:
        return kept
    thinned = Bits.pack(thin(truth.unpack()))
    make_folder(folder)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, words=thinned.words)
    write_whole(path, buffer.getvalue())
    return thinned


def _read(path: Path, truth: Bits) -> Bits | None:
    """What was kept, unless there is none or it is damaged: then it is made anew."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            words = kept["words"]
    except Exception:  # damaged bytes make zip and numpy raise anything
        return None
    if words.shape != truth.words.shape or words.dtype != truth.words.dtype:
        return None
    return Bits(words, truth.width)
