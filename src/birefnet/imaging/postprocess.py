"""From the network's output back to the photo."""

import numpy as np
from PIL import Image

from birefnet.imaging.io import Alpha


def restore(alpha: Alpha, size: tuple[int, int]) -> Alpha:
    """Stretch alpha to the photo's size.  (h, w) -> (*size) float32 in [0, 1].

    Bicubic as in the published model cards, but on float32: they round to 8 bit first. Bicubic overshoots at edges,
    hence the clipping.
    """
    height, width = size
    resized = Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32).clip(0, 1)
