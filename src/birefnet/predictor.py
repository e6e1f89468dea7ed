"""From photos to mattes: preparation, a back end, and the way back to the photo's size."""

from birefnet.config import InputSpec
from birefnet.engines.base import Engine
from birefnet.imaging.io import PhotoSource, read_photo
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
        photo = read_photo(source)
        alpha = self.engine(prepare(photo.rgb, self.spec)[None])
        height, width, _ = photo.rgb.shape
        restored = restore(alpha[0, 0], (height, width))
        return Matte(photo, restored if photo.opacity is None else restored * photo.opacity)
