"""Boundary IoU: intersection over union of the pixels near the masks' own edges."""

from typing import ClassVar

import cv2
import numpy as np

from birefnet.metrics.bits import Mask
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Curve, Pair, histogram, reaching

_DISTANCE = 0.02


def boundary_iou(stretched: Mask, truth: Mask) -> Curve:
    """Boundary IoU at the thresholds 255, 254, ..., 0.  (H, W), (H, W) -> (256,).

    Cheng et al.: "Boundary IoU: Improving object-centric image segmentation evaluation", CVPR 2021; the edges are as
    wide as 2% of the diagonal and lie within the masks. As the reference does it, the grey prediction is reduced to
    its edges once, and thresholded after: 0 throughout where the truth is empty.

    Args:
        stretched: the prediction in 256 levels.
        truth: of 0 and 1.
    """
    height, width = truth.shape
    distance = max(round(_DISTANCE * float(np.hypot(height, width))), 1)
    edge = _edge(truth, distance)
    levels = _edge(stretched, distance)
    foreground = histogram(levels, edge)
    background = histogram(levels) - foreground
    false, right = reaching(np.stack([background, foreground]), np.arange(256, dtype=np.uint8))
    curve: Curve = right / (max(int(foreground.sum()), 1) + false)
    return curve


def _edge(image: Mask, distance: int) -> Mask:
    """An image less what is left of it at a distance from its edge; beyond the image's border is nothing."""
    # One minimum over a square of 2 d + 1 is d minima over squares of 3.
    around = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    inner = cv2.erode(image, around, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(cv2.subtract(image, inner), np.uint8)


class BoundaryIoU(Measure):
    """Greatest and mean boundary IoU, and the curve "BIoU". From 0 to 1, which is perfect."""

    names = ("maxBIoU", "meanBIoU")
    best: ClassVar[dict[str, str]] = {"maxBIoU": "BIoU"}

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        curve = boundary_iou(np.asarray(cv2.LUT(pair.levels, pair.bins), np.uint8), pair.truth)
        return Reading({"maxBIoU": float(curve.max()), "meanBIoU": float(curve.mean())}, {"BIoU": curve})
