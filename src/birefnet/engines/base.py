"""What every back end does, whatever it runs on."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """Maps a batch of normalised images to alpha.

    Attributes:
        precision: what it computes in: "float32", "bfloat16", "float16" or "int8".
    """

    precision: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images have a size that the network cannot take, or that no memory can hold.
        """
        ...
