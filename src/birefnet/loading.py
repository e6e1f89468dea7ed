"""From a model's name or file to something that takes photos."""

from dataclasses import replace
from pathlib import Path

from birefnet._extras import require
from birefnet.config import MAX_SIDE
from birefnet.errors import ConfigError
from birefnet.predictor import Predictor


def load(weights: str | Path, *, size: int | None = None, device: str = "cpu") -> Predictor:
    """Load weights and make them ready for photos.

    Args:
        weights: a `.safetensors` or `.pth` file.
        size: side of the network's input, a multiple of 32; by default what the weights were trained for.
        device: where to run, such as "cpu", "cuda" or "mps".

    Raises:
        BiRefNetError: the weights do not load, or the size or device is impossible; torch is not installed.
    """
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.engines.torch_engine import TorchEngine
    from birefnet.weights import load_model

    model = load_model(weights)
    spec = model.input_spec
    if size is not None:
        try:
            spec = replace(spec, size=(size, size))
        except ConfigError as error:
            raise ConfigError(f"size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}") from error
    return Predictor(TorchEngine(model, device), spec)
