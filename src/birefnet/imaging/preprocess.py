"""From a photo to the network's input. The policy belongs to the weights: see `InputSpec`."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet.config import InputSpec
from birefnet.imaging.io import RgbImage


def prepare(image: RgbImage, spec: InputSpec) -> NDArray[np.float32]:
    """Stretch a photo to the input size and normalise it.  (H, W, 3) uint8 -> (3, *spec.size) float32.

    The resizing is Pillow's antialiased bilinear, as in the demos and model cards of the published weights.
    """
    height, width = spec.size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    scaled = np.asarray(resized, dtype=np.float32) / np.float32(255)
    normalised = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))
