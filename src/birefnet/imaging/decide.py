"""From a network's answer to a decision for each pixel: agreement by a CRF, and what that leaves to mend."""

import cv2
import numpy as np

from birefnet.imaging.crf import Pixels, settle
from birefnet.imaging.io import Alpha
from birefnet.imaging.postprocess import stretch_logits

# Found on photos of `val`: docs/log.md has the measurements.
_GAP = 1 / 32
"""How far from the foreground a gap's middle may be, as a share of the side of a square with as many pixels."""
_DOUBT = (0.2, 0.4)
"""Alphas before: gaps are not closed at the first, up to all at the second."""
_PASSES = 128
"""The most pixels that it is looked for whether a gap is open."""
_TUFT = 1 / 115
"""Half of the width below which a part counts as a tuft, as a share of that side."""
_FRAY = 5
"""Side of the square of which the outline's pixels take the median, of 3 and 5 that OpenCV has for float32."""
_SURE = (0.7, 0.95)
"""How sure the network was: tufts go wholly and outlines are smoothed wholly at the first, not at all at the second."""
_FINER = 1.5
"""How many times as long as the network's the sides are that are decided at."""
_FINEST = 1024
"""Side of a square with as many pixels as are decided at most for a network that sees fewer: it is only time then."""
_LOGIT = 15.0
"""Of what float32 can hardly tell from 0 or 1."""


def finer(size: tuple[int, int]) -> tuple[int, int]:
    """Tell at which size to decide what a network found in a photo of `size`.  (h, w) -> (h, w).

    More pixels than the network saw: colours tell better than it where an edge is.
    """
    scale = max(1.0, min(_FINER, _FINEST / float(np.sqrt(size[0] * size[1]))))
    return round(size[0] * scale), round(size[1] * scale)


def decide(alphas: Alpha, colours: Pixels, weight: float) -> Alpha:
    """Decide pixels by what looks alike near them, and mend what that frays.  (N, h, w) -> (N, H, W) float32.

    The steps are `birefnet.imaging.crf.settle`, `close_gaps`, `drop_tufts` and `smooth_outline`.

    Args:
        alphas: what the network found in N photos.
        colours: (N, 3, H, W) red, green and blue in [0, 1] of the same photos, at the size to decide at.
        weight: how far a logit may move at most: see `birefnet.imaging.crf.settle`.
    """
    alphas = np.stack([_enlarged(alpha, (colours.shape[2], colours.shape[3])) for alpha in alphas])
    settled = settle(alphas, colours, weight)
    for mend in (close_gaps, drop_tufts, smooth_outline):
        settled = mend(settled, alphas)
    return settled


def close_gaps(settled: Alpha, alphas: Alpha) -> Alpha:
    """Close gaps in the foreground that the network doubted.  Two (N, h, w) -> (N, h, w) float32.

    A reflection in something dark looks like the bright wall behind it, and is outvoted. What is narrow, enclosed, and
    where the network was rather for the foreground is filled (closing by reconstruction: Vincent, "Morphological
    grayscale reconstruction in image analysis", 1993), and by degrees, so that no rounding decides. What the network
    saw through stays open, such as between the spokes of a wheel.

    Args:
        settled: what `settle` gave.
        alphas: what it was given.
    """
    return np.stack([_close_one(*one) for one in zip(settled, alphas, strict=True)])


def drop_tufts(settled: Alpha, alphas: Alpha) -> Alpha:
    """Take narrow parts away that the network doubted.  Two (N, h, w) -> (N, h, w) float32.

    What lies beside the object and has its colours comes along, such as a line of shadow or of what it stands on. A
    morphological opening takes away what is narrow; what the network was sure of stays, by degrees.

    Args:
        settled: what `settle` gave, or `close_gaps`.
        alphas: what `settle` was given.
    """
    return np.stack([_opened(*one) for one in zip(settled, alphas, strict=True)])


