"""Mean absolute and mean squared error of a map."""

import numpy as np

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Counts, Curve, Pair


def mean_absolute_error(histograms: Counts, values: Curve) -> float:
    """Mean distance of prediction and truth.  (2, 256), (256,).

    Perazzi et al.: "Saliency filters: Contrast based filtering for salient region detection", CVPR 2012.

    Args:
        histograms: of the prediction in the truth's background and foreground.
        values: what each level stands for.
    """
    return float(np.dot(histograms[0], values) + np.dot(histograms[1], 1 - values)) / int(histograms.sum())


def mean_squared_error(histograms: Counts, values: Curve) -> float:
    """Mean squared distance of prediction and truth; arguments as those of `mean_absolute_error`."""
    return float(np.dot(histograms[0], values**2) + np.dot(histograms[1], (1 - values) ** 2)) / int(histograms.sum())


class MeanAbsoluteError(Measure):
    """MAE: from 0, which is perfect, to 1."""

    names = ("MAE",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"MAE": mean_absolute_error(pair.histograms, pair.values)})


class MeanSquaredError(Measure):
    """MSE: from 0, which is perfect, to 1."""

    names = ("MSE",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"MSE": mean_squared_error(pair.histograms, pair.values)})
