"""From a model's name or file to something that takes photos."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from birefnet._extras import require
from birefnet.config import MAX_SIDE, unknown_name
from birefnet.engines.metadata import check_precision, check_threads
from birefnet.errors import ConfigError, MissingExtraError
from birefnet.predictor import Predictor
from birefnet.sources import is_bundled, locate

if TYPE_CHECKING:
    from birefnet.model import BiRefNet

ENGINES = ("auto", "torch", "onnx", "openvino")

_FILES = {".onnx": "onnx", ".xml": "openvino"}
"""Suffix of an exported file -> the engine that "auto" takes for it."""


@dataclass(frozen=True)
class _Wishes:
    """How a model is to be run, as `load` describes it."""

    device: str
    precision: str
    threads: int | None
    max_memory: int | None
    providers: tuple[str, ...]
    allow_fallback: bool
    compiled: bool


def load(
    model: "str | Path | BiRefNet" = "nano",
    *,
    engine: str = "auto",
    size: int | tuple[int, int] | None = None,
    refine: bool = False,
    mirror: bool | None = None,
    crf: float | None = None,
    keep_aspect: bool | None = None,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    max_memory: int | None = None,
    providers: Sequence[str] | None = None,
    allow_fallback: bool = False,
    compiled: bool = False,
    revision: str | None = None,
    accept_licence: bool = False,
) -> Predictor:
    """Make a model ready for photos.

    Args:
        model: name of a bundled model or of a published one (`birefnet models list`), a repository of the Hugging Face
            hub ("owner/name"), a folder with weights, or a `.onnx`, `.xml`, `.safetensors` or `.pth` file. What is not
            on this machine yet is downloaded. A folder called as a bundled model is written "./nano". Or a network that
            is in memory already.
        engine: "torch", "onnx" (ONNX Runtime), "openvino", or "auto": for a bundled model ONNX Runtime, unless what is
            asked for takes PyTorch; for a file what its suffix says; PyTorch for weights.
        size: side, or height and width, of the network's input, multiples of 32; by default what the weights were
            trained for.
        refine: take closer looks at photos that are larger than the input, as of `Predictor.predict`.
        mirror: look at the mirror image as well and join the two alphas, which takes twice the time; by default what
            the weights were chosen with.
        crf: let pixels that look alike and lie near each other agree, by as much as their logits may move for it, 0 for
            not at all; by default what the weights were chosen with.
        keep_aspect: keep the proportions of photos, whose input then has as many pixels as a square of that size; by
            default what the weights were trained with, and no where `size` is a height and a width.
        device: where to run, such as "cpu", "cuda" or "mps" with PyTorch, "cpu" or "gpu" with OpenVINO.
        precision: what to compute in, "float32", "bfloat16", "float16", or "auto": what the device is quickest in.
            ONNX Runtime computes in what the file was exported in.
        threads: of the CPU's; by default one for each core. PyTorch keeps it for the whole process.
        max_memory: bytes that the process may take; PyTorch alone keeps to it.
        providers: what may run the network in ONNX Runtime, the first choice first, such as ["cuda", "cpu"]; by
            default the CPU.
        allow_fallback: go on where a provider is not there or does not start; otherwise that is an error.
        compiled: let `torch.compile` make kernels for each size of input; PyTorch on a CUDA device alone.
        revision: branch, tag or commit of a repository of the hub.
        accept_licence: use weights that are for non-commercial use only.

    Raises:
        BiRefNetError: the model does not load, or what is asked for is impossible or not installed.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    check_precision(precision)
    check_threads(threads)
    wishes = _Wishes(device, precision, threads, max_memory, tuple(providers or ()), allow_fallback, compiled)
    if not isinstance(model, str | Path):
        if engine not in ("auto", "torch"):
            raise ConfigError(f"the {engine} engine runs files; export the network first, or choose the torch engine")
        _refuse_others("torch", wishes)
        return _set(_wrap(model, wishes), size, refine, mirror, crf, keep_aspect)
    if engine == "auto":
        engine = choose_engine(model, wishes.device, wishes.precision, wishes.max_memory, compiled=wishes.compiled)
    _refuse_others(engine, wishes)
    if engine == "torch":
        predictor = _torch(model, wishes, revision, accept_licence)
    else:
        predictor = _onnx(model, wishes) if engine == "onnx" else _openvino(model, wishes)
    return _set(predictor, size, refine, mirror, crf, keep_aspect)


