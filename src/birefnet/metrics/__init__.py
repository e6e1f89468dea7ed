"""How good masks and mattes are: every measure of the field, exact and fast; `docs/metrics.md` defines each.

    scorer = Scorer()
    for prediction, truth in pairs:
        scorer.update(prediction, truth)
    scorer.compute()["maxF"]

numpy and OpenCV only.
"""

from birefnet.metrics.conventions import PYSODMETRICS, REFERENCE, Conventions
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Pair
from birefnet.metrics.scorer import LOWER_IS_BETTER, MASK_MEASURES, MATTE_MEASURES, MEASURES, Scorer

__all__ = [
    "LOWER_IS_BETTER",
    "MASK_MEASURES",
    "MATTE_MEASURES",
    "MEASURES",
    "PYSODMETRICS",
    "REFERENCE",
    "Conventions",
    "Measure",
    "Pair",
    "Reading",
    "Scorer",
]
