"""From the network's output back to the photo. The policy belongs to the weights: see `InputSpec`."""

import math
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.imaging.io import Alpha

_SURE = 6.0
"""Logit of a pixel that counts as wholly decided, where logits are stretched: docs/log.md has the measurements."""
_LEAST = 1 / (1 + math.exp(_SURE))

_SCRAP, _SPECK = 0.05, 0.01
"""Shares of the largest part's foreground, below which a part is a scrap: at the photo's border, and anywhere."""
_FAINT = 0.02
"""Alpha that parts end at."""


def join(first: Alpha, second: Alpha) -> Alpha:
    """Join two looks at the same photo: the mean of their logits, as an alpha.  Two (...) -> (...) float32.

    The surer look counts for more, where the mean of alphas leaves every disagreement half transparent. Two that are
    sure of the opposite make 0.5.
    """
    first, second = first.clip(0, 1), second.clip(0, 1)  # an engine may round beyond
    foreground, background = np.sqrt(first * second), np.sqrt((1 - first) * (1 - second))
    both = foreground + background
    return np.asarray(np.divide(foreground, both, out=np.full_like(both, 0.5), where=both > 0), np.float32)


def without_scraps(alpha: Alpha) -> Alpha:
    """Take away specks, and what the photo's border cuts off of something else.  (h, w) -> (h, w).

    That is, small parts, and less small ones that touch the border. For the whole photo, as a CRF leaves it: in a
    window of one the border cuts off the object itself.
    """
    count, labels = cv2.connectedComponents((alpha > _FAINT).astype(np.uint8))
    amounts = np.bincount(labels.ravel(), alpha.ravel(), count)
    amounts[0] = 0  # none of the parts
    cut_off = np.zeros(count, bool)
    cut_off[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    scraps = amounts < np.where(cut_off, _SCRAP, _SPECK) * amounts.max()
    scraps[0] = False
    return np.where(scraps[labels], np.float32(0), alpha)


def restore(alpha: Alpha, size: tuple[int, int], resize: str = "pil_bilinear", *, decided: bool = False) -> Alpha:
    """Stretch alpha to the photo's size.  (h, w) -> (*size) float32 in [0, 1].

    Args:
        alpha: what the network gave.
        size: (height, width) of the photo.
        resize: the policy of `InputSpec`. The way back of "pil_bilinear" is Pillow's bicubic, here on float32 where the
            published model cards round to 8 bit first; bicubic overshoots at edges, hence the clipping.
        decided: hardly a pixel is half transparent, as a CRF leaves it. Then logits are stretched in place of alphas:
            between two pixels that are sure of the opposite alphas make a ramp, which shows as stairs along an edge,
            and logits a line that is as sharp as they are sure.
    """
    if decided:
        return _alphas_of(stretch_logits(alpha, size, resize, _SURE))
    return _stretch_both(alpha, size, _TAPS[resize], (0, 1))


def stretch_logits(alpha: Alpha, size: tuple[int, int], resize: str, limit: float) -> Alpha:
    """Stretch the logits of alpha.  (h, w) -> (*size) float32.

    Args:
        alpha: what the network gave.
        size: (height, width) to stretch to.
        resize: the policy of `InputSpec`, as for `restore`.
        limit: how large a logit may be, of either sign, before and after.
    """
    least = np.float32(1 / (1 + math.exp(limit)))
    alpha = alpha.clip(least, 1 - least)
    logits = np.asarray(np.log(alpha / (1 - alpha)), np.float32)
    return _stretch_both(logits, size, _TAPS[resize], (-limit, limit))


def _alphas_of(logits: Alpha) -> Alpha:
    """The way back, in place, with what is as sure as `_SURE` at 0 and 1."""
    least = np.float32(1.0001 * _LEAST)  # a little more, so that rounding leaves nothing
    np.exp(np.negative(logits, out=logits), out=logits)
    logits += 1
    np.reciprocal(logits, out=logits)
    logits -= least
    logits /= 1 - 2 * least
    return logits.clip(0, 1, out=logits)


def _turn(alpha: Alpha) -> Alpha:
    """Swap rows and columns in memory too.  (h, w) -> (w, h)."""
    return np.asarray(cv2.transpose(np.ascontiguousarray(alpha)), np.float32)


Taps = tuple[NDArray[np.intp], NDArray[np.float32]]
"""Of each sample of the result: which sample of the source it begins to be made of, and the weights from there on."""


def _stretch(
    alpha: Alpha, size: int, taps: Callable[[int, int], Taps], limits: tuple[float, float] | None = None
) -> Alpha:
    """Interpolate the first axis, and clip to limits if there are any.  (h, w) -> (size, w) float32.

    Rows that are made of the same ones are one small matrix product, with which no library function for images can
    compete that computes in float32.
    """
    if size == len(alpha):
        return alpha.copy() if limits is None else alpha.clip(*limits)
    starts, weights = taps(len(alpha), size)
    count = weights.shape[1]
    stretched: Alpha = np.empty((size, alpha.shape[1]), np.float32)
    edges = [0, *(np.flatnonzero(np.diff(starts)) + 1).tolist(), size]
    for first, after in pairwise(edges):
        start, rows = int(starts[first]), stretched[first:after]
        np.matmul(weights[first:after], alpha[start : start + count], out=rows)
        if limits is not None:
            np.clip(rows, *limits, out=rows)
    return stretched


def _stretch_both(
    alpha: Alpha, size: tuple[int, int], taps: Callable[[int, int], Taps], limits: tuple[float, float]
) -> Alpha:
    """Interpolate both axes, and clip to limits.  (h, w) -> (*size) float32."""
    return _stretch(_turn(_stretch(_turn(alpha), size[1], taps)), size[0], taps, limits)


def _linear(length: int, size: int) -> Taps:
    """Interpolate linearly between samples, the ends on the ends."""
    place = np.linspace(0, length - 1, size, dtype=np.float32)
    starts = np.minimum(place.astype(np.intp), max(length - 2, 0))
    share = place - starts.astype(np.float32)
    return starts, np.stack([1 - share, share], axis=1)[:, : min(length, 2)]


def _bicubic(length: int, size: int) -> Taps:
    """Interpolate by Keys' cubic with a = -0.5, widened where there is to shrink, as Pillow does."""
    scale = length / size
    wide = max(scale, 1.0)
    count = min(length, math.ceil(4 * wide) + 1)
    centres = (np.arange(size) + 0.5) * scale
    starts = np.clip((centres - 2 * wide + 0.5).astype(np.intp), 0, length - count)
    distances = np.abs(starts[:, None] + np.arange(count) + 0.5 - centres[:, None]) / wide
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((2.5 - 0.5 * distances) * distances - 4) * distances + 2
    weights = np.where(distances < 1, near, np.where(distances < 2, far, 0))
    return starts, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


_TAPS = {"cv2_linear": _linear, "pil_bilinear": _bicubic}


# What the refinement of large photos takes for undecided, and how it judges a patch: docs/log.md has the measurements.
_UNDECIDED = (0.1, 0.9)
_STEP = 0.05
_AROUND = 2
_BLUR = 4.0
_DIFFERENCE = 0.4
_DOUBT = 0.15


def undecided(alpha: Alpha) -> Alpha:
    """Weight of what a closer look may change: soft parts, edges and thin structures, and a little around them.

    Args:
        alpha: (h, w), at the resolution it was found at, so that "a little" is what that resolution could not tell.

    Returns:
        (h, w) float32 in [0, 1]: 1 where alpha is undecided, 0 from five pixels beyond, so that no border shows.
    """
    low, high = _UNDECIDED
    near = np.ones((3, 3), np.uint8)
    marked = (alpha > low) & (alpha < high)
    # A structure thinner than a pixel is only a faint ridge, and a hard edge has no soft pixel at all.
    marked |= (cv2.dilate(alpha, near) - cv2.erode(alpha, near)) > _STEP
    around = (2 * _AROUND + 1, 2 * _AROUND + 1)
    grown = cv2.dilate(marked.view(np.uint8), np.ones(around, np.uint8)).astype(np.float32)
    return np.asarray(cv2.blur(grown, around, borderType=cv2.BORDER_REPLICATE).clip(0, 1), np.float32)


def trust(patch: Alpha, context: Alpha, pitch: float) -> Alpha:
    """How far a patch's alpha may be believed, given the alpha that was found with more of the photo in view.

    A network that sees a patch alone may take something else for the object, or lose its certainty inside of a large
    one. The coarse alpha knows which parts belong to the object but not their fine shape. So with their detail blurred
    away both must agree, and the patch must be no less certain; the weight falls smoothly from 1 where that holds to 0.

    Args:
        patch: (h, w) alpha found in the patch alone.
        context: (h, w) the coarser alpha of the same place.
        pitch: the distance of what `context` can tell apart, in pixels of both.

    Returns:
        (h, w) float32 in [0, 1].
    """
    # The blur is linear, so differences are blurred. An alpha's certainty is how far it is from one half.
    difference = np.abs(_blur(patch - context, pitch))
    doubt = 2 * _blur(np.abs(context - np.float32(0.5)) - np.abs(patch - np.float32(0.5)), pitch)
    return _fall(difference, _DIFFERENCE) * _fall(doubt, _DOUBT)


def _blur(alpha: Alpha, pitch: float) -> Alpha:
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), _BLUR * pitch, borderType=cv2.BORDER_REFLECT), np.float32)


def _fall(values: Alpha, end: float) -> Alpha:
    """Go smoothly from 1 at 0 to 0 at `end`."""
    rest = (1 - values / np.float32(end)).clip(0, 1)
    weight: Alpha = rest * rest * (3 - 2 * rest)
    return weight
