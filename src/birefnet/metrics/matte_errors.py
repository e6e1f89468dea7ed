"""Sum of absolute differences and mean squared error of mattes."""

import numpy as np
from numpy.typing import NDArray

from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Alpha, Pair

PER = 1000
"""Sums over pixels are given in thousands, as papers on matting have them."""


def absolute_difference(prediction: Alpha, truth: Alpha, unknown: NDArray[np.bool_] | None = None) -> float:
    """Sum of absolute differences, in thousands.

    Rhemann et al.: "A perceptually motivated online benchmark for image matting", CVPR 2009.

    Args:
        prediction: (H, W) in [0, 1].
        truth: the same.
        unknown: (H, W) where to look; None: everywhere.
    """
    return total(np.abs(prediction - truth), unknown) / PER


def matte_squared_error(prediction: Alpha, truth: Alpha, unknown: NDArray[np.bool_] | None = None) -> float:
    """Mean squared difference, 0 if there is nowhere to look; arguments as those of `absolute_difference`."""
    area = prediction.size if unknown is None else int(np.count_nonzero(unknown))
    return total((prediction - truth) ** 2, unknown) / max(area, 1)


def total(image: Alpha | NDArray[np.float64], unknown: NDArray[np.bool_] | None) -> float:
    """Sum an image where to look, in float64."""
    return float((image if unknown is None else image[unknown]).sum(dtype=np.float64))


class AbsoluteDifference(Measure):
    """SAD: from 0, which is perfect, upwards; it grows with the size of images."""

    names = ("SAD",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"SAD": absolute_difference(*pair.alphas, pair.unknown)})


class MatteSquaredError(Measure):
    """MSE of mattes, neither stretched nor binarised: from 0, which is perfect, to 1."""

    names = ("matteMSE",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"matteMSE": matte_squared_error(*pair.alphas, pair.unknown)})
