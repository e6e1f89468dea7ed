"""From a model's name or file to something that takes photos."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from birefnet._extras import require
from birefnet.config import MAX_SIDE, unknown_name
from birefnet.errors import ConfigError
from birefnet.models import BUNDLED
from birefnet.predictor import Predictor
from birefnet.sources import locate

if TYPE_CHECKING:
    from birefnet.model import BiRefNet

ENGINES = ("auto", "onnx", "torch")


def load(
    model: "str | Path | BiRefNet" = "nano",
    *,
    engine: str = "auto",
    size: int | tuple[int, int] | None = None,
    device: str = "cpu",
    revision: str | None = None,
    accept_licence: bool = False,
) -> Predictor:
    """Make a model ready for photos.

    Args:
        model: name of a bundled model or of a published one (`birefnet models list`), a repository of the Hugging Face
            hub ("owner/name"), a folder with weights, or a `.onnx`, `.safetensors` or `.pth` file. What is not on this
            machine yet is downloaded. Or a network that is in memory already.
        engine: "onnx" (ONNX Runtime, on the CPU), "torch", or "auto": for a bundled model ONNX Runtime, unless another
            device than the CPU is asked for; for a file what its suffix says.
        size: side, or height and width, of the network's input, multiples of 32; by default what the weights were
            trained for.
        device: where to run, such as "cpu", "cuda" or "mps".
        revision: branch, tag or commit of a repository of the hub.
        accept_licence: use weights that are for non-commercial use only.

    Raises:
        BiRefNetError: the model does not load, or the size, engine or device is impossible or not installed.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if not isinstance(model, str | Path):
        if engine == "onnx":
            raise ConfigError("the onnx engine runs files; export the network first, or choose the torch engine")
        return _sized(_wrap(model, device), size)
    bundled, is_onnx = str(model) in BUNDLED, Path(model).suffix.lower() == ".onnx"
    if engine == "auto":
        engine = "onnx" if is_onnx or (bundled and device == "cpu") else "torch"
    if engine == "onnx":
        if not bundled and not is_onnx:
            raise ConfigError(f"{model}: the onnx engine runs bundled models and .onnx files; choose the torch engine")
        predictor = _onnx(model, device)
    else:
        predictor = _torch(model, device, revision, accept_licence)
    return _sized(predictor, size)


def _sized(predictor: Predictor, size: int | tuple[int, int] | None) -> Predictor:
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        try:
            predictor.spec = replace(predictor.spec, size=(height, width))
        except ConfigError as error:
            raise ConfigError(f"size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}") from error
    return predictor


def _onnx(model: str | Path, device: str) -> Predictor:
    if device != "cpu":
        raise ConfigError(f"device {device!r}: the onnx engine runs on the cpu; choose the torch engine for others")
    from birefnet.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(locate(model, suffix=".onnx").path)
    return Predictor(engine, engine.input_spec)


def _torch(model: str | Path, device: str, revision: str | None, accept_licence: bool) -> Predictor:
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.model import BiRefNet

    return _wrap(BiRefNet.from_pretrained(model, revision=revision, accept_licence=accept_licence), device)


def _wrap(network: "BiRefNet", device: str) -> Predictor:
    from birefnet.engines.torch_engine import TorchEngine

    return Predictor(TorchEngine(network, device), network.input_spec, notes=network.notes)
