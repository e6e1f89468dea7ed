"""From the network's output back to the photo. The policy belongs to the weights: see `InputSpec`."""

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
