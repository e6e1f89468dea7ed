"""Where to lay windows over a photo so that they cover a part of it: geometry alone, no pixels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Window(NamedTuple):
    """A rectangle of pixels, or of cells of them; the last two are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def part(self) -> tuple[slice, slice]:
        """The rectangle as an index of an (H, W) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, size: tuple[int, int]) -> "Window":
        """The rectangle with a margin, as far as a photo of `size` has it."""
        return Window(
            max(self.top - margin, 0),
            max(self.left - margin, 0),
            min(self.bottom + margin, size[0]),
            min(self.right + margin, size[1]),
        )

    def within(self, outer: "Window") -> "Window":
        """The same rectangle, counted from the corner of one that holds it."""
        return Window(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)


def cover(cells: Mask, size: tuple[int, int], window: tuple[int, int], margin: tuple[int, int]) -> list[Window]:
    """Lay few windows of one size over the marked cells of a photo.

    Each marked cell lies whole in some window, and at least `margin` pixels from the window's borders, but for those
    that are the photo's own. The windows are set greedily: a strip of them begins at the first row (or column) that is
    not covered yet, each window in it at the first cell that is not; then each is centred on the cells it covers, so
    that a network sees as much on one side of them as on the other. Of strips along rows and along columns the fewer
    windows are taken, rows if they are as many.

    Args:
        cells: (h, w) bool, a grid over the photo, whose cells are as even as whole pixels allow.
        size: (H, W) of the photo in pixels.
        window: (height, width) of the windows; a longer side than the photo's becomes the photo's.
        margin: (rows, columns) at a window's borders that do not count as covered. A cell must fit between them.

    Returns:
        The windows from top to bottom or from left to right, inside the photo; the same for the same input.
    """
    rows, columns = (_edges(length, count) for length, count in zip(size, cells.shape, strict=True))
    shape = min(window[0], size[0]), min(window[1], size[1])
    along_rows = _strips(cells, rows, columns, window, margin)
    along_columns = [(top, left) for left, top in _strips(cells.T, columns, rows, window[::-1], margin[::-1])]
    starts = along_rows if len(along_rows) <= len(along_columns) else along_columns
    return [Window(top, left, top + shape[0], left + shape[1]) for top, left in starts]


def taper(window: Window, size: tuple[int, int], margin: tuple[int, int]) -> NDArray[np.float32]:
    """Weights of a window's pixels: 1 in its core, falling as a cosine to almost 0 at the borders it has in the photo.

    Args:
        window: the rectangle.
        size: (H, W) of the photo; at the photo's own borders the weights stay 1.
        margin: over how many rows and columns they fall.

    Returns:
        (h, w) float32 in (0, 1].
    """
    rows = _ramp(window.bottom - window.top, margin[0], window.top > 0, window.bottom < size[0])
    columns = _ramp(window.right - window.left, margin[1], window.left > 0, window.right < size[1])
    return np.outer(rows, columns)


def _ramp(length: int, margin: int, falls_before: bool, falls_after: bool) -> NDArray[np.float32]:
    ramp = np.ones(length, np.float32)
    if margin:
        rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, margin + 1) / (margin + 1))).astype(np.float32)
        if falls_before:
            ramp[:margin] *= rise
        if falls_after:
            ramp[-margin:] *= rise[::-1]
    return ramp


def _edges(length: int, count: int) -> NDArray[np.intp]:
    """Where each of `count` even cells begins, and where the last one ends.  -> (count + 1,)."""
    return np.arange(count + 1) * length // count


def _strips(
    cells: Mask,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    window: tuple[int, int],
    margin: tuple[int, int],
) -> list[tuple[int, int]]:
    """Set windows in strips along the rows.  -> (top, left) of each."""
    starts = []
    for first, after in _line(_any(cells, axis=1), rows, window[0], margin[0]):
        strip = cells[first:after]
        for begin, end in _line(_any(strip, axis=0), columns, window[1], margin[1]):
            held = strip[:, begin:end]
            top = _centred(first, _any(held, axis=1), rows, window[0], margin[0])
            starts.append((top, _centred(begin, _any(held, axis=0), columns, window[1], margin[1])))
    return starts


def _any(cells: Mask, *, axis: int) -> Mask:
    return np.asarray(cells.any(axis=axis))


def _line(marked: Mask, edges: NDArray[np.intp], window: int, margin: int) -> list[tuple[int, int]]:
    """Divide the marked cells of a line greedily into runs that a window holds: (first cell, cell after the last)."""
    length = int(edges[-1])
    runs, cell = [], 0
    while cell < len(marked):
        if not marked[cell]:
            cell += 1
            continue
        start = max(0, min(int(edges[cell]) - margin, length - window))
        reach = length if start + window >= length else start + window - margin
        after = int(np.searchsorted(edges, reach, side="right")) - 1
        assert after > cell, "a cell must fit between the margins of a window"
        runs.append((cell, after))
        cell = after
    return runs


def _centred(first: int, marked: Mask, edges: NDArray[np.intp], window: int, margin: int) -> int:
    """Start of the window whose middle is that of its marked cells, as far as margins and the photo's borders allow."""
    held = np.flatnonzero(marked) + first
    low, high, length = int(edges[held[0]]), int(edges[held[-1] + 1]), int(edges[-1])
    start = max(min((low + high - window) // 2, low - margin), high + margin - window)
    return max(0, min(start, length - window))
