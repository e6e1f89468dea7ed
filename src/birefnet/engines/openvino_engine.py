"""The OpenVINO back end: quick on CPUs, above all in bfloat16 and int8; no torch."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from birefnet._processors import cores
from birefnet.engines.metadata import INPUT, METADATA_KEY, check_images, check_precision, check_threads, read_facts
from birefnet.engines.openvino_library import openvino_core
from birefnet.errors import InputError, WeightsError, first_line

if TYPE_CHECKING:
    import openvino

SUFFIXES = (".xml", ".onnx")
"""Files that the engine runs."""

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# Where OpenVINO keeps the metadata of its own files, and where it puts those of an ONNX file.
_PLACES = ([METADATA_KEY], ["framework", METADATA_KEY])


class OpenVinoEngine:
    """Runs an OpenVINO file (`.xml` with its `.bin`) that this package has exported.

    A `.onnx` file of ours runs too, unless it holds deformable convolutions, which OpenVINO does not read from ONNX.

    Args:
        path: the file.
        threads: of the CPU's; by default one for each core.
        device: OpenVINO's name of what to run on, such as "CPU", "GPU" or "GPU.1".
        precision: "float32", "bfloat16" or "float16"; "auto" takes what the device computes natively: bfloat16 where a
            CPU has AVX512-BF16 or AMX, else float32.

    Attributes:
        input_spec: how its weights want photos prepared.
        precision: what it computes in; "int8" for a quantised file, whose other layers are in what was chosen.
        threads: of the CPU's.

    Raises:
        WeightsError: the file is missing, damaged, or does not say what its output means.
        InputError: OpenVINO has no such device, or this one does not compute in the precision.
        ConfigError: nothing is called as the precision is.
        MissingExtraError: openvino is not installed.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, device: str = "CPU", precision: str = "auto"
    ) -> None:
        path = Path(path)
        check_threads(threads)
        check_precision(precision)
        for part in (path, *([path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [])):
            if not part.is_file():
                raise WeightsError(f"{part}: no such file; an OpenVINO model is a .xml file with its .bin beside it")
        if path.suffix.lower() not in SUFFIXES:
            raise WeightsError(f"{path}: the openvino engine runs .xml and .onnx files; name one of these")
        device = device.upper()
        core = openvino_core()
        try:
            native = core.get_property(device, "INFERENCE_PRECISION_HINT").to_string()
        except RuntimeError as error:
            there = ", ".join(core.available_devices)
            raise InputError(f"device {device!r}: OpenVINO has {there} here; choose one of these") from error
        model = _read(core, path)
        facts = read_facts(path, _metadata(model))
        self.input_spec = facts.input_spec
        self.threads = threads or cores()
        settings: dict[str, Any] = {
            # One photo at a time, by all threads together.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": _HINTS.get(precision, native),
        }
        if device.startswith("CPU"):
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            compiled = core.compile_model(model, device, settings)
        except RuntimeError as error:
            raise WeightsError(f"{path}: OpenVINO cannot run it on {device} ({_reason(error)})") from error
        in_use = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        computed = {hint: name for name, hint in _HINTS.items()}.get(in_use, in_use)
        if precision not in ("auto", computed):  # OpenVINO takes another in silence
            raise InputError(
                f"precision {precision!r}: OpenVINO would compute in {computed} on {device} here; choose that, or auto"
            )
        self.precision = "int8" if facts.precision == "int8" else computed
        self._facts = facts
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()  # a request holds one run's tensors

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images have a size that the network cannot take, or that no memory can hold.
        """
        check_images(images, self._facts.grid, self._facts.least)
        try:
            with self._turn:
                result = self._request.infer({INPUT: images}, share_inputs=True)
        except (RuntimeError, MemoryError) as error:
            raise InputError(
                f"the model cannot be run on {images.shape} ({_reason(error)}); choose another size"
            ) from error
        alpha: NDArray[np.float32] = np.asarray(result[0], np.float32)
        return alpha


def _read(core: "openvino.Core", path: Path) -> "openvino.Model":
    """Read a model.

    Raises:
        WeightsError: OpenVINO cannot.
    """
    try:
        return core.read_model(path)
    except Exception as error:  # the frontends' exceptions have no common base
        if "DeformConv" in str(error):
            raise WeightsError(
                f"{path}: OpenVINO does not read ONNX's deformable convolution: export the network with --to openvino, "
                "or choose the onnx engine"
            ) from error
        raise WeightsError(f"{path}: not a model that OpenVINO can load ({_reason(error)})") from error


def _metadata(model: "openvino.Model") -> str | None:
    for place in _PLACES:
        if model.has_rt_info(place):
            return str(model.get_rt_info(place).astype(str))
    return None


def _reason(error: BaseException) -> str:
    """The line of OpenVINO's message that says something: the first one names a file of its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '", "While validating"))]
    return said[0][:200] if said else first_line(error)
