"""From a photo to the network's input. The policy belongs to the weights: see `InputSpec`."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet.config import InputSpec
from birefnet.imaging.io import RgbImage


def prepare(image: RgbImage, spec: InputSpec) -> NDArray[np.float32]:
    """Stretch a photo to the input size and normalise it.  (H, W, 3) uint8 -> (3, *spec.size) float32."""
    height, width = spec.size
    if spec.resize == "pil_bilinear":
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    else:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    scaled = resized.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))
