"""A prediction and its truth, with all that several measures need of them computed once."""

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.errors import InputError
from birefnet.metrics.bits import Bits, Mask
from birefnet.metrics.conventions import Conventions
from birefnet.metrics.skeleton import skeleton

Image = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64] | NDArray[np.bool_]
Alpha = NDArray[np.float32]
Curve = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVELS = 256
# The histograms of OpenCV are float32, which counts exactly up to 2^24.
_COUNTED_AT_ONCE = 1 << 24


class Pair:
    """A prediction and its truth.

    Measures for masks see 256 levels, as in the files that the field's programs read: a float prediction is rounded.
    Measures for mattes see both as they are.

    Args:
        prediction: (H, W) uint8, or float in [0, 1], or bool.
        truth: the same size; uint8, float in [0, 1] or bool.
        conventions: how they are prepared.
        trimap: (H, W) uint8 for matte measures: those look only where it is neither 0 nor 255. None: everywhere.
        cache: folder where skeletons of truths are kept, by content.

    Raises:
        InputError: no images of one size, or values out of range.
    """

    def __init__(
        self,
        prediction: Image,
        truth: Image,
        *,
        conventions: Conventions | None = None,
        trimap: Mask | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.conventions = conventions or Conventions()
        self.prediction = _checked(prediction, "prediction")
        self.given_truth = _checked(truth, "truth")
        self.trimap = trimap
        self.cache = None if cache is None else Path(cache)
        for name, image in (("truth", truth), ("trimap", trimap)):
            if image is not None and image.shape != prediction.shape:
                raise InputError(f"prediction is {prediction.shape} and {name} {image.shape}: resize the prediction")
        if trimap is not None and (trimap.dtype != np.uint8 or 0 < int(trimap.max()) <= 2):
            raise InputError("a trimap is uint8: 0 for background, 255 for foreground, and 128 for what is unknown")

    @cached_property
    def levels(self) -> Mask:
        """The prediction in 256 levels."""
        return _levels(self.prediction)

    @cached_property
    def truth(self) -> Mask:
        """The binary truth, of 0 and 1."""
        above = _levels(self.given_truth) > self.conventions.truth_above
        return above.view(np.uint8)

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return self.truth.size

    @cached_property
    def foreground(self) -> int:
        """Number of the truth's foreground pixels."""
        return int(self.histograms[1].sum())

    @cached_property
    def centre(self) -> tuple[int, int]:
        """Row and column of the truth's centre of mass, of an empty one the image's middle, rounded to even."""
        height, width = self.truth.shape
        rows = _sums(self.truth, axis=1)
        columns = _sums(self.truth, axis=0)
        total = int(rows.sum())
        if total == 0:
            return round(height / 2), round(width / 2)
        row, column = (int(np.dot(sums, np.arange(len(sums)))) / total for sums in (rows, columns))
        return round(row), round(column)

    @cached_property
    def quarters(self) -> Counts:
        """Histograms of the prediction in the four parts that meet in the truth's centre.

        Nearly every measure follows from these counts alone, so they are the one look at all pixels that it takes.

        Returns:
            (2, 2, 2, 256): in the truth's background and foreground, above and below, to the left and to the right.
        """
        counts = np.zeros((2, 2, 2, LEVELS), np.int64)
        row, column = (place + 1 for place in self.centre)  # the centre's own row and column belong to the first part
        for lower, rows in enumerate((np.s_[:row], np.s_[row:])):
            for right, columns in enumerate((np.s_[:column], np.s_[column:])):
                levels, truth = self.levels[rows, columns], self.truth[rows, columns]
                counts[1, lower, right] = histogram(levels, truth)
                counts[0, lower, right] = histogram(levels) - counts[1, lower, right]
        return counts

    @cached_property
    def histograms(self) -> Counts:
        """Histograms of the prediction in the truth's background and foreground.  (2, 256)."""
        counts: Counts = self.quarters.sum((1, 2))
        return counts

    @cached_property
    def ends(self) -> tuple[int, int]:
        """The levels that are mapped to 0 and 1; those of the whole range where all pixels are alike."""
        present = np.flatnonzero(self.histograms.sum(0))
        if not self.conventions.stretch or len(present) < 2:
            return 0, LEVELS - 1
        return int(present[0]), int(present[-1])

    @cached_property
    def values(self) -> Curve:
        """The prediction's value in [0, 1] that each level stands for.  (256,)."""
        low, high = (end / 255 for end in self.ends)
        # In this order of operations, because whether a value is cut to this bin or the one below hangs on it.
        values: Curve = ((np.arange(LEVELS) / 255 - low) / (high - low)).clip(0, 1)
        return values

    @cached_property
    def bins(self) -> Mask:
        """Of the 256 thresholds, the greatest that each level reaches; cut, not rounded, as everyone does.  (256,)."""
        return (self.values * 255).astype(np.uint8)

    @cached_property
    def found(self) -> Counts:
        """Pixels of the truth's background and foreground that reach the thresholds 255, 254, ..., 0.  (2, 256)."""
        return reaching(self.histograms, self.bins)

    @cached_property
    def found_adaptively(self) -> Counts:
        """Pixels of the truth's background and foreground at twice the mean value or more, at most 1.  (2,).

        In whole numbers: rounding must not decide about a level that is exactly twice the mean.
        """
        low, high = self.ends
        above = np.arange(LEVELS) - low
        total = int(np.dot(self.histograms.sum(0), above))
        enough = above * self.area >= min(2 * total, (high - low) * self.area)
        counts: Counts = self.histograms[:, enough].sum(1)
        return counts

    @cached_property
    def chosen(self) -> NDArray[np.bool_]:
        """The levels that are foreground in a binary prediction.  (256,)."""
        above = self.conventions.prediction_above
        return self.values > 0.5 if above is None else np.arange(LEVELS) > above

    @cached_property
    def truth_bits(self) -> Bits:
        """The binary truth."""
        return Bits.pack(self.truth)

    @cached_property
    def prediction_bits(self) -> Bits:
        """The binary prediction."""
        return Bits.pack(np.asarray(cv2.LUT(self.levels, self.chosen.view(np.uint8)), np.uint8))

    @cached_property
    def skeleton(self) -> Bits:
        """The truth's skeleton."""
        return skeleton(self.truth_bits, self.cache)

    @cached_property
    def alphas(self) -> tuple[Alpha, Alpha]:
        """Prediction and truth as mattes, in [0, 1]."""
        return _alpha(self.prediction), _alpha(self.given_truth)

    @cached_property
    def unknown(self) -> NDArray[np.bool_] | None:
        """Where matte measures look; None: everywhere."""
        return None if self.trimap is None else (self.trimap != 0) & (self.trimap != 255)


def histogram(levels: Mask, mask: Mask | None = None) -> Counts:
    """Count the levels of an image where a mask is not 0.  (H, W) -> (256,)."""
    counts = np.zeros(LEVELS, np.int64)
    if levels.size == 0:
        return counts
    rows = max(_COUNTED_AT_ONCE // levels.shape[1], 1)
    for top in range(0, len(levels), rows):
        part = np.s_[top : top + rows]
        counted = cv2.calcHist([levels[part]], [0], None if mask is None else mask[part], [LEVELS], [0, LEVELS])
        counts += counted.reshape(-1).astype(np.int64)
    return counts


def reaching(histograms: Counts, bins: Mask) -> Counts:
    """Count what reaches each of the thresholds 255, 254, ..., 0.  (..., 256) -> (..., 256)."""
    # By bin first: several levels may share one, and one may have none.
    bin_of_level = bins[:, None] == np.arange(LEVELS)
    counts: Counts = (histograms @ bin_of_level.astype(np.int64))[..., ::-1].cumsum(-1)
    return counts


def ratio(numerator: Curve | Counts, denominator: Curve | Counts) -> Curve:
    """Divide, with 0 for a denominator of 0."""
    divisible = np.asarray(denominator, np.float64)
    return np.divide(numerator, divisible, out=np.zeros_like(divisible), where=divisible != 0)


def _checked(image: Image, name: str) -> Image:
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"{name} is {image.shape}: give a grey image (height, width)")
    if image.dtype in (np.uint8, np.bool_):
        return image
    if image.dtype not in (np.float32, np.float64):
        raise InputError(f"{name} is {image.dtype}: give uint8, bool, or float in [0, 1]")
    if not (image.min() >= 0 and image.max() <= 1):  # nor is it where there is a NaN
        raise InputError(f"{name} has values outside of [0, 1]: clip it, or give uint8")
    return image


def _levels(image: Image) -> Mask:
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image, np.uint8)
    if image.dtype == np.bool_:
        return np.where(image, np.uint8(255), np.uint8(0))
    return np.rint(image * np.float32(255)).astype(np.uint8)


def _alpha(image: Image) -> Alpha:
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    return image.astype(np.float32)


def _sums(mask: Mask, axis: int) -> Counts:
    """Sum a mask over one axis.  (H, W) -> (H,) or (W,)."""
    return np.asarray(cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S), np.int64).reshape(-1)
