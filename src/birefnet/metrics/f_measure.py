"""F-measure: precision and recall in one number, at 256 thresholds and at an adaptive one."""

from typing import ClassVar

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Counts, Curve, Pair, ratio

BETA_SQUARED = 0.3


def precision_recall(found: Counts, foreground: int) -> tuple[Curve, Curve]:
    """Precision and recall, 0 where nothing was found or is to be found.  (2, ...) -> (...), (...).

    Args:
        found: number of pixels found in the truth's background and foreground, at any number of thresholds.
        foreground: number of the truth's foreground pixels.
    """
    return ratio(found[1], found.sum(0)), found[1] / max(foreground, 1)


def f_measure(precision: Curve, recall: Curve, beta_squared: float = BETA_SQUARED) -> Curve:
    """Weighted harmonic mean of precision and recall, 0 where both are.

    Achanta et al.: "Frequency-tuned salient region detection", CVPR 2009, from which beta² 0.3 is.
    """
    return ratio((1 + beta_squared) * precision * recall, beta_squared * precision + recall)


class FMeasure(Measure):
    """Greatest, mean and adaptive F-measure; curves "F", "precision" and "recall". From 0 to 1, which is perfect."""

    names = ("maxF", "meanF", "adpF")
    best: ClassVar[dict[str, str]] = {"maxF": "F"}

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        precision, recall = precision_recall(pair.found, pair.foreground)
        curve = f_measure(precision, recall)
        adaptive = f_measure(*precision_recall(pair.found_adaptively, pair.foreground))
        values = {"maxF": float(curve.max()), "meanF": float(curve.mean()), "adpF": float(adaptive)}
        return Reading(values, {"F": curve, "precision": precision, "recall": recall})
