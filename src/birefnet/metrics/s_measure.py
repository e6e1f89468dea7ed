"""S-measure: whether the prediction has the structure of the truth, as an object and in four parts."""

import math

import numpy as np

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Counts, Curve, Pair

_EPSILON = float(np.spacing(1.0))
_OBJECT_SHARE = 0.5


def s_measure(quarters: Counts, values: Curve) -> float:
    """Structure measure, from counts alone.

    Fan et al.: "Structure-measure: A new way to evaluate foreground maps", ICCV 2017, with weight 0.5. Without
    foreground it is 1 less the mean value, without background the mean value. A part without pixels, which there is
    when the centre is in the last row or column, has no weight.

    Args:
        quarters: (2, 2, 2, 256) as `Pair.quarters`.
        values: (256,) what each level stands for.
    """
    background, foreground = quarters.sum((1, 2))
    area = int(quarters.sum())
    share = int(foreground.sum()) / area
    if share in (0, 1):
        mean = float(np.dot(background + foreground, values)) / area
        return mean if share else 1 - mean
    objects = share * _likeness(foreground, values) + (1 - share) * _likeness(background, 1 - values)
    regions = 0.0
    for part in quarters.reshape(2, 4, -1).swapaxes(0, 1):
        regions += int(part.sum()) / area * _similarity(part, values)
    return max(0.0, _OBJECT_SHARE * objects + (1 - _OBJECT_SHARE) * regions)


def _likeness(counts: Counts, values: Curve) -> float:
    """How uniformly great the values are of pixels that should all be 1.  (256,), (256,)."""
    number = int(counts.sum())
    mean = float(np.dot(counts, values)) / number
    deviation = math.sqrt(float(np.dot(counts, (values - mean) ** 2)) / (number - 1)) if number > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPSILON)


def _similarity(counts: Counts, values: Curve) -> float:
    """Structural similarity of prediction and truth in a part of the image.  (2, 256), (256,).

    It is 1 where neither varies: exact arithmetic decides that, so that no rounding of a mean does.
    """
    number = int(counts.sum())
    if number == 0:
        return 0.0
    both = counts.sum(0)
    if np.count_nonzero(both) == 1:  # a flat prediction
        mean, deviations = float(values[np.flatnonzero(both)[0]]), np.zeros_like(values)
    else:
        mean = float(np.dot(both, values)) / number
        deviations = values - mean
    share = int(counts[1].sum()) / number
    degrees = number - 1 + _EPSILON
    variance = float(np.dot(both, deviations**2)) / degrees
    variance_truth = (int(counts[1].sum()) * (1 - share) ** 2 + int(counts[0].sum()) * share**2) / degrees
    covariance = float(np.dot(counts[1] * (1 - share) - counts[0] * share, deviations)) / degrees
    common = 4 * mean * share * covariance
    whole = (mean**2 + share**2) * (variance + variance_truth)
    if common != 0:
        return common / (whole + _EPSILON)
    return 1.0 if whole == 0 else 0.0


class SMeasure(Measure):
    """S: from 0 to 1, which is perfect."""

    names = ("S",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"S": s_measure(pair.quarters, pair.values)})
