"""From a model's name or file to something that takes photos."""

from dataclasses import replace
from pathlib import Path

from birefnet._extras import require
from birefnet.config import MAX_SIDE, InputSpec, unknown_name
from birefnet.engines.base import Engine
from birefnet.errors import ConfigError
from birefnet.models import BUNDLED, bundled_file
from birefnet.predictor import Predictor

ENGINES = ("auto", "onnx", "torch")


def load(
    model: str | Path = "nano", *, engine: str = "auto", size: int | None = None, device: str = "cpu"
) -> Predictor:
    """Make a model ready for photos.

    Args:
        model: name of a bundled model, or a `.onnx`, `.safetensors` or `.pth` file.
        engine: "onnx" (ONNX Runtime, on the CPU), "torch", or "auto": for a bundled model ONNX Runtime, unless another
            device than the CPU is asked for; for a file what its suffix says.
        size: side of the network's input, a multiple of 32; by default what the weights were trained for.
        device: where to run, such as "cpu", "cuda" or "mps".

    Raises:
        BiRefNetError: the model does not load, or the size, engine or device is impossible or not installed.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    bundled = str(model) in BUNDLED
    if engine == "auto":
        onnx = device == "cpu" if bundled else Path(model).suffix.lower() == ".onnx"
        engine = "onnx" if onnx else "torch"
    if not bundled and isinstance(model, str) and not Path(model).suffix and not Path(model).exists():
        raise unknown_name("model", model, BUNDLED)
    path = bundled_file(str(model), ".onnx" if engine == "onnx" else ".safetensors") if bundled else Path(model)
    runner, spec = _onnx(path, device) if engine == "onnx" else _torch(path, device)
    if size is not None:
        try:
            spec = replace(spec, size=(size, size))
        except ConfigError as error:
            raise ConfigError(f"size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}") from error
    return Predictor(runner, spec)


def _onnx(path: Path, device: str) -> tuple[Engine, InputSpec]:
    if device != "cpu":
        raise ConfigError(f"device {device!r}: the onnx engine runs on the cpu; choose the torch engine for others")
    from birefnet.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(path)
    return engine, engine.input_spec


def _torch(path: Path, device: str) -> tuple[Engine, InputSpec]:
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.engines.torch_engine import TorchEngine
    from birefnet.weights import load_model

    network = load_model(path)
    return TorchEngine(network, device), network.input_spec
