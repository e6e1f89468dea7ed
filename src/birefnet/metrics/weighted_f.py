"""Weighted F-measure: errors count by where they are, and not as if pixels were independent."""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.metrics.bits import Mask
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Curve, Pair

_EPSILON = float(np.spacing(1.0))
_BETA_SQUARED = 1.0
_WINDOW, _SIGMA = 7, 5.0
_HALVING = 5.0  # distance in pixels over which the discount of an error near the foreground halves
# Beyond 53 halvings the discount is less than half of a float64's last digit.
_FAR = int(53 * _HALVING)
_MARGIN = _WINDOW // 2
_REACH = int(np.hypot(_MARGIN, _MARGIN))
_FRAME = _MARGIN + _REACH  # a window about a pixel, and from its rim the way to the nearest foreground pixel
_TILE = 256

Number = TypeVar("Number", np.uint8, np.float32)


def _offsets() -> dict[int, list[tuple[int, int]]]:
    """For each squared distance within the window, the steps (row, column) of that length.

    Of foreground pixels equally near the leftmost counts, then the topmost: so does the distance transform of scipy,
    with which published figures were made, and another order changes them.
    """
    steps: dict[int, list[tuple[int, int]]] = {}
    for column in range(-_REACH, _REACH + 1):
        for row in range(-_REACH, _REACH + 1):
            length = row * row + column * column
            if 0 < length <= 2 * _MARGIN**2:
                steps.setdefault(length, []).append((row, column))
    return dict(sorted(steps.items()))


_OFFSETS = _offsets()
_KERNEL = np.exp(-(np.arange(-_MARGIN, _MARGIN + 1) ** 2) / (2 * _SIGMA**2))
_KERNEL /= _KERNEL.sum()
_WEIGHTS = 2 - 0.5 ** (np.sqrt(np.arange(_FAR**2 + 1)) / _HALVING)


def weighted_f(levels: Mask, truth: Mask, values: Curve, beta_squared: float = _BETA_SQUARED) -> float:
    """Weighted F-measure; 0 for an empty truth.

    Margolin et al.: "How to evaluate foreground maps?", CVPR 2014. An error in the foreground counts as what is left
    of it after blurring, where errors of the background are those of the nearest foreground pixel; an error in the
    background counts up to twice, the farther it is from the foreground.

    What blurring needs of the background is at most three pixels from the foreground. So instead of a map of the
    nearest foreground pixel of every pixel, which takes longer than all the rest, only those few are looked for, at
    the distance that is already known; and only in tiles where the foreground has errors.

    Args:
        levels: (H, W) the prediction.
        truth: (H, W) of 0 and 1.
        values: (256,) what each level stands for.
        beta_squared: weight of precision.
    """
    foreground = int(cv2.countNonZero(truth))
    if foreground == 0:
        return 0.0
    distance = np.asarray(cv2.distanceTransform(1 - truth, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    lost, false = 0.0, 0.0
    height, width = truth.shape
    # Tiles fit the processor's caches, and what is between the steps takes no memory.
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            tile = np.s_[top : top + _TILE, left : left + _TILE]
            false += _false(levels[tile], truth[tile], distance[tile], values)
            wrong = truth[tile].view(np.bool_) & (values != 1).take(levels[tile])
            if wrong.any():
                framed_errors = np.where(_framed(truth, top, left), (1 - values).take(_framed(levels, top, left)), -1.0)
                lost += _lost(framed_errors, _framed(distance, top, left), wrong)
    recall = 1 - lost / foreground
    precision = (foreground - lost) / (foreground - lost + false + _EPSILON)
    return (1 + beta_squared) * recall * precision / (recall + beta_squared * precision + _EPSILON)


def _framed(image: NDArray[Number], top: int, left: int) -> NDArray[Number]:
    """A tile of an image with as much around it as its pixels depend on, 0 beyond the image."""
    height, width = image.shape
    ends = (min(top + _TILE, height) + _FRAME, min(left + _TILE, width) + _FRAME)
    starts = (top - _FRAME, left - _FRAME)
    part = image[max(starts[0], 0) : ends[0], max(starts[1], 0) : ends[1]]
    beyond = [(max(-starts[0], 0), max(ends[0] - height, 0)), (max(-starts[1], 0), max(ends[1] - width, 0))]
    return np.pad(part, beyond)


def _lost(errors: Curve, distance: NDArray[np.float32], wrong: NDArray[np.bool_]) -> float:
    """Sum the errors in the foreground of a tile, each as it is or as it is blurred, whichever is less.

    Args:
        errors: (h + 14, w + 14) of the foreground, -1 in the background.
        distance: (h + 14, w + 14) to the foreground.
        wrong: (h, w) where the foreground has errors.
    """
    # Flat and framed: a step to a neighbour is a difference of indices, and leaves the tile nowhere.
    stride = errors.shape[1]
    flat = errors.reshape(-1)
    # Squared distances are whole numbers, which float32 distances round to. Zero is the foreground, and the frame
    # from which a step may lead out.
    near = np.zeros(errors.shape, np.uint8)
    within = np.s_[_REACH:-_REACH, _REACH:-_REACH]
    near[within] = np.rint(np.minimum(distance[within], _REACH + 1) ** 2)
    flat_near = near.reshape(-1)
    nearest = np.maximum(flat, 0)
    for length, steps in _OFFSETS.items():
        places = np.flatnonzero(flat_near == length)
        for row, column in steps:
            if len(places) == 0:
                break
            found = flat.take(places + (row * stride + column))
            reached = found >= 0
            nearest[places[reached]] = found[reached]
            places = places[~reached]
    blurred = cv2.sepFilter2D(
        nearest.reshape(errors.shape), cv2.CV_64F, _KERNEL, _KERNEL, borderType=cv2.BORDER_CONSTANT
    )
    core = np.s_[_FRAME:-_FRAME, _FRAME:-_FRAME]
    return float(np.minimum(errors[core][wrong], blurred[core][wrong]).sum())


def _false(levels: Mask, truth: Mask, distance: NDArray[np.float32], values: Curve) -> float:
    """Sum the errors in the background of a tile, each by its weight."""
    places = (truth == 0) & (values != 0).take(levels)
    if not places.any():
        return 0.0
    squares = np.rint(np.minimum(distance[places], _FAR) ** 2).astype(np.intp)
    return float(np.dot(values.take(levels[places]), _WEIGHTS.take(squares)))


class WeightedFMeasure(Measure):
    """wF: from 0 to 1, which is perfect."""

    names = ("wF",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"wF": weighted_f(pair.levels, pair.truth, pair.values)})
