"""Foreground colours: at a soft edge a photo shows a mixture, of which a cut-out wants the object's share alone."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet._processors import processors
from birefnet.imaging.io import Alpha, RgbImage
from birefnet.imaging.tiling import Window

Plane = NDArray[np.float32]
Marks = NDArray[np.bool_]

RADII = (90, 6)
"""Sizes of the two box blurs: the first finds plausible colours from afar, the second fits them closely."""

CELL = 64
"""Side of the squares that the undecided part of a photo is told from the rest by."""

BLOCK = 8
"""Most cells a side that are worked on at once, which bounds the memory and lets the blurs' buffers stay in cache."""

# What a pixel's colours depend on: half of both blurs, and one for the uneven halves of an even box.
_MARGIN = sum(RADII) // 2 + len(RADII)
# Beyond the reach of the second blur from the object the colours vanish.
_REACH = RADII[-1] // 2 + 1
# Alpha that 8 bit cannot tell from 0, or from 1, is taken for it where nothing nearby says otherwise.
_LOW, _HIGH = np.float32(0.5 / 255), np.float32(1 - 0.5 / 255)
# Against a division by zero, as the paper has it: alpha is in [0, 1].
_EPSILON = np.float32(1e-5)


def estimate_foreground(rgb: RgbImage, alpha: Alpha) -> RgbImage:
    """Estimate the object's own colours by blur fusion, in two passes.

    Forte: "Approximate Fast Foreground Colour Estimation", ICIP 2021. Where alpha is 1 the colours are the photo's;
    outside the object they go on a few pixels, so that scaling the cut-out pulls in no foreign colour, and are black
    beyond. Only what is near an edge is worked on, with the surroundings its pixels depend on, so there the result is
    that of the whole photo at once. Elsewhere an alpha that 8 bit would round to 0 or 1 is taken for that: the colours
    are at most one level from what its fraction would make of them, and black where nothing of them is seen.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    height, width = size = alpha.shape
    visible, undecided = _mark(alpha)
    result = np.zeros_like(rgb)
    for row, marks in enumerate(visible):
        for left, right in _runs(marks):
            part = np.s_[row * CELL : (row + 1) * CELL, left * CELL : right * CELL]
            result[part] = cv2.copyTo(rgb[part], (alpha[part] > 0).view(np.uint8))
    boxes = [
        Window(box.top * CELL, box.left * CELL, min(box.bottom * CELL, height), min(box.right * CELL, width))
        for box in _boxes(undecided)
    ]

    threads = min(processors(), len(boxes)) or 1
    spare: SimpleQueue[_Buffers] = SimpleQueue()
    for _ in range(threads):
        spare.put(_Buffers())

    def fill(box: Window) -> None:
        near = box.grown(_REACH, size)
        window = box.grown(_MARGIN, size)
        inside, core = near.within(window), box.within(near)
        buffers = spare.get()
        try:
            _fuse_twice(rgb[window.part], alpha[window.part], inside, core, result[box.part], buffers)
        finally:  # the other boxes wait for them
            spare.put(buffers)

    # OpenCV and numpy let other threads run while they compute.
    with ThreadPoolExecutor(threads, "colours") as pool:
        for _ in pool.map(fill, boxes):
            pass
    return result


def _mark(alpha: Alpha) -> tuple[Marks, Marks]:
    """Tell of each cell whether any of it, or of what is near, is seen, and whether that also is not all opaque."""
    height, width = alpha.shape
    shape = -(-height // CELL), -(-width // CELL)
    seen, opaque = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
    for row in range(shape[0]):
        strip = alpha[max(row * CELL - _REACH, 0) : (row + 1) * CELL + _REACH]
        most, least = strip.max(axis=0), strip.min(axis=0)
        for column in range(shape[1]):
            near = np.s_[max(column * CELL - _REACH, 0) : (column + 1) * CELL + _REACH]
            seen[row, column] = most[near].max() >= _LOW
            opaque[row, column] = least[near].min() >= _HIGH
    return seen, seen & ~opaque


def _runs(marks: Marks) -> Iterator[tuple[int, int]]:
    """Give (first, after the last) of each run of marked cells of a row."""
    edges = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _boxes(cells: Marks) -> list[Window]:
    """Cover the marked cells of a photo by boxes that are no larger than `BLOCK` and do not overlap, in cells."""
    boxes = []
    for top in range(0, cells.shape[0], BLOCK):
        for left in range(0, cells.shape[1], BLOCK):
            block = Window(top, left, min(top + BLOCK, cells.shape[0]), min(left + BLOCK, cells.shape[1]))
            boxes.extend(_split(cells, block))
    return boxes


def _split(cells: Marks, box: Window) -> list[Window]:
    """Shrink a box to its marked cells, and halve it where the halves, with their margins, are less work."""
    rows, columns = (np.flatnonzero(cells[box.part].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = box.top + int(rows[0]), box.left + int(columns[0])
    whole = Window(top, left, box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1)
    if whole.bottom - top >= whole.right - left:
        middle = (top + whole.bottom) // 2
        halves = whole._replace(bottom=middle), whole._replace(top=middle)
    else:
        middle = (left + whole.right) // 2
        halves = whole._replace(right=middle), whole._replace(left=middle)
    if cells[whole.part].all():
        return [whole]
    parts = [part for half in halves for part in _split(cells, half)]
    return parts if sum(map(_work, parts)) < _work(whole) else [whole]


def _work(box: Window) -> int:
    """Pixels that the first blur of a box goes over."""
    return ((box.bottom - box.top) * CELL + 2 * _MARGIN) * ((box.right - box.left) * CELL + 2 * _MARGIN)


class _Buffers:
    """Memory that one box after the other is worked on in: most of the time would go into asking for it anew."""

    def __init__(self) -> None:
        self._kept: dict[str, Plane] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Plane:
        """Give what was used under a name before, with room for a shape and whatever it held."""
        count = math.prod(shape)
        if name not in self._kept or self._kept[name].size < count:
            self._kept[name] = np.empty(count, np.float32)
        return self._kept[name][:count].reshape(shape)


def _fuse_twice(rgb: RgbImage, alpha: Alpha, near: Window, core: Window, result: RgbImage, buffers: _Buffers) -> None:
    """Blur fusion of a window of a photo, a colour after the other: what is the same for all is computed once.

    With P and Q the blurs of the layers' colours weighted by their shares a and b = 1 - a, and s the blur of a, the
    layers are F = P / (s + e) and B = Q / (1 - s + e), and the corrected foreground F + a (I - a F - b B) is
    a I + (1 - a²) / (s + e) P - a b / (1 - s + e) Q: a sum with weights that do not depend on the colour.

    Args:
        rgb: (h, w, 3) the window: what is to be filled, with all that it depends on.
        alpha: (h, w).
        near: what the second blur needs of the first one's result, in the window.
        core: what is to be filled, in `near`.
        result: (H, W, 3) where the colours of the core go.
        buffers: memory to work in.
    """
    far, close = (RADII[0], RADII[0]), (RADII[1], RADII[1])
    rest, weighted, blurred = (buffers.take(name, alpha.shape) for name in ("rest", "weighted", "blurred"))
    shape = near.bottom - near.top, near.right - near.left
    share, front, back, part = (buffers.take(name, shape) for name in ("share", "front", "back", "part"))
    np.subtract(1, alpha, out=rest)
    np.copyto(share, alpha[near.part])
    cv2.blur(alpha, far, dst=blurred)
    first = _weights(share, blurred[near.part], "first", buffers)
    cv2.blur(share, close, dst=part)
    second = _weights(share, part, "second", buffers)
    planes = []
    for colour in cv2.split(rgb):
        # The photo's share of the foreground, and its blur; then those of the background.
        np.multiply(colour, alpha, out=weighted)
        cv2.blur(weighted, far, dst=blurred)
        np.multiply(blurred[near.part], first.front, out=front)
        front += weighted[near.part]
        np.multiply(colour, rest, out=weighted)
        cv2.blur(weighted, far, dst=blurred)
        np.multiply(blurred[near.part], first.back, out=part)
        front -= part
        np.clip(front, 0, 255, out=front)
        front *= share
        np.multiply(blurred[near.part], first.behind, out=back)
        cv2.blur(front, close, dst=part)
        np.multiply(part, second.front, out=front)
        cv2.blur(back, close, dst=part)
        part *= second.back
        front -= part
        np.multiply(colour[near.part], share, out=part)
        # Rounds half to even, and clips.
        planes.append(cv2.add(front[core.part], part[core.part], dtype=cv2.CV_8U))
    result[:] = cv2.merge(planes)


class _Weights(NamedTuple):
    """What blurred colours count with: see `_fuse_twice`.

    Attributes:
        front: of the foreground's, in the corrected foreground.
        back: of the background's, to be taken off.
        behind: of the background's, in the background weighted by its share.
    """

    front: Plane
    back: Plane
    behind: Plane


def _weights(alpha: Plane, blurred: Plane, name: str, buffers: _Buffers) -> _Weights:
    front, back, behind = (buffers.take(f"{name} {part}", alpha.shape) for part in _Weights._fields)
    np.subtract(1 + _EPSILON, blurred, out=back)
    np.subtract(1, alpha, out=behind)
    behind /= back
    np.multiply(alpha, behind, out=back)
    np.multiply(alpha, alpha, out=front)
    np.subtract(1, front, out=front)
    front /= blurred + _EPSILON
    return _Weights(front, back, behind)
