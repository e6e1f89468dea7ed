"""A back end without a network, for tests of everything around it."""

import numpy as np
from numpy.typing import NDArray

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD
from birefnet.engines.metadata import check_images


class FakeEngine:
    """Takes the brightness of each pixel for its alpha, so that the expected result is known.

    Attributes:
        shapes: the shapes of all batches it was given.
        precision: as of every engine.
    """

    precision = "float32"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the channel mean of the image before its normalisation.  (N, 3, H, W) -> (N, 1, H, W).

        Raises:
            InputError: as of every engine.
        """
        check_images(images)
        self.shapes.append(images.shape)
        mean = np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1)
        std = np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1)
        brightness: NDArray[np.float32] = (images * std + mean).mean(axis=1, keepdims=True)
        return brightness.clip(0, 1)
