"""Checkpoints: a weights file with what it says of its network. It fits to the last key, or nothing is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError, OutputError, WeightsError
from birefnet.weights.files import STATE_ENTRIES, read_tensors, shown, write_tensors
from birefnet.weights.infer import infer_config
from birefnet.weights.keys import KeyMap, strip_wrappers

METADATA_KEY = "birefnet"
"""Entry of a `.safetensors` file's metadata, and of config.json: JSON with `config` and `input_spec`."""

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
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape or type", shapes))
            if keys
        ]
        super().__init__(
            f"{path}: does not fit a BiRefNet with backbone {config.backbone}: {'; '.join(parts)}; "
            "fetch the file again, or pass the config that it was trained with"
        )


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        path: the file.
        tensors: by the reference's key names, without the prefixes that wrappers leave.
        config: the network they belong to: as the file says or, where it says nothing, as keys and shapes tell.
        input_spec: how photos are prepared for it, None where the file does not say.
        notes: what was told or assumed, in lines for a person; empty where the file says all.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: ModelConfig
    input_spec: InputSpec | None
    notes: tuple[str, ...]

    def state_for(self, config: ModelConfig, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors to a network's keys, all of them or none.

        Args:
            config: the network's configuration.
            expected: its state dict, for names, shapes and kinds of numbers.

        Raises:
            MismatchError: a key is missing, unexpected, or of another shape or kind of number.
        """
        keys = KeyMap(config)
        state: dict[str, Tensor] = {}
        unexpected: list[str] = []
        mismatched: dict[str, tuple[str, str]] = {}
        for name, tensor in self.tensors.items():
            key = keys.from_reference(name)
            # The way back too: a name that only looks like one of ours in memory is no name on disk.
            if key is None or key not in expected or keys.to_reference(key) != name:
                unexpected.append(name)
                continue
            if tensor.shape != expected[key].shape:
                mismatched[name] = (str(list(tensor.shape)), str(list(expected[key].shape)))
            elif tensor.dtype != expected[key].dtype and not (
                tensor.is_floating_point() and expected[key].is_floating_point()
            ):
                mismatched[name] = (str(tensor.dtype), str(expected[key].dtype))
            state[key] = tensor
        missing = [keys.to_reference(key) or key for key in expected if key not in state]
        if missing or unexpected or mismatched:
            raise MismatchError(self.path, config, missing, unexpected, mismatched)
        return state


def read_checkpoint(path: str | Path, *, config: ModelConfig | None = None) -> Checkpoint:
    """Read a `.safetensors` or `.pth` file of a BiRefNet.

    Args:
        path: the file.
        config: the network it belongs to, if that is known better than the file tells.

    Raises:
        WeightsError: the file cannot be read, or belongs to no network that can be built here.
    """
    path = Path(path)
    if config is not None and not isinstance(config, ModelConfig):
        raise ConfigError(f"config must be a ModelConfig, not {config!r}")
    tensors, metadata = read_tensors(path, entries=STATE_ENTRIES)
    tensors = _unwrapped(path, tensors)
    saved_config, spec = _read_metadata(path, metadata)
    notes: tuple[str, ...] = ()
    config = config or saved_config
    if config is None:
        config, notes = infer_config(path, tensors)
    return Checkpoint(path, tensors, config, spec, notes)


def write_checkpoint(
    state: Mapping[str, Tensor],
    path: str | Path,
    config: ModelConfig,
    input_spec: InputSpec,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network's state dict with the reference's key names, whole or not at all.

    A part with values that `dtype` cannot hold, such as a variance above 65504 in float16, keeps its own type: all
    tensors of that normalisation or convolution, as they are computed with together.

    Raises:
        OutputError: the file cannot be written, or two tensors would have the same name on disk.
    """
    keys = KeyMap(config)
    tensors: dict[str, Tensor] = {}
    wide = set() if dtype is None else {_part(key) for key, tensor in state.items() if not _fits(tensor, dtype)}
    for key, tensor in state.items():
        name = keys.to_reference(key)
        if name is None or name in tensors:
            raise OutputError(f"{path}: {key} has no name of its own on disk ({name}); rename it in your part")
        narrow = dtype is not None and tensor.is_floating_point() and _part(key) not in wide
        tensors[name] = tensor.to(dtype) if narrow else tensor
    content = {"config": config.to_dict(), "input_spec": input_spec.to_dict()}
    write_tensors(tensors, path, {METADATA_KEY: json.dumps(content)})


def _part(key: str) -> str:
    return key.rpartition(".")[0]


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).isfinite(), tensor.isfinite())


def parse_facts(source: Path, content: Mapping[str, object]) -> tuple[ModelConfig, InputSpec]:
    """Read what this package writes beside weights: {"config": {...}, "input_spec": {...}}.

    Raises:
        WeightsError: something else stands there.
    """
    try:
        config, spec = content["config"], content["input_spec"]
        if not isinstance(config, Mapping) or not isinstance(spec, Mapping):
            raise TypeError
        return ModelConfig.from_dict(config), InputSpec.from_dict(spec)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ConfigError) else "not in the form that birefnet writes"
        raise WeightsError(f"{source}: its configuration cannot be read: {reason}") from error


def cast(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copy each tensor into memory of its own, in the type asked for (None: its own).

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
    except (ValueError, RecursionError):
        content = None
    return parse_facts(path, content if isinstance(content, dict) else {})
