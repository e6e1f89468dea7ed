"""From photos to alpha: preparation, a back end, and the way back to the photo's size."""

from birefnet.config import InputSpec
from birefnet.engines.base import Engine
from birefnet.imaging.io import Alpha, RgbImage
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

    def predict(self, image: RgbImage) -> Alpha:
        """Alpha of the foreground.  (H, W, 3) uint8 RGB -> (H, W) float32 in [0, 1]."""
        alpha = self.engine(prepare(image, self.spec)[None])
        height, width, _ = image.shape
        return restore(alpha[0, 0], (height, width))