def choose_engine(
    model: str | Path,
    device: str = "cpu",
    precision: str = "auto",
    max_memory: int | None = None,
    *,
    compiled: bool = False,
) -> str:
    """What "auto" takes for a model: "torch", "onnx" or "openvino".

    A bundled model runs in ONNX Runtime, which is part of every installation and ready in a tenth of a second.
    OpenVINO needs half a second longer, and gains that back after about a hundred photos (see docs/benchmarks.md), so
    it is for who asks for it.

    Args:
        model: as of `load`; nothing is downloaded or opened.
        device: as of `load`.
        precision: as of `load`.
        max_memory: as of `load`.
        compiled: as of `load`.
    """
    if is_bundled(model):
        plain = device == "cpu" and precision in ("auto", "float32") and max_memory is None and not compiled
        return "onnx" if plain else "torch"
    return _FILES.get(Path(model).suffix.lower(), "torch")


def _refuse_others(engine: str, wishes: _Wishes) -> None:
    """Refuse what an engine would silently leave undone.

    Raises:
        ConfigError: something is asked for that it cannot do.
    """
    if engine != "onnx" and (wishes.providers or wishes.allow_fallback):
        raise ConfigError(f"providers, and falling back from one, are the onnx engine's, not the {engine} engine's")
    if engine != "torch" and wishes.max_memory is not None:
        raise ConfigError(
            f"the {engine} engine keeps to no limit of memory: choose the torch engine, or a smaller --size"
        )
    if engine != "torch" and wishes.compiled:
        raise ConfigError(f"compiling is the torch engine's, not the {engine} engine's: leave --compile out")


def _set(
    predictor: Predictor,
    size: int | tuple[int, int] | None,
    refine: bool,
    mirror: bool | None,
    crf: float | None,
    keep_aspect: bool | None,
) -> Predictor:
    predictor.refine = refine
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if keep_aspect is None and not isinstance(size, int):
            keep_aspect = False
        try:
            predictor.spec = replace(predictor.spec, size=(height, width))
        except ConfigError as error:
            raise ConfigError(f"size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}") from error
    if mirror is not None:
        predictor.mirror = mirror
    if crf is not None:
        predictor.spec = replace(predictor.spec, crf=crf)
    if keep_aspect is not None:
        predictor.spec = replace(predictor.spec, keep_aspect=keep_aspect)
    return predictor


def _exported(model: str | Path, engine: str, suffixes: tuple[str, ...]) -> Path:
    """Find the file that an engine is to run.

    Raises:
        ConfigError: it is none of the engine's.
    """
    if not is_bundled(model) and Path(model).suffix.lower() not in suffixes:
        raise ConfigError(
            f"{model}: the {engine} engine runs bundled models and {' or '.join(suffixes)} files: export it "
            f"('birefnet export'), or choose the torch engine"
        )
    return locate(model, suffix=".onnx").path if Path(model).suffix.lower() != ".xml" else Path(model)


def _onnx(model: str | Path, wishes: _Wishes) -> Predictor:
    if wishes.device != "cpu":
        raise ConfigError(
            f"device {wishes.device!r}: the onnx engine runs on the cpu, or on what a provider is for (--provider "
            "cuda); choose the torch engine for other devices"
        )
    path = _exported(model, "onnx", (".onnx",))
    require("onnxruntime", extra=None)
    from birefnet.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(
        path, threads=wishes.threads, providers=wishes.providers or ("cpu",), allow_fallback=wishes.allow_fallback
    )
    if wishes.precision not in ("auto", engine.precision):
        raise ConfigError(
            f"{path}: computes in {engine.precision}, not {wishes.precision}: export it so, or choose another engine"
        )
    return Predictor(engine, engine.input_spec, notes=engine.notes)


def _openvino(model: str | Path, wishes: _Wishes) -> Predictor:
    path = _exported(model, "openvino", (".xml", ".onnx"))
    from birefnet.engines.openvino_engine import OpenVinoEngine

    engine = OpenVinoEngine(path, threads=wishes.threads, device=wishes.device, precision=wishes.precision)
    return Predictor(engine, engine.input_spec)


def _torch(model: str | Path, wishes: _Wishes, revision: str | None, accept_licence: bool) -> Predictor:
    if Path(model).suffix.lower() in _FILES:
        raise ConfigError(f"{model}: an exported file, which the torch engine does not run: leave --engine out")
    for library in ("torch", "safetensors"):
        try:
            require(library, extra="torch")
        except MissingExtraError as error:
            raise MissingExtraError(
                f"{error}, or export the model where it is ('birefnet export') and use the .onnx or .xml file here",
                name=error.name,
            ) from error
    from birefnet.model import BiRefNet

    return _wrap(BiRefNet.from_pretrained(model, revision=revision, accept_licence=accept_licence), wishes)


def _wrap(network: "BiRefNet", wishes: _Wishes) -> Predictor:
    from birefnet.engines.torch_engine import TorchEngine

    engine = TorchEngine(
        network,
        wishes.device,
        precision=wishes.precision,
        max_memory=wishes.max_memory,
        compiled=wishes.compiled,
        threads=wishes.threads,
    )
    return Predictor(engine, network.input_spec, notes=network.notes)
