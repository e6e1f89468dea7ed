"""E-measure: how prediction and truth, both binary, agree in their deviations from their own means."""

from typing import ClassVar

import numpy as np

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Counts, Curve, Pair

_EPSILON = float(np.spacing(1.0))


def e_measure(found: Counts, foreground: int, area: int) -> Curve:
    """Mean enhanced alignment, which has one value for each of the four kinds of pixels.  (2, ...) -> (...).

    Fan et al.: "Enhanced-alignment measure for binary foreground map evaluation", IJCAI 2018. As in the authors'
    program the sum is divided by one pixel less than there are, so it may exceed 1 a little. Without foreground the
    measure is the share of pixels not found, without background the share of those found.

    Args:
        found: number of pixels found in the truth's background and foreground, at any number of thresholds.
        foreground: number of the truth's foreground pixels.
        area: number of pixels.
    """
    all_found = found.sum(0)
    if foreground == 0:
        total = np.asarray(area - all_found, np.float64)
    elif foreground == area:
        total = np.asarray(all_found, np.float64)
    else:
        sizes = (area - foreground, foreground)
        mean_found, mean_truth = all_found / area, foreground / area
        total = np.zeros(all_found.shape)
        for truth in (0, 1):
            for prediction in (0, 1):
                count = found[truth] if prediction else sizes[truth] - found[truth]
                ours, theirs = prediction - mean_found, truth - mean_truth
                alignment = 2 * ours * theirs / (ours**2 + theirs**2 + _EPSILON)
                total += count * (alignment + 1) ** 2 / 4
    # A single pixel would otherwise be divided by nothing.
    curve: Curve = total / max(area - 1, 1)
    return curve


class EMeasure(Measure):
    """Greatest, mean and adaptive E-measure, and the curve "E". From 0 to 1, which is perfect."""

    names = ("maxE", "meanE", "adpE")
    best: ClassVar[dict[str, str]] = {"maxE": "E"}

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        curve = e_measure(pair.found, pair.foreground, pair.area)
        adaptive = e_measure(pair.found_adaptively, pair.foreground, pair.area)
        return Reading(
            {"maxE": float(curve.max()), "meanE": float(curve.mean()), "adpE": float(adaptive)}, {"E": curve}
        )
