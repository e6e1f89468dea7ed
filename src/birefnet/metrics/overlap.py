"""Intersection over union and Dice coefficient of the binary prediction."""

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Pair


def iou(shared: int, found: int, foreground: int, both_empty: float = 1.0) -> float:
    """Intersection over union; `both_empty` where neither has any foreground.

    Args:
        shared: number of pixels that are foreground in both.
        found: number of the prediction's foreground pixels.
        foreground: number of the truth's.
        both_empty: the value for two empty masks.
    """
    union = found + foreground - shared
    return shared / union if union else both_empty


def dice(shared: int, found: int, foreground: int, both_empty: float = 1.0) -> float:
    """Dice coefficient, twice the shared pixels over those of both; arguments as those of `iou`."""
    total = found + foreground
    return 2 * shared / total if total else both_empty


def _counts(pair: Pair) -> tuple[int, int, int]:
    background, foreground = (int(count) for count in pair.histograms[:, pair.chosen].sum(1))
    return foreground, background + foreground, pair.foreground


class IoU(Measure):
    """IoU: from 0 to 1, which is perfect."""

    names = ("IoU",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"IoU": iou(*_counts(pair), both_empty=self.conventions.both_empty)})


class Dice(Measure):
    """Dice: from 0 to 1, which is perfect."""

    names = ("Dice",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"Dice": dice(*_counts(pair), both_empty=self.conventions.both_empty)})
