"""What every back end does, whatever it runs on."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """Maps a batch of normalised images to alpha.

    Several threads may call one engine at the same time: their calls wait for each other or run side by side, and each
    gets what it would get alone. One call has all of the engine's threads, so that a second one gains little.

    An engine may also have `notes`, lines for a person on what did not work as hoped, which may grow as it runs.

    Attributes:
        precision: what it computes in: "float32", "bfloat16", "float16" or "int8".
    """

    precision: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images are not float32 of such a shape, or have a size that the network cannot take or that
                no memory can hold.
        """
        ...
