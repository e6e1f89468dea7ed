"""From a photo to the network's input. The policy belongs to the weights: see `InputSpec`."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet.config import InputSpec
from birefnet.imaging.io import RgbImage


def prepare(image: RgbImage, spec: InputSpec, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Stretch a photo to the input size and normalise it.  (H, W, 3) uint8 -> (3, h, w) float32.

    Args:
        image: the photo.
        spec: how its weights want photos prepared.
        size: (h, w); by default what the spec says for such a photo.
    """
    size = size or spec.size_of(*image.shape[:2])
    scaled = stretch(image, size, spec.resize)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    prepared = np.empty((3, *size), np.float32)
    # A pixel has one of 256 values, so that each is normalised once.
    for plane, colour, mean, std in zip(prepared, cv2.split(scaled), spec.mean, spec.std, strict=True):
        cv2.LUT(colour, (levels - np.float32(mean)) / np.float32(std), dst=plane)
    return prepared


def stretch(image: RgbImage, size: tuple[int, int], resize: str) -> RgbImage:
    """Change the size of a photo by a policy of `InputSpec`.  (H, W, 3) uint8 -> (*size, 3) uint8."""
    height, width = size
    if resize == "pil_bilinear":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
