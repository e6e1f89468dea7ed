import dataclasses

import pytest

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError


def test_configurations_survive_json() -> None:
    config = ModelConfig(backbone="pvt_v2_b0", attention="aspp", decoder_channels=24)
    assert ModelConfig.from_dict(config.to_dict()) == config
    spec = InputSpec(size=(256, 320))
    assert InputSpec.from_dict(spec.to_dict()) == spec
    assert all(not isinstance(value, tuple) for value in spec.to_dict().values())


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().backbone = "swin_v1_t"  # type: ignore[misc]


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'backbone'"):
        ModelConfig.from_dict({"bakbone": "swin_v1_t"})


@pytest.mark.parametrize(
    "values",
    [
        {"attention": "deformabel"},
        {"decoder_channels": 0},
        {"inward_channels": 2.5},
        {"gradient_channels": True},
        {"attention_channels": "64"},
    ],
)
def test_impossible_models_are_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"size": (100, 100)},
        {"size": (0, 32)},
        {"size": (64,)},
        {"size": (64.0, 64.0)},
        {"mean": (0.5, 0.5)},
        {"std": (1.0, 0.0, 1.0)},
        {"resize": "nearest"},
    ],
)
def test_impossible_inputs_are_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        InputSpec(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_wrong_backbone_lists_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'swin_v1_t'") as error:
        build_backbone("swin_v1_tiny")
    assert all(name in str(error.value) for name in BACKBONES)
