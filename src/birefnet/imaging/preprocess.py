"""From a photo to the network's input. The policy belongs to the weights: see `InputSpec`."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birefnet.config import InputSpec
from birefnet.imaging.io import RgbImage

_DARKEST = 1 / 255
"""A channel is taken to be at least as bright as this on average: one of zeros has no gain that would help."""


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


def mirrored(images: NDArray[np.float32], gains: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Mirror prepared images left to right, in colours of their own.  (N, 3, h, w) -> (N, 3, h, w) float32.

    Args:
        images: as `prepare` makes them.
        gains: factors of red, green and blue, (N, 3), as of `grey_world`.
        spec: how the images were prepared.
    """
    flipped = np.ascontiguousarray(images[..., ::-1])
    if (gains == 1).all():
        return flipped
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    colours = (denormalised(flipped, spec) * gains[:, :, None, None]).clip(0, 1)
    return np.asarray((colours - mean) / std, np.float32)


def denormalised(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Undo the normalisation of prepared images.  (N, 3, h, w) -> (N, 3, h, w) float32 in [0, 1]."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    return images * std + mean


def grey_world(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Find the gains that take a cast of colour from the mirror images of photos.  (N, 3, h, w) -> (N, 3) float32.

    Each is what makes its channel as bright as all three on average, to the power of `InputSpec.balance`: if the world
    is grey on average, the colour that a photo has on average is that of its light (Buchsbaum: "A spatial processor
    model for object colour perception", Journal of the Franklin Institute, 1980).

    Args:
        images: whole photos, as `prepare` makes them.
        spec: how they were prepared, and how far to go.
    """
    mean, std = (np.asarray(values, np.float32) for values in (spec.mean, spec.std))
    means = (images.mean((2, 3)) * std + mean).clip(_DARKEST)
    return np.asarray((means.mean(1, keepdims=True) / means) ** np.float32(spec.balance), np.float32)


def colours(image: RgbImage, size: tuple[int, int], resize: str) -> NDArray[np.float32]:
    """Stretch a photo and take its levels as numbers.  (H, W, 3) uint8 -> (3, *size) float32 in [0, 1]."""
    return np.asarray(stretch(image, size, resize).transpose(2, 0, 1) / np.float32(255), np.float32)


def stretch(image: RgbImage, size: tuple[int, int], resize: str) -> RgbImage:
    """Change the size of a photo by a policy of `InputSpec`.  (H, W, 3) uint8 -> (*size, 3) uint8."""
    height, width = size
    if resize == "pil_bilinear":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
