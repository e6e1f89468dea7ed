"""Strict loading: a file fits the network to the last key, or nothing is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError, WeightsError
from birefnet.model import BiRefNet
from birefnet.weights.files import read_tensors, shown
from birefnet.weights.infer import infer_config
from birefnet.weights.keys import KeyMap, strip_wrappers

METADATA_KEY = "birefnet"
"""Entry of a `.safetensors` file's metadata: JSON with `config` and `input_spec`."""

SHOWN = 4
"""How many keys an error names of each kind; its attributes hold all."""


class MismatchError(WeightsError):
    """A state dict that does not fit the network.

    Attributes:
        missing: keys that the network has and the file lacks, with the names used on disk.
        unexpected: keys of the file that the network lacks.
        mismatched: key -> (shape or type in the file, the one expected).
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        missing: list[str],
        unexpected: list[str],
        mismatched: dict[str, tuple[str, str]],
    ) -> None:
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched
        shapes = [f"{shown(key)} {found} instead of {expected}" for key, (found, expected) in mismatched.items()]
        parts = [
            f"{len(keys)} {what} ({', '.join(map(shown, keys[:SHOWN]))}{', ...' if len(keys) > SHOWN else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if keys
        ]
        super().__init__(f"{path}: does not fit a BiRefNet with backbone {config.backbone}: {'; '.join(parts)}")


def load_model(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    input_spec: InputSpec | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> BiRefNet:
    """Build the network that a weights file belongs to and load the file strictly.

    Args:
        path: a `.safetensors` or `.pth` file with the reference's key names; prefixes that wrappers leave
            (`module.`, `_orig_mod.`) are removed.
        config: what to build; by default what the file's metadata says or, without any, what its keys and shapes say.
        input_spec: how photos are prepared; by default what the metadata says, else 1024 x 1024.
        device: where to put the network.
        dtype: type of the floating-point weights, None to keep the file's.

    Returns:
        The network in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, or does not fit; the message says what is missing, unexpected or of
            another shape.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    tensors = _unwrapped(path, tensors)
    saved_config, saved_spec = _read_metadata(path, metadata)
    config = config or saved_config or infer_config(path, tensors)
    try:
        with torch.device("meta"):  # no time and memory for random weights that are replaced at once
            model = BiRefNet.from_config(config, input_spec or saved_spec)
    except (ConfigError, RuntimeError) as error:  # a width no memory could hold
        raise WeightsError(f"{path}: asks for a network that cannot be built ({error})") from error
    state = _matched_state(path, model, tensors)
    model.load_state_dict(_cast(state, dtype), assign=True)
    return model.to(device).eval()


def load_weights(model: BiRefNet, path: str | Path) -> None:
    """Load a weights file strictly into an existing network, which keeps its types and device.

    Raises:
        WeightsError: the file cannot be read or does not fit; the network is then unchanged.
    """
    path = Path(path)
    tensors, _ = read_tensors(path)
    model.load_state_dict(_matched_state(path, model, _unwrapped(path, tensors)))


def _unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = strip_wrappers(key)
        if name in plain:
            raise WeightsError(f"{path}: holds {shown(name)} twice, with and without a wrapper's prefix")
        plain[name] = tensor
    return plain


def _read_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[ModelConfig | None, InputSpec | None]:
    if METADATA_KEY not in metadata:
        return None, None
    try:
        content = json.loads(metadata[METADATA_KEY])
        return ModelConfig.from_dict(content["config"]), InputSpec.from_dict(content["input_spec"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error if isinstance(error, ConfigError) else "not in the form that birefnet writes"
        raise WeightsError(f"{path}: its configuration cannot be read: {reason}") from error


def _matched_state(path: Path, model: BiRefNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a file's tensors to the network's keys, all of them or none.

    Raises:
        MismatchError: a key is missing, unexpected, or of another shape or kind of number.
    """
    keys = KeyMap(model.config)
    expected = model.state_dict()
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    mismatched: dict[str, tuple[str, str]] = {}
    for name, tensor in tensors.items():
        key = keys.from_reference(name)
        if key is None or key not in expected:
            unexpected.append(name)
        elif tensor.shape != expected[key].shape:
            mismatched[name] = (str(list(tensor.shape)), str(list(expected[key].shape)))
        elif tensor.dtype != expected[key].dtype and not (
            tensor.is_floating_point() and expected[key].is_floating_point()
        ):
            mismatched[name] = (str(tensor.dtype), str(expected[key].dtype))
        if key is not None:
            state[key] = tensor
    missing = [keys.to_reference(key) or key for key in expected if key not in state]
    if missing or unexpected or mismatched:
        raise MismatchError(path, model.config, missing, unexpected, mismatched)
    return state


def _cast(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copy each tensor into memory of its own, in the type asked for.

    What was read may be a map of the file, which would change or vanish with it, or share memory with other tensors.
    """
    return {
        key: tensor.to(
            dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for key, tensor in state.items()
    }
