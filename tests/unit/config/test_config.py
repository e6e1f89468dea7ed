import dataclasses

import pytest

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.classes import DIS5K_CLASSES
from birefnet.config import REFERENCE_CLASSES, InputSpec, ModelConfig, RefinerConfig
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
        {"decoder_channels": "adap"},
        {"attention": ""},
        {"scale_fusion": "sum"},
        {"context_levels": 4},
        {"squeeze_count": 0},
        {"inward": True},
        {"norm": "layer"},
        {"classes": -1},
        {"outward": "yes"},
        {"refiner": "refunet"},
        {"custom": ("head",)},
        {"squeeze": "none"},
        {"squeeze": "none", "context_levels": 1},
        {"squeeze": "none", "context_levels": 0, "squeeze_count": 2},
        {"squeeze_count": 2},
        {"squeeze_count": 2, "context_levels": 2},
        {"side_supervision": False},
        {"norm": "group", "attention_channels": 1},
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
        {"mirror": 1},
        {"balance": -0.1},
        {"balance": 1.5},
        {"balance": True},
        {"crf": -0.1},
        {"crf": 101},
        {"crf": float("nan")},
        {"crf": True},
        {"keep_aspect": "yes"},
    ],
)
def test_impossible_inputs_are_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        InputSpec(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_inputs_keep_the_proportions_of_photos_where_they_are_to() -> None:
    stretched, kept = InputSpec(size=(384, 384)), InputSpec(size=(384, 384), keep_aspect=True)
    assert stretched.size_of(3000, 200) == (384, 384)
    assert kept.size_of(512, 512) == (384, 384)
    assert kept.size_of(427, 640) == (320, 480)
    assert kept.size_of(640, 427) == (480, 320)
    # However small the photo is, and however long: then as one of three to one.
    assert kept.size_of(1, 1) == (384, 384)
    assert kept.size_of(200, 3000) == kept.size_of(100, 300) == (224, 672)
    # A size with two sides says how many pixels there are, not which way they lie.
    assert InputSpec(size=(288, 512), keep_aspect=True).size_of(640, 427) == (480, 320)
    assert InputSpec(size=(32, 32), keep_aspect=True).size_of(100, 300) == (32, 64)
    for height in range(100, 1000, 37):
        sides = kept.size_of(height, 500)
        assert sides[0] % 32 == sides[1] % 32 == 0
        assert 0.88 < sides[0] * sides[1] / 384**2 < 1.12
        assert 0.88 < sides[1] / sides[0] * max(height / 500, 1 / 3) < 1.12


def test_a_wrong_backbone_lists_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'swin_v1_t'") as error:
        build_backbone("swin_v1_tiny")
    assert all(name in str(error.value) for name in BACKBONES)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "unet"},
        {"scale": 0},
        {"scale": 2.0},
        {"iterations": 0},
        {"kind": "refiner_pvt_in4", "backbone": "pvt_v2_b5"},
        {"kind": "refiner", "backbone": None},
    ],
)
def test_impossible_refiners_are_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        RefinerConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_what_does_not_fit_together_is_refused_with_what_does() -> None:
    with pytest.raises(ConfigError, match="set context_levels=0, or choose a squeeze block"):
        ModelConfig(squeeze="none")
    with pytest.raises(ConfigError, match="needs a squeeze block and context_levels=0"):
        ModelConfig(squeeze="residual", squeeze_count=4)
    with pytest.raises(ConfigError, match="set outward=False as well"):
        ModelConfig(side_supervision=False)


def test_a_refiner_travels_with_its_configuration() -> None:
    config = ModelConfig(backbone="pvt_v2_b0", refiner=RefinerConfig("itself", scale=3), classes=219)
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ModelConfig()),
        ({"bb": "pvt_v2_b2", "mul_scl_ipt": ""}, ModelConfig(backbone="pvt_v2_b2", scale_fusion="none")),
        ({"dec_att": "", "dec_blk": "ResBlk"}, ModelConfig(attention="none", decoder_block="residual")),
        (
            {"squeeze_block": "ASPPDeformable_x2", "cxt_num": 0},
            ModelConfig(squeeze="deformable", squeeze_count=2, context_levels=0),
        ),
        ({"squeeze_block": "", "cxt_num": 0}, ModelConfig(squeeze="none", context_levels=0)),
        ({"dec_ipt": False, "dec_ipt_split": True}, ModelConfig(inward="none")),
        ({"dec_ipt": False, "dec_ipt_split": False}, ModelConfig(inward="none")),
        ({"dec_ipt_split": False}, ModelConfig(inward="whole")),
        # The reference turns the outward reference off with the supervision it needs.
        ({"ms_supervision": False}, ModelConfig(side_supervision=False, outward=False)),
        ({"dec_channels_inter": "adap", "batch_size": 1}, ModelConfig(decoder_channels="adaptive", norm="none")),
        ({"auxiliary_classification": True, "batch_size": 8}, ModelConfig(classes=len(DIS5K_CLASSES))),
        ({"refine": "", "scale": 2}, ModelConfig()),
        (
            {"refine": "RefUNet", "scale": 2, "refine_iteration": 3},
            ModelConfig(refiner=RefinerConfig("refunet", scale=2, iterations=3)),
        ),
        (
            {"bb": "pvt_v2_b5", "refine": "Refiner", "progressive_ref": False, "scale": 2},
            ModelConfig(backbone="pvt_v2_b5", refiner=RefinerConfig("refiner", scale=1, backbone="pvt_v2_b5")),
        ),
    ],
)
def test_the_reference_s_options_are_understood(options: dict[str, object], expected: ModelConfig) -> None:
    assert ModelConfig.from_reference(options) == expected


@pytest.mark.parametrize(
    "options",
    [{"dec_atten": "ASPP"}, {"dec_att": "Aspp"}, {"squeeze_block": "ResBlk_xx"}, {"dec_channels_inter": "adaptive"}],
)
def test_unknown_options_of_the_reference_are_refused_in_one_line(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean|known are|such as ResBlk_x4") as error:
        ModelConfig.from_reference(options)
    assert "\n" not in str(error.value)


def test_the_categories_are_those_of_dis5k() -> None:
    assert len(DIS5K_CLASSES) == len(set(DIS5K_CLASSES)) == REFERENCE_CLASSES
    assert list(DIS5K_CLASSES) == sorted(DIS5K_CLASSES)
    assert {"BicycleFrame", "UAV", "Yacht"} <= set(DIS5K_CLASSES)


@pytest.mark.parametrize(
    "options", [{"batch_size": "1"}, {"batch_size": 0}, {"ms_supervision": "False"}, {"dec_ipt": 2}]
)
def test_values_that_the_reference_would_not_have_are_refused_in_one_line(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must be") as error:
        ModelConfig.from_reference(options)
    assert "\n" not in str(error.value)
