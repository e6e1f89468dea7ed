"""Mean boundary accuracy: agreement with the truth in bands about its edge."""

import cv2

from birefnet.metrics.bits import Bits
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Pair

_STEPS = 5
_SIDES_PER_RADIUS = 300


def mean_boundary_accuracy(prediction: Bits, truth: Bits) -> float:
    """Share of pixels in a band about the truth's edge that are right, averaged over five widths of the band.

    Cheng et al.: "CascadePSP: Toward class-agnostic and very high-resolution segmentation via global and local
    refinement", CVPR 2020. A truth without an edge has no band: then the whole image counts.
    """
    height, width = truth.shape
    agreement = ~(prediction ^ truth)
    # For small images the greatest radius would be below the least; cutting towards 0 then leaves the least.
    growth = ((height + width) / _SIDES_PER_RADIUS - 1) / _STEPS
    bands: dict[int, float] = {}
    for step in range(_STEPS):
        radius = 1 + int(growth * step)
        if radius not in bands:
            disk = _disk(radius)
            band = truth.dilate(disk) ^ truth.erode(disk)
            size = band.count()
            if size == 0:
                return agreement.count() / (height * width)
            bands[radius] = (agreement & band).count() / size
    return sum(bands[1 + int(growth * step)] for step in range(_STEPS)) / _STEPS


def _disk(radius: int) -> list[int]:
    """Half widths of the rows of OpenCV's round kernel, from the middle row outwards."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return [int(row.sum()) // 2 for row in kernel[radius:]]


class MeanBoundaryAccuracy(Measure):
    """mBA: from 0 to 1, which is perfect; an inverted edge is near 0, a missing one near one half."""

    names = ("mBA",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        return Reading({"mBA": mean_boundary_accuracy(pair.prediction_bits, pair.truth_bits)})
