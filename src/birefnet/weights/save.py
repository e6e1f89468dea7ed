"""Saving with the reference's key names, so that its own code and the tools around it can read the file."""

import json
from pathlib import Path

import torch
from torch import Tensor

from birefnet.model import BiRefNet
from birefnet.weights.files import write_tensors
from birefnet.weights.keys import KeyMap
from birefnet.weights.load import METADATA_KEY


def save_model(model: BiRefNet, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Save a network's weights, whole or not at all.

    A `.safetensors` file holds the configuration and the input's preparation too; a `.pth` file is the plain state
    dict that the reference expects.

    Args:
        model: the network.
        path: where to, ending in `.safetensors`, `.pth` or `.pt`.
        dtype: type of the floating-point weights in the file, None for that of the network.

    Raises:
        OutputError: the file cannot be written.
    """
    keys = KeyMap(model.config)
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        name = keys.to_reference(key)
        assert name is not None, f"{key} has no name on disk"
        tensors[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    content = {"config": model.config.to_dict(), "input_spec": model.input_spec.to_dict()}
    write_tensors(tensors, path, {METADATA_KEY: json.dumps(content)})
