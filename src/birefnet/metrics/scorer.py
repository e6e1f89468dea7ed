"""Several measures at once, over a data set or parts of it."""

from collections.abc import Iterable
from pathlib import Path

from birefnet.errors import InputError
from birefnet.metrics.bits import Mask
from birefnet.metrics.boundary_accuracy import MeanBoundaryAccuracy
from birefnet.metrics.boundary_iou import BoundaryIoU
from birefnet.metrics.conventions import Conventions
from birefnet.metrics.e_measure import EMeasure
from birefnet.metrics.f_measure import FMeasure
from birefnet.metrics.hce import HumanCorrectionEffort
from birefnet.metrics.matte_connectivity import ConnectivityError
from birefnet.metrics.matte_errors import AbsoluteDifference, MatteSquaredError
from birefnet.metrics.matte_gradient import GradientError
from birefnet.metrics.measure import Measure
from birefnet.metrics.overlap import Dice, IoU
from birefnet.metrics.pair import Curve, Image, Pair
from birefnet.metrics.pixel_errors import MeanAbsoluteError, MeanSquaredError
from birefnet.metrics.s_measure import SMeasure
from birefnet.metrics.weighted_f import WeightedFMeasure

MEASURES: dict[str, type[Measure]] = {
    "S": SMeasure,
    "MAE": MeanAbsoluteError,
    "MSE": MeanSquaredError,
    "E": EMeasure,
    "F": FMeasure,
    "wF": WeightedFMeasure,
    "HCE": HumanCorrectionEffort,
    "mBA": MeanBoundaryAccuracy,
    "BIoU": BoundaryIoU,
    "IoU": IoU,
    "Dice": Dice,
    "SAD": AbsoluteDifference,
    "matteMSE": MatteSquaredError,
    "Grad": GradientError,
    "Conn": ConnectivityError,
}

MASK_MEASURES = ("S", "MAE", "MSE", "E", "F", "wF", "HCE", "mBA", "BIoU")
"""What papers on high-resolution dichotomous segmentation report."""
MATTE_MEASURES = ("SAD", "matteMSE", "Grad", "Conn")
"""What papers on matting report."""

LOWER_IS_BETTER = frozenset(["MAE", "MSE", "HCE", "SAD", "matteMSE", "Grad", "Conn"])
"""Values that are errors."""


class Scorer:
    """Measures that look at the same pairs and share what they compute of them.

    A scorer may be pickled, so that each process scores a part of a data set and sends its scorer back for merging.

    Args:
        measures: names in `MEASURES`.
        conventions: how predictions and truths are prepared.
        cache: folder where skeletons of truths are kept, by content, which is made if need be; HCE is then several
            times faster when the same truths are scored again.

    Raises:
        InputError: an unknown measure, or none.
    """

    def __init__(
        self,
        measures: Iterable[str] = MASK_MEASURES,
        conventions: Conventions | None = None,
        cache: str | Path | None = None,
    ) -> None:
        names = tuple(dict.fromkeys(measures))
        unknown = [name for name in names if name not in MEASURES]
        if unknown or not names:
            raise InputError(f"unknown measures {unknown}: choose from {', '.join(MEASURES)}")
        self.conventions = conventions or Conventions()
        self.cache = None if cache is None else Path(cache)
        self.measures = {name: MEASURES[name](self.conventions) for name in names}

    @property
    def images(self) -> int:
        """Number of pairs so far."""
        return next(iter(self.measures.values())).images

    def update(self, prediction: Image, truth: Image, trimap: Mask | None = None) -> dict[str, float]:
        """Score a prediction, as `Pair` describes it, and give its own values.

        Raises:
            InputError: prediction and truth are no images of one size.
            OutputError: a skeleton cannot be kept.
        """
        pair = Pair(prediction, truth, conventions=self.conventions, trimap=trimap, cache=self.cache)
        # All are read before any takes the pair in: an error leaves no half of an image behind.
        readings = [measure.read(pair) for measure in self.measures.values()]
        values: dict[str, float] = {}
        for measure, reading in zip(self.measures.values(), readings, strict=True):
            values |= measure.take(reading)
        return values

    def compute(self) -> dict[str, float]:
        """Means over the pairs so far, by the field's names; see `Measure.compute`.

        Raises:
            InputError: there are no pairs.
        """
        means: dict[str, float] = {}
        for measure in self.measures.values():
            means |= measure.compute()
        return means

    def curves(self) -> dict[str, Curve]:
        """Mean curves over the thresholds 255, 254, ..., 0, among them "precision" and "recall": (256,)."""
        curves: dict[str, Curve] = {}
        for measure in self.measures.values():
            curves |= measure.curves()
        return curves

    def merge(self, other: "Scorer") -> None:
        """Take in what another scorer of the same measures and conventions gathered.

        Raises:
            InputError: its measures or conventions are others.
        """
        if other.measures.keys() != self.measures.keys() or other.conventions != self.conventions:
            raise InputError("scorers merge only with the same measures and conventions")
        for name, measure in self.measures.items():
            measure.merge(other.measures[name])
