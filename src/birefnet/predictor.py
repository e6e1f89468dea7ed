"""From photos to mattes: preparation, a back end, and the way back to the photo's size."""

from collections.abc import Sequence

import numpy as np

from birefnet.config import InputSpec
from birefnet.engines.base import Engine
from birefnet.imaging.io import Alpha, Photo, PhotoSource, read_photo
from birefnet.imaging.matte import Matte
from birefnet.imaging.postprocess import restore
from birefnet.imaging.preprocess import prepare


class Predictor:
    """Finds the foreground of photos of any size.

    Args:
        engine: what runs the network.
        spec: how its weights want photos prepared.
    """

    def __init__(self, engine: Engine, spec: InputSpec) -> None:
        self.engine = engine
        self.spec = spec

    def predict(self, source: PhotoSource) -> Matte:
        """Find the foreground of a photo, at the photo's size. What is transparent in the photo itself stays so.

        Raises:
            ImageError: the photo cannot be read.
        """
        return self.predict_many([source])[0]

    def predict_many(self, sources: Sequence[PhotoSource]) -> list[Matte]:
        """Find the foregrounds of several photos, of any sizes, in one run of the network.

        Raises:
            ImageError: a photo cannot be read.
        """
        photos = [read_photo(source) for source in sources]
        if not photos:
            return []
        alphas = self.engine(np.stack([prepare(photo.rgb, self.spec) for photo in photos]))
        return [self._matte(photo, alpha[0]) for photo, alpha in zip(photos, alphas, strict=True)]

    def _matte(self, photo: Photo, alpha: Alpha) -> Matte:
        height, width, _ = photo.rgb.shape
        restored = restore(alpha, (height, width), self.spec.resize)
        return Matte(photo, restored if photo.opacity is None else restored * photo.opacity)
