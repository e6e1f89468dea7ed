"""What several tests share: the golden rule that fills a network, small configurations, photos."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from birefnet.config import InputSpec, ModelConfig
from birefnet.model import BiRefNet
from birefnet.weights.keys import KeyMap

GOLDENS = Path(__file__).parent / "parity" / "goldens"

TINY = ModelConfig(
    backbone="mobilenet_v4_s", attention="aspp", decoder_channels=8, attention_channels=8, inward_channels=4
)
"""A network that runs in milliseconds."""


def golden_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of a floating-point tensor by the rule the goldens were made with, from the reference's key name."""
    g = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(shape).astype(np.float32)
    if key.endswith("relative_position_bias_table"):
        return np.float32(0.5) * g
    if key.endswith("running_var"):
        return 1 + np.float32(0.2) * np.abs(g)
    if key.endswith("running_mean"):
        return np.float32(0.1) * g
    if key.endswith("weight"):
        return g / np.float32(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else 1 + np.float32(0.1) * g
    if "offset_conv" in key:
        return np.float32(0.5) * g
    return np.float32(0.1) * g


def golden_state(model: BiRefNet) -> dict[str, torch.Tensor]:
    """State dict with the reference's names, filled by the golden rule; integer buffers stay."""
    keys = KeyMap(model.config)
    state = {}
    for key, tensor in model.state_dict().items():
        name = keys.to_reference(key)
        assert name is not None, key
        filled = torch.as_tensor(golden_value(name, tuple(tensor.shape))) if tensor.is_floating_point() else tensor
        state[name] = filled.reshape(tensor.shape).clone()
    return state


def golden_model(config: ModelConfig) -> BiRefNet:
    """Network in evaluation mode, filled by the golden rule."""
    model = BiRefNet.from_config(config)
    keys = KeyMap(config)
    state = golden_state(model)
    model.load_state_dict({keys.from_reference(name): tensor for name, tensor in state.items()})
    return model.eval()


def tiny_model(size: int = 64, seed: int = 0) -> BiRefNet:
    """A tiny network with random weights in evaluation mode, for photos stretched to `size`."""
    torch.manual_seed(seed)
    return BiRefNet.from_config(TINY, InputSpec(size=(size, size))).eval()


def golden_input(shape: list[int]) -> torch.Tensor:
    """The input all goldens of the network were computed on."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
