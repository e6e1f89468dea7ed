"""Foreground colours: at a soft edge a photo shows a mixture, of which a cut-out wants the object's share alone."""

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.imaging.io import Alpha, RgbImage

Colours = NDArray[np.float32]

RADII = (90, 6)
"""Sizes of the two box blurs: the first finds plausible colours from afar, the second fits them closely."""

TILE = 256
# What a pixel's colours depend on: half of both blurs, and one for the uneven halves of an even box.
_MARGIN = sum(RADII) // 2 + len(RADII)
# Beyond the reach of the second blur from the object the colours vanish.
_REACH = RADII[-1] // 2 + 1


def estimate_foreground(rgb: RgbImage, alpha: Alpha) -> RgbImage:
    """Estimate the object's own colours by blur fusion, in two passes.

    Forte: "Approximate Fast Foreground Colour Estimation", ICIP 2021. Where alpha is 1 the colours are the photo's;
    outside the object they go on a few pixels, so that scaling the cut-out pulls in no foreign colour, and are black
    beyond. Only tiles that hold an edge are worked on, each with the surroundings its pixels depend on, so the result
    is that of the whole photo at once.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    result = np.asarray(cv2.copyTo(rgb, (alpha > 0).view(np.uint8)), np.uint8)  # black where the mask is 0
    height, width = alpha.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            near = alpha[max(top - _REACH, 0) : bottom + _REACH, max(left - _REACH, 0) : right + _REACH]
            if near.min() == near.max() and near.max() in (0, 1):
                continue
            y, x = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
            window = np.s_[y : bottom + _MARGIN, x : right + _MARGIN]
            colours = _fuse_twice(rgb[window].astype(np.float32) / np.float32(255), alpha[window])
            core = colours[top - y : bottom - y, left - x : right - x]
            result[top:bottom, left:right] = np.rint(core * 255).astype(np.uint8)
    return result


def _fuse_twice(image: Colours, alpha: Alpha) -> Colours:
    foreground = background = image
    # Three alike, because numpy is slow to spread one value over three channels.
    weight = np.asarray(cv2.merge([alpha] * 3), np.float32)
    for radius in RADII:
        foreground, background = _fuse(image, foreground, background, weight, radius)
    return foreground


def _fuse(
    image: Colours, foreground: Colours, background: Colours, alpha: Colours, radius: int
) -> tuple[Colours, Colours]:
    """Blur both layers' colours, each weighted by its share, and correct the foreground towards the photo."""
    size = (radius, radius)
    share, rest = cv2.blur(alpha, size), 1 - alpha
    foreground = cv2.blur(foreground * alpha, size) / (share + np.float32(1e-5))
    background = cv2.blur(background * rest, size) / (1 - share + np.float32(1e-5))
    error = image - alpha * foreground - rest * background
    return (foreground + alpha * error).clip(0, 1), background
