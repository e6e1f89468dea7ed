"""Agreement of what looks alike and lies near: a fully connected conditional random field, solved by mean field.

Krähenbühl and Koltun: "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011, with
their two kernels, of appearance and of smoothness. The former is applied in a grid of places and colours (Chen, Paris
and Durand: "Real-time edge-aware image processing with the bilateral grid", SIGGRAPH 2007), of which only the colours
that occur are held.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.imaging.io import Alpha

Pixels = NDArray[np.float32]

# Found on photos of `val`: docs/log.md has the measurements.
_NEAR = 1 / 8
"""Distance of the grid's places, as a share of the side of a square with as many pixels."""
_ALIKE = 4.0
"""Distance of the grid's colours, in units of CIE L*a*b*."""
_ROUNDS = 2
_SMOOTH = 1 / 128
"""Deviation of the kernel of smoothness, as a share of that side."""
_LOOKS = 0.5
"""Share of the weight that the kernel of appearance has; the rest is that of smoothness."""
_SMOOTHINGS = 3
"""How often the kernel of smoothness is applied, each time to what the time before left."""
_EVEN = 1 / 576
"""Deviation, as a share of that side, by which what pixels hear of their colours is evened out.

In a texture every pixel hears something else, which would fray the outline.
"""
_SIDE = 192
"""Side of a square with as many pixels as votes are counted at: more change nothing but the time."""
_RANGE = 128
"""More levels than a coordinate of L*a*b* has in steps of `_ALIKE`, with one to spare at both ends."""
_LEAST = 1e-4
"""What the vote of a pixel that is wholly undecided counts for."""


def settle(alphas: Alpha, colours: Pixels, weight: float) -> Alpha:
    """Let pixels that look alike and lie near each other agree.  (N, h, w) -> (N, h, w) float32.

    Every pixel hears the mean opinion (-1 for background, 1 for foreground) of those of its colour around it, the sure
    ones above all, and that of its nearest neighbours, and its logit moves by up to `weight` for them. So parts of a
    network's answer that are half transparent for want of certainty go to the side that they look like, while edges
    between colours stay where they are.

    Args:
        alphas: what the network found in N photos.
        colours: (N, 3, h, w) red, green and blue in [0, 1] of the same pixels.
        weight: how far a logit may move at most; 0 leaves everything as it is.
    """
    seen = np.ascontiguousarray(colours.transpose(0, 2, 3, 1), np.float32)
    return np.stack([_settle_one(*one, weight) for one in zip(alphas.clip(0, 1), seen, strict=True)])


