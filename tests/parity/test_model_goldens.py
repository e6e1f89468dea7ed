"""The network against numbers of the reference implementation, at every recorded depth."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from birefnet.config import ModelConfig
from birefnet.losses.gradient import gradient_loss
from birefnet.model import BiRefNet
from birefnet.weights.keys import KeyMap
from support import GOLDENS, golden_input, golden_model, read_json, relative_error

TOLERANCE = 1e-4
MODEL_GOLDENS = GOLDENS / "model"
NAMES = sorted(
    path.name.removesuffix(".json") for path in MODEL_GOLDENS.glob("*.json") if not path.name.endswith(".manifest.json")
)
WITH_NUMBERS = [name for name in NAMES if (MODEL_GOLDENS / f"{name}.npz").exists()]


def config_of(name: str) -> ModelConfig:
    case = read_json(MODEL_GOLDENS / f"{name}.json")
    return ModelConfig.from_reference({"bb": case["backbone"], **case["options"]})


def test_there_are_goldens_of_both_families_and_modes() -> None:
    assert {config_of(name).backbone for name in WITH_NUMBERS} >= {
        *("swin_v1_t", "swin_v1_l", "pvt_v2_b0", "pvt_v2_b2"),
        *("vgg16", "vgg16bn", "resnet50", "dino_v3_s"),
    }
    assert {read_json(MODEL_GOLDENS / f"{name}.json")["mode"] for name in WITH_NUMBERS} == {"eval", "train"}


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_the_keys_and_shapes_of_the_reference(name: str) -> None:
    config = config_of(name)
    with torch.device("meta"):
        state = BiRefNet.from_config(config).state_dict()
    keys = KeyMap(config)
    ours = {keys.to_reference(key): list(tensor.shape) for key, tensor in state.items()}
    assert ours == read_json(MODEL_GOLDENS / f"{name}.manifest.json")
    assert all(keys.from_reference(keys.to_reference(key) or "") == key for key in state)


def statistics(name: str, x: Tensor, corner_channels: int) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}_mean", x.mean(dim=(0, 2, 3)).numpy()
    yield f"{name}_std", x.transpose(0, 1).flatten(1).std(dim=1).numpy()
    yield f"{name}_corner", x[:, :corner_channels, :4, :4].numpy()


@torch.no_grad()
def run_all_depths(model: BiRefNet, image: Tensor, mode: str) -> dict[str, np.ndarray]:
    """Everything the goldens recorded, by their names."""
    values: dict[str, np.ndarray] = {}
    hooked = {"squeeze": model.encoder.squeeze}
    hooked |= {f"dec{4 - i}": stage.block for i, stage in enumerate(model.decoder.stages)}
    handles = [
        module.register_forward_hook(lambda *args, name=name: values.update(statistics(name, args[2], 4)))
        for name, module in hooked.items()
    ]
    for i, x in enumerate(model.encoder.features(image), start=1):
        values.update(statistics(f"enc_x{i}", x, 8))
    if mode == "eval":
        values["logits"] = model(image).numpy()
    else:
        out = model.forward_train(image)
        values["pred_3"] = out.logits.numpy()
        if out.class_logits is not None:
            values["class_logits"] = out.class_logits.numpy()
        for i, level in enumerate((4, 3, 2)):
            values[f"pred_{i}"] = out.side_logits[i].numpy()
            values[f"gdt_pred_{level}"] = out.gradient_logits[i].numpy()
            values[f"gdt_label_{level}"] = out.gradient_labels[i].numpy()
        values["gradient_loss"] = gradient_loss(out.gradient_logits, out.gradient_labels).numpy()
    for handle in handles:
        handle.remove()
    return values


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_every_recorded_depth_equals_the_reference(name: str) -> None:
    case = read_json(MODEL_GOLDENS / f"{name}.json")
    expected = dict(np.load(MODEL_GOLDENS / f"{name}.npz"))
    if "gradient_loss" in case:
        expected["gradient_loss"] = np.float32(case["gradient_loss"])
    actual = run_all_depths(golden_model(config_of(name)), golden_input(case["input"]), case["mode"])
    errors = {key: relative_error(actual[key], value) for key, value in expected.items()}
    assert len(errors) >= 5
    print(f"{name}: {len(errors)} arrays, largest relative error {max(errors.values()):.1e}")  # noqa: T201 - for docs
    assert {key: error for key, error in errors.items() if error >= TOLERANCE} == {}
