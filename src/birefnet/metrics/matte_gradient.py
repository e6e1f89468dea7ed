"""Gradient error of mattes: whether their edges are as sharp as the truth's."""

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.metrics.matte_errors import PER, total
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Alpha, Pair

_SIGMA = 1.4
_CUT = 0.01  # the kernel ends where the Gaussian is below it


def _kernels() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian and its derivative, each of norm 1, so that their product has norm 1."""
    half = int(np.ceil(_SIGMA * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * _SIGMA * _CUT))))
    x = np.arange(-half, half + 1)
    gauss = np.exp(-(x**2) / (2 * _SIGMA**2))
    slope = x * gauss
    return gauss / np.linalg.norm(gauss), slope / np.linalg.norm(slope)


_GAUSS, _SLOPE = _kernels()


def gradient_error(
    prediction: Alpha, truth: Alpha, unknown: NDArray[np.bool_] | None = None, *, stretch: bool = False
) -> float:
    """Sum of squared differences of gradient magnitudes, in thousands.

    Rhemann et al.: "A perceptually motivated online benchmark for image matting", CVPR 2009; derivatives of a Gaussian
    of sigma 1.4.

    Args:
        prediction: (H, W) in [0, 1].
        truth: the same.
        unknown: (H, W) where to look; None: everywhere.
        stretch: map each matte's least and greatest value to 0 and 1 first, as the program published with "Deep image
            matting" does. Mattes that have both are the same either way.
    """
    ours, theirs = (_magnitude(_stretched(alpha) if stretch else alpha) for alpha in (prediction, truth))
    return total((ours - theirs) ** 2, unknown) / PER


def _stretched(alpha: Alpha) -> Alpha:
    low, high = alpha.min(), alpha.max()
    return alpha if low == high else (alpha - low) / (high - low)


def _magnitude(alpha: Alpha) -> NDArray[np.float64]:
    # In float64, because in float32 the last digits hang on where an image lies in memory.
    across, down = (
        cv2.sepFilter2D(alpha, cv2.CV_64F, *kernels, borderType=cv2.BORDER_REPLICATE)
        for kernels in ((_SLOPE, _GAUSS), (_GAUSS, _SLOPE))
    )
    return np.asarray(cv2.magnitude(across, down), np.float64)


class GradientError(Measure):
    """Grad: from 0, which is perfect, upwards; it grows with the size of images."""

    names = ("Grad",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"Grad": gradient_error(*pair.alphas, pair.unknown, stretch=self.conventions.stretch_mattes)})