def smooth_outline(settled: Alpha, alphas: Alpha) -> Alpha:
    """Smooth an outline that colours have frayed.  Two (N, h, w) -> (N, h, w) float32.

    Where an object has the colours of what is behind it, a CRF decides pixel by pixel, and leaves teeth and crumbs. A
    median takes them away and keeps straight edges as sharp as they are, but loses what is thinner than half of its
    square; so what the network itself was sure of stays, such as a hair or the gap between two.

    Args:
        settled: what `settle` gave, or `close_gaps`.
        alphas: what `settle` was given.
    """
    return np.stack([_smooth_one(*one) for one in zip(settled, alphas, strict=True)])


def _enlarged(alpha: Alpha, size: tuple[int, int]) -> Alpha:
    """Stretch alpha by its logits, which keep an edge as sharp as it is.  (h, w) -> (*size)."""
    if alpha.shape == size:
        return alpha
    return np.asarray(1 / (1 + np.exp(-stretch_logits(alpha, size, "pil_bilinear", _LOGIT))), np.float32)


def _smooth_one(settled: Alpha, alpha: Alpha) -> Alpha:
    """(h, w), (h, w) -> (h, w)."""
    smooth = np.asarray(cv2.medianBlur(np.ascontiguousarray(settled), _FRAY), np.float32)
    kept = np.maximum(smooth, np.minimum(settled, _sure(alpha)))
    return np.asarray(np.minimum(kept, np.maximum(settled, 1 - _sure(1 - alpha))), np.float32)


def _opened(settled: Alpha, alpha: Alpha) -> Alpha:
    """(h, w), (h, w) -> (h, w)."""
    reach = max(1, round(_TUFT * float(np.sqrt(settled.size))))
    # Beyond the border it goes on as at it, so that what is cut off is no narrower.
    wide = np.pad(settled, 2 * reach, "edge")
    opened = _dilated(-_dilated(-wide, reach), reach)[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    return np.asarray(np.maximum(opened, np.minimum(settled, _sure(alpha))), np.float32)


def _sure(alpha: Alpha) -> Alpha:
    """How far the network's foreground is kept whatever its shape."""
    wholly, never = _SURE
    return np.asarray(((alpha - wholly) / (never - wholly)).clip(0, 1), np.float32)


def _close_one(settled: Alpha, alpha: Alpha) -> Alpha:
    """(h, w), (h, w) -> (h, w)."""
    reach = max(1, round(_GAP * float(np.sqrt(settled.size))))
    # Beyond the border there is background, so that what it cuts off is open.
    wide = -_dilated(-_dilated(np.pad(settled, 2 * reach), reach), reach)
    filled = np.ascontiguousarray(wide[2 * reach : -2 * reach, 2 * reach : -2 * reach])
    filled[[0, -1]], filled[:, [0, -1]] = settled[[0, -1]], settled[:, [0, -1]]
    # What is open is found by walking in from where nothing was filled.
    for _ in range(_PASSES):
        walked = np.maximum(cv2.erode(filled, np.ones((3, 3), np.uint8)), settled)
        if np.array_equal(walked, filled):
            break
        filled = walked
    never, always = _DOUBT
    allowed = np.clip((alpha - never) / (always - never), 0, 1)
    return np.asarray(np.maximum(settled, np.minimum(filled, allowed)), np.float32)


def _dilated(values: Alpha, reach: int) -> Alpha:
    """The maximum over a disc, one row of it after the other, as a kernel of its shape takes many times as long."""
    rows = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)).sum(1)[reach:]
    result = values.copy()
    for down, width in enumerate(rows.tolist()):
        flat = np.asarray(cv2.dilate(values, np.ones((1, width), np.uint8)), np.float32)
        np.maximum(result[down:], flat[: len(flat) - down], out=result[down:])
        np.maximum(result[: len(flat) - down], flat[down:], out=result[: len(flat) - down])
    return result
