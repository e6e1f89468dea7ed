"""The ONNX Runtime back end: small, quick to start, no torch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from birefnet._processors import cores
from birefnet.config import unknown_name
from birefnet.engines.metadata import INPUT, METADATA_KEY, OUTPUT, check_images, check_threads, read_facts
from birefnet.errors import InputError, WeightsError, first_line

__all__ = ["INPUT", "METADATA_KEY", "OUTPUT", "PROVIDERS", "OnnxEngine", "provider_name"]

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"

PROVIDERS = {
    "cpu": _CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""What users call the parts of ONNX Runtime that run a network -> its own names for them."""

_PACKAGES = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "rocm": "onnxruntime-rocm",
    "migraphx": "onnxruntime-rocm",
    "directml": "onnxruntime-directml",
    "openvino": "onnxruntime-openvino",
}


class OnnxEngine:
    """Runs an ONNX file that this package has exported.

    Args:
        path: the file.
        threads: of the CPU's; by default one for each core.
        providers: what may run the network, the first choice first; keys of `PROVIDERS` or ONNX Runtime's own names.
            What none of them can run of it runs on the CPU.
        allow_fallback: go on where a provider is not there or does not start, with the next one or the CPU. Otherwise
            that is an error, lest a GPU be paid for that is not used.

    Attributes:
        input_spec: how its weights want photos prepared.
        precision: what it computes in, as the file says.
        providers: those in use, by ONNX Runtime's names.
        threads: of the CPU's.
        notes: remarks, a line each.

    Raises:
        WeightsError: the file is missing, damaged, or does not say what its output means.
        InputError: a provider is not there, or does not start.
        ConfigError: nothing is called as a provider is.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("cpu",),
        allow_fallback: bool = False,
    ) -> None:
        path = Path(path)
        check_threads(threads)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; give the path of a .onnx file")
        wanted = list(dict.fromkeys(provider_name(name) for name in providers)) or [_CPU]
        present = set(onnxruntime.get_available_providers())
        absent = [name for name in wanted if name not in present]
        if absent and not allow_fallback:
            raise InputError(_is_absent(absent[0], present))
        self.threads = threads or cores()
        self._session = _open(path, [name for name in wanted if name in present], self.threads, allow_fallback)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        lost = [name for name in wanted if name not in self.providers]
        if lost and not allow_fallback:
            raise InputError(
                f"{short_name(lost[0])} does not start here, and ONNX Runtime would run on {_list(self.providers)}: "
                "look at its driver and libraries, or pass --allow-fallback"
            )
        self.notes: tuple[str, ...] = tuple(
            f"{short_name(name)} is not in use: {_list(self.providers)} is" for name in lost
        )
        facts = read_facts(path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        self.input_spec, self.precision = facts.input_spec, facts.precision
        self._facts = facts

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images have a size that the network cannot take, or that no memory can hold.
        """
        check_images(images, self._facts.grid, self._facts.least)
        try:
            (alpha,) = self._session.run([OUTPUT], {INPUT: images})
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = first_line(error)
            raise InputError(f"the model cannot be run on {images.shape} ({reason}); choose another size") from error
        result: NDArray[np.float32] = alpha
        return result


def provider_name(name: str) -> str:
    """ONNX Runtime's name of a provider.

    Args:
        name: a key of `PROVIDERS`, or ONNX Runtime's own name.

    Raises:
        ConfigError: nothing is called so.
    """
    own = {full.lower(): full for full in (*onnxruntime.get_all_providers(), *PROVIDERS.values())}
    found = PROVIDERS.get(name.lower()) or own.get(name.lower()) or own.get(f"{name}{_SUFFIX}".lower())
    if found is None:
        raise unknown_name("provider", name, PROVIDERS)
    return found


def short_name(provider: str) -> str:
    """What users call a provider."""
    by_full_name = {full: name for name, full in PROVIDERS.items()}
    return by_full_name.get(provider, provider.removesuffix(_SUFFIX).lower())


def _list(providers: Sequence[str]) -> str:
    return ", ".join(map(short_name, providers))


def _is_absent(provider: str, present: set[str]) -> str:
    name = short_name(provider)
    remedy = f"install {_PACKAGES[name]} in place of onnxruntime" if name in _PACKAGES else "choose one of these"
    return (
        f"provider {name!r} is not part of the installed ONNX Runtime, which has {_list(sorted(present))}: {remedy}, "
        "or pass --allow-fallback"
    )


def _open(path: Path, providers: list[str], threads: int, allow_fallback: bool) -> onnxruntime.InferenceSession:
    """Load a file.

    Raises:
        WeightsError: ONNX Runtime cannot.
        InputError: a provider does not start.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; nothing else is for users
    # Threads that spin while they wait would take the time of those that decode and write photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads
    # The runtime's own way of falling back prints to standard output, where a photo may be going.
    start = partial(onnxruntime.InferenceSession, str(path), sess_options=options, enable_fallback=0)
    try:
        return start(providers=providers)
    except Exception as error:  # the runtime's own exceptions have no common base
        if set(providers) <= {_CPU}:
            raise _unreadable(path, error) from error
    # The error does not say whose it is, so they are added one by one, and those that start are kept.
    able: list[str] = []
    faults: dict[str, str] = {}
    for name in dict.fromkeys((*providers, _CPU)):
        try:
            session = start(providers=[*able, name])
            able.append(name)
        except Exception as error:  # as above
            if name == _CPU:  # not a provider's fault, then
                raise _unreadable(path, error) from error
            faults[short_name(name)] = first_line(error)
    if faults and not allow_fallback:
        name, reason = next(iter(faults.items()))
        raise InputError(
            f"{path}: {name} does not start ({reason}): pass --allow-fallback to use the next provider or the CPU"
        )
    return session


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = first_line(error)
    if "DeformConv" in str(error):
        return WeightsError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} has no deformable convolution for it: install "
            "onnxruntime>=1.25, or export the network again with --decompose-deform"
        )
    return WeightsError(f"{path}: not a model that ONNX Runtime can load ({reason})")
