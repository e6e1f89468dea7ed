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


# What the refinement of large photos takes for undecided, and how it judges a patch; measured by benchmarks/refine.py.
_UNDECIDED = (0.1, 0.9)
_STEP = 0.05
_AGREEMENT = 0.4
_BLUR = 4.0


def undecided(alpha: Alpha) -> Alpha:
    """Weight of what a closer look may change: soft parts, edges and thin structures, and a little around them.

    Args:
        alpha: (h, w), at the resolution it was found at, so that "a little" is what that resolution could not tell.

    Returns:
        (h, w) float32 in [0, 1], falling to 0 over two pixels.
    """
    low, high = _UNDECIDED
    near = np.ones((3, 3), np.uint8)
    marked = (alpha > low) & (alpha < high)
    # A structure thinner than a pixel is only a faint ridge, and a hard edge has no soft pixel at all.
    marked |= (cv2.dilate(alpha, near) - cv2.erode(alpha, near)) > _STEP
    grown = cv2.dilate(marked.view(np.uint8), near).astype(np.float32)
    return np.asarray(cv2.blur(grown, (3, 3), borderType=cv2.BORDER_REPLICATE).clip(0, 1), np.float32)


def agreement(patch: Alpha, context: Alpha, pitch: float) -> Alpha:
    """How far a patch's alpha may be trusted, given the alpha that was found with more of the photo in view.

    A network that sees a patch alone may take something else for the object. The coarse alpha knows which parts belong
    to it but not their fine shape, so both must agree once their detail is blurred away: the weight falls smoothly from
    1 where they do to 0 where they differ by 0.4.

    Args:
        patch: (h, w) alpha found in the patch alone.
        context: (h, w) the coarser alpha of the same place.
        pitch: the distance of what `context` can tell apart, in pixels of both.

    Returns:
        (h, w) float32 in [0, 1].
    """
    # The blur is linear, so the difference is blurred once.
    apart = np.abs(cv2.GaussianBlur(patch - context, (0, 0), _BLUR * pitch, borderType=cv2.BORDER_REFLECT))
    trust = (1 - apart / np.float32(_AGREEMENT)).clip(0, 1)
    weight: Alpha = trust * trust * (3 - 2 * trust)
    return weight
