"""The older refiners against numbers of the reference implementation."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from birefnet.config import REFINERS, ModelConfig, RefinerConfig
from birefnet.model import BiRefNet
from birefnet.weights.keys import KeyMap
from support import GOLDENS, golden_value, read_json, relative_error

TOLERANCE = 1e-4
REFINER_GOLDENS = GOLDENS / "refiners"
BACKBONE = "pvt_v2_b2"
KINDS = {"RefUNet": "refunet", "Refiner": "refiner", "RefinerPVTInChannels4": "refiner_pvt_in4", "StemLayer": "itself"}
"""Files of the goldens and the kinds they belong to."""


PREFIXES = {"itself": "stem_layer."}


def config_of(kind: str) -> ModelConfig:
    return ModelConfig(backbone=BACKBONE, refiner=RefinerConfig(kind, backbone=BACKBONE))


def names_of(kind: str, refiner: nn.Module) -> dict[str, str]:
    """Key in memory -> key of the refiner alone in the reference."""
    keys, prefix = KeyMap(config_of(kind)), PREFIXES.get(kind, "refiner.")
    names = {}
    for key in refiner.state_dict():
        name = keys.to_reference(f"refinement.refiner.{key}")
        assert name is not None
        assert name.startswith(prefix)
        assert keys.from_reference(name) == f"refinement.refiner.{key}"
        names[key] = name.removeprefix(prefix)
    return names


def build_refiner(kind: str) -> nn.Module:
    refinement = BiRefNet(config_of(kind)).refinement
    assert refinement is not None
    return refinement.refiner


def golden_refiner(kind: str) -> nn.Module:
    refiner = build_refiner(kind)
    state, names = refiner.state_dict(), names_of(kind, refiner)
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.as_tensor(golden_value(names[key], tuple(tensor.shape))).view_as(tensor)
    refiner.load_state_dict(state)
    return refiner.eval()


def golden_inputs() -> Tensor:
    random = np.random.RandomState(5)
    image = random.standard_normal((1, 3, 128, 160)).astype(np.float32)
    logits = random.standard_normal((1, 1, 128, 160)).astype(np.float32)
    return torch.from_numpy(np.concatenate([image, logits], axis=1))


def test_there_are_goldens_of_every_kind() -> None:
    assert {path.stem for path in REFINER_GOLDENS.glob("*.npz")} == set(KINDS)
    assert set(KINDS.values()) == set(REFINERS)


@pytest.mark.parametrize("name", KINDS)
def test_state_dict_has_the_keys_and_shapes_of_the_reference(name: str) -> None:
    with torch.device("meta"):
        refiner = build_refiner(KINDS[name])
    names = names_of(KINDS[name], refiner)
    theirs = {names[key]: list(tensor.shape) for key, tensor in refiner.state_dict().items()}
    assert theirs == read_json(REFINER_GOLDENS / f"{name}.manifest.json")


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_outputs_equal_the_reference(name: str) -> None:
    expected = np.load(REFINER_GOLDENS / f"{name}.npz")
    out = golden_refiner(KINDS[name])(golden_inputs())
    outs = out if isinstance(out, tuple) else (out,)
    assert len(outs) == len(expected.files)
    errors = {key: relative_error(outs[int(key.removeprefix("out_"))].numpy(), expected[key]) for key in expected}
    print(f"{name}: {len(errors)} arrays, largest relative error {max(errors.values()):.1e}")  # noqa: T201 - for docs
    assert {key: error for key, error in errors.items() if error >= TOLERANCE} == {}
