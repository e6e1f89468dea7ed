"""From the network's output back to the photo. The policy belongs to the weights: see `InputSpec`."""

import cv2
import numpy as np
from PIL import Image

from birefnet.imaging.io import Alpha


def restore(alpha: Alpha, size: tuple[int, int], resize: str = "pil_bilinear") -> Alpha:
    """Stretch alpha to the photo's size.  (h, w) -> (*size) float32 in [0, 1].

    Args:
        alpha: what the network gave.
        size: (height, width) of the photo.
        resize: the policy of `InputSpec`. The way back of "pil_bilinear" is bicubic, here on float32 where the
            published model cards round to 8 bit first; bicubic overshoots at edges, hence the clipping.
    """
    height, width = size
    if resize == "pil_bilinear":
        resized = Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized, dtype=np.float32).clip(0, 1)
    rows = _stretch(alpha, height)
    return np.ascontiguousarray(_stretch(rows.T, width).T)


def _stretch(alpha: Alpha, size: int) -> Alpha:
    """Interpolate the first axis linearly between its ends.  (h, w) -> (size, w)."""
    place = np.linspace(0, len(alpha) - 1, size, dtype=np.float32)
    below = np.minimum(place.astype(np.intp), max(len(alpha) - 2, 0))
    above = np.minimum(below + 1, len(alpha) - 1)
    share = (place - below.astype(np.float32))[:, None]
    stretched: Alpha = alpha[below] * (1 - share) + alpha[above] * share
    return stretched


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
