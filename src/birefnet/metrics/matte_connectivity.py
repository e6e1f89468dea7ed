"""Connectivity error of mattes: what hangs apart from the object where it should not, or the other way round."""

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.metrics.matte_errors import PER, total
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Alpha, Pair

_STEPS = 10
_LEVELS = (np.arange(_STEPS + 1) / _STEPS).astype(np.float32)
_TOLERANCE = np.float32(0.15)


def connectivity_error(prediction: Alpha, truth: Alpha, unknown: NDArray[np.bool_] | None = None) -> float:
    """Sum of absolute differences of the degrees of connectedness, in thousands.

    Rhemann et al.: "A perceptually motivated online benchmark for image matting", CVPR 2009. A pixel is connected up
    to the greatest of the thresholds 0, 0.1, ..., 1 at which it belongs to the largest region, of four neighbours
    each, that is at least as opaque in both mattes. What exceeds that level by 0.15 or more counts as disconnected.
    Of two largest regions that with the uppermost pixel counts.

    Args:
        prediction: (H, W) in [0, 1].
        truth: the same.
        unknown: (H, W) where to look; None: everywhere.
    """
    common = np.minimum(prediction, truth)
    connected = np.ones(common.shape, np.bool_)
    steps = np.zeros(common.shape, np.uint8)
    for step in range(1, _STEPS + 1):
        connected &= _largest_region(common >= _LEVELS[step])
        steps += connected
    level = _LEVELS.take(steps)
    difference = _connectedness(prediction, level) - _connectedness(truth, level)
    return total(np.abs(difference), unknown) / PER


def _largest_region(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    number, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if number == 1:  # background alone
        return np.zeros_like(mask)
    sizes = statistics[1:, cv2.CC_STAT_AREA]
    largest = np.flatnonzero(sizes == sizes.max()) + 1
    if len(largest) > 1:  # OpenCV numbers regions in an order of its own, but knows where each begins
        tops = statistics[largest, cv2.CC_STAT_TOP]
        largest = largest[tops == tops.min()]
    if len(largest) > 1:  # with their uppermost pixels in one row, the leftmost of which counts
        row = labels[statistics[largest[0], cv2.CC_STAT_TOP]]
        return np.asarray(labels == row[np.isin(row, largest)][0])
    return np.asarray(labels == largest[0])


def _connectedness(alpha: Alpha, level: Alpha) -> Alpha:
    excess = alpha - level
    return 1 - np.where(excess >= _TOLERANCE, excess, np.float32(0))


class ConnectivityError(Measure):
    """Conn: from 0, which is perfect, upwards; it grows with the size of images."""

    names = ("Conn",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"Conn": connectivity_error(*pair.alphas, pair.unknown)})