def _settle_one(alpha: Alpha, colours: Pixels, weight: float) -> Alpha:
    """(h, w), (h, w, 3) -> (h, w)."""
    stride = max(1, round(np.sqrt(alpha.size) / _SIDE))
    fewer = max(1, alpha.shape[1] // stride), max(1, alpha.shape[0] // stride)
    coarse = np.asarray(cv2.resize(alpha, fewer, interpolation=cv2.INTER_AREA), np.float32)
    seen = np.asarray(cv2.resize(colours, fewer, interpolation=cv2.INTER_AREA), np.float32)
    grid = _Grid(seen)
    counted = grid.place(seen)
    looks, near = _LOOKS * weight, (1 - _LOOKS) * weight
    current = coarse
    for _ in range(_ROUNDS - 1):
        current = _moved(coarse, looks * grid.read(grid.poll(current, counted), counted))
    side = float(np.sqrt(alpha.size))
    heard = looks * cv2.GaussianBlur(grid.read(grid.poll(current, counted), grid.place(colours)), (0, 0), _EVEN * side)
    # Whose few pixels look like nothing around them has heard no one: the neighbours speak last, and more than once.
    settled = _moved(alpha, heard)
    for _ in range(_SMOOTHINGS):
        nearby = cv2.GaussianBlur(2 * settled - 1, (0, 0), _SMOOTH * side)
        settled = _moved(alpha, heard + near * nearby)
    return settled


def _moved(alpha: Alpha, logits: Pixels) -> Alpha:
    """Add to alpha's logits, which themselves may be infinite."""
    odds = np.exp(logits)
    return np.asarray(alpha * odds / (1 - alpha + alpha * odds), np.float32)


def _levels(colours: Pixels) -> NDArray[np.int64]:
    """Number the colours of pixels by their L*a*b*, in steps of `_ALIKE`."""
    steps = np.rint(cv2.cvtColor(colours, cv2.COLOR_RGB2LAB) / np.float32(_ALIKE)).astype(np.int64)
    return np.asarray(((steps[..., 0] + 1) * _RANGE + steps[..., 1]) * _RANGE + steps[..., 2] + _RANGE // 2, np.int64)


Places = tuple[NDArray[np.int64], Pixels]
"""Of all pixels: four cells of the grid, (4, h, w), and the share that each has in the pixel."""


class _Grid:
    """Cells by colour and place, the last of the colours for all that do not occur, which stays empty.

    Args:
        colours: (h, w, 3) of the pixels that vote.
    """

    def __init__(self, colours: Pixels) -> None:
        height, width = colours.shape[:2]
        self._pitch = _NEAR * np.sqrt(height * width) / np.array([height, width])
        self._levels = np.unique(_levels(colours))
        rows, columns = (int(1 / pitch) + 2 for pitch in self._pitch)
        self._shape = len(self._levels) + 1, rows, columns
        steps = [step * sign for step in (1, _RANGE, _RANGE**2) for sign in (1, -1)]
        self._beside = [self._index(self._levels + step) for step in steps]

    def _index(self, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find colours in the grid: the last for one that does not occur."""
        last = len(self._levels)
        found = np.searchsorted(self._levels, levels)
        known = self._levels[np.minimum(found, last - 1)] == levels
        return np.where(known, found, last)

    def place(self, colours: Pixels) -> Places:
        """Find the cells of pixels, (h, w, 3): between four places, at one colour."""
        _, rows, columns = self._shape
        (top, below), (left, beyond) = (
            _between(length, pitch) for length, pitch in zip(colours.shape[:2], self._pitch, strict=True)
        )
        first = self._index(_levels(colours)) * (rows * columns) + top[:, None] * columns + left
        vertical, horizontal = np.stack([1 - below, below]), np.stack([1 - beyond, beyond])
        cells = np.stack([first + down * columns + across for down in (0, 1) for across in (0, 1)])
        shares = vertical[:, None, :, None] * horizontal[None, :, None, :]
        return cells, shares.reshape(cells.shape)

    def poll(self, alpha: Alpha, places: Places) -> Pixels:
        """Count the votes of pixels around every cell: the mean opinion, weighted by how sure it is: (cells,)."""
        opinion = 2 * alpha - 1
        certainty = np.abs(opinion) + np.float32(_LEAST)
        votes, voters = (self._blur(self._count(values, places)) for values in (opinion * certainty, certainty))
        return np.asarray(np.divide(votes, voters, out=np.zeros_like(votes), where=voters > 0).ravel(), np.float32)

    def read(self, values: Pixels, places: Places) -> Pixels:
        """Read what a grid's cells hold where pixels lie.  (cells,) -> (h, w)."""
        cells, shares = places
        return np.asarray((shares * values[cells]).sum(0), np.float32)

    def _count(self, values: Pixels, places: Places) -> Pixels:
        cells, shares = places
        counts = np.bincount(cells.ravel(), (shares * values).ravel(), int(np.prod(self._shape)))
        return counts.astype(np.float32).reshape(self._shape)

    def _blur(self, cells: Pixels) -> Pixels:
        """Mix each cell with those beside it, by 1/4, 1/2 and 1/4 along each axis."""
        for darker, brighter in zip(self._beside[::2], self._beside[1::2], strict=True):
            quarter = cells * np.float32(0.25)
            cells = quarter + quarter
            cells[:-1] += quarter[darker]
            cells[:-1] += quarter[brighter]
        for axis in (1, 2):
            quarter = np.moveaxis(cells * np.float32(0.25), axis, 0)
            cells = quarter + quarter
            cells[1:] += quarter[:-1]
            cells[:-1] += quarter[1:]
            cells = np.moveaxis(cells, 0, axis)
        return cells


def _between(length: int, pitch: float) -> tuple[NDArray[np.int64], Pixels]:
    """Between which two of the grid's places a side's pixels lie: the first, and how far they are to the second."""
    place = (np.arange(length) + 0.5) / (length * pitch)
    first = place.astype(np.int64)
    return first, (place - first).astype(np.float32)
