"""The whole family: every backbone in the whole network, and every option with every other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from birefnet.backbones import BACKBONES
from birefnet.config import REFINERS, ModelConfig, RefinerConfig
from birefnet.errors import InputError
from birefnet.model import BiRefNet, TrainOutput, load_model
from birefnet.weights.infer import infer_config
from birefnet.weights.keys import KeyMap
from family import COMBINATIONS, OPTIONS, WIDTHS, TinyBackbone

GIANTS = ["dino_v3_7b"]
HEAVY = ["swin_v1_s", "swin_v1_b", "swin_v1_l", "pvt_v2_b2", "pvt_v2_b5", "dino_v3_b", "dino_v3_l", "dino_v3_h_plus"]
BATTERY = [
    pytest.param(name, marks=pytest.mark.long if name in HEAVY else ()) for name in BACKBONES if name not in GIANTS
]

# Parameters of the whole network in millions, and those of the reference's table.
PARAMETERS = {
    "swin_v1_l": 220.18,
    "swin_v1_b": 106.23,
    "swin_v1_s": 65.63,
    "swin_v1_t": 44.31,
    "pvt_v2_b5": 96.26,
    "pvt_v2_b2": 39.67,
    "pvt_v2_b1": 28.31,
    "pvt_v2_b0": 15.77,
    "resnet50": 54.80,
    "vgg16": 32.00,
    "dino_v3_s": 47.36,
    "dino_v3_s_plus": 54.46,
    "dino_v3_b": 118.55,
    "dino_v3_l": 340.75,
    "dino_v3_h_plus": 882.93,
    "dino_v3_7b": 6810.78,
}


def mean_loss(out: TrainOutput) -> Tensor:
    """A number that everything supervised has a part in."""
    terms = [out.logits, *out.side_logits, *out.gradient_logits, *out.earlier_logits]
    terms += [] if out.class_logits is None else [out.class_logits]
    return torch.stack([term.square().mean() for term in terms]).sum()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_equal_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = BiRefNet(backbone=name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == PARAMETERS[name]


@pytest.mark.parametrize("name", BATTERY)
def test_every_backbone_runs_learns_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BiRefNet(backbone=name)
    frozen = model.encoder.backbone.frozen
    mean_loss(model.train().forward_train(torch.randn(2, 3, 64, 96))).backward()
    for key, parameter in model.named_parameters():
        if frozen and key.startswith("encoder.backbone."):
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.encoder.backbone.training is not frozen

    path = tmp_path / "weights.pth"  # which holds no configuration
    model.save(path)
    loaded = load_model(path)
    assert loaded.config == model.config
    assert f"backbone {name}" in loaded.notes[0]
    model.eval()
    with torch.no_grad():
        for shape in ((1, 3, 64, 64), (2, 3, 64, 96), (1, 3, 128, 64)):
            image = torch.randn(shape)
            logits = model(image)
            assert logits.shape == (shape[0], 1, *shape[2:])
            assert torch.equal(loaded(image), logits)


@pytest.mark.parametrize("name", GIANTS)
def test_giants_have_their_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = BiRefNet(backbone=name).eval()
        logits = model(torch.empty(1, 3, 64, 96))
    assert logits.shape == (1, 1, 64, 96)
    keys = KeyMap(model.config)
    names = {keys.to_reference(key): tensor for key, tensor in model.state_dict().items()}
    assert len(names) == len(model.state_dict())
    assert {"bb.model.blocks.39.mlp.fc1_g.weight", "decoder.pyramid_neck_x4.conv.weight"} <= names.keys()
    assert not any(name and name.startswith("bb.model.norm.") for name in names)
    config, _ = infer_config(Path("giant.pth"), {name or "": tensor for name, tensor in names.items()})
    assert config == model.config


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 80), (100, 64), (16, 64)])
def test_sizes_that_are_no_multiple_of_32_are_refused_in_one_line(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = BiRefNet(backbone=name).eval()
        with pytest.raises(InputError, match="multiples of 32") as error:
            model(torch.empty(1, 3, *size))
    assert "\n" not in str(error.value)


def test_the_combinations_hold_every_choice() -> None:
    assert 20 <= len(COMBINATIONS) <= 200
    for name, choices in OPTIONS.items():
        for choice in choices:
            assert any(combination[name] == choice for combination in COMBINATIONS), (name, choice)


@pytest.mark.parametrize("index", range(len(COMBINATIONS)))
def test_every_two_options_build_run_learn_and_come_back(index: int, tmp_path: Path) -> None:
    torch.manual_seed(index)
    options = COMBINATIONS[index] | WIDTHS
    own = {"backbone": options["backbone"]} if callable(options["backbone"]) else {}
    model = BiRefNet(**options).train()
    refiner = model.config.refiner
    side = 64 * (refiner.scale if refiner else 1)
    out = model.forward_train(torch.randn(2, 3, side, side))
    assert len(out.side_logits) == (3 if model.config.side_supervision else 0)
    assert len(out.gradient_logits) == len(out.gradient_labels) == (3 if model.config.outward else 0)
    assert (out.class_logits is not None) == (model.config.classes > 0)
    assert (len(out.earlier_logits) > 0) == (refiner is not None)
    mean_loss(out).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # Side predictions within tiles are never looked at.
    assert all(refiner and refiner.scale > 1 and "side_head" in name for name in lacking), lacking

    model.eval()
    image = torch.randn(1, 3, side, 2 * side)
    with torch.no_grad():
        logits = model(image)
    assert logits.shape == (1, 1, side, 2 * side)
    model.save(tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", **own)
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(image), logits)


@pytest.mark.parametrize("index", range(len(COMBINATIONS)))
def test_the_options_are_told_by_keys_and_shapes(index: int) -> None:
    options = COMBINATIONS[index] | {"backbone": "vgg16"}
    with torch.device("meta"):
        model = BiRefNet(**options)
    keys = KeyMap(model.config)
    state = {keys.to_reference(key) or "": tensor for key, tensor in model.state_dict().items()}
    config, notes = infer_config(Path("file.pth"), state)
    expected = model.config.to_dict()
    if options["scale_fusion"] == "none":
        expected["scale_fusion"] = "add"  # which has the same tensors; the notes say so
        assert any("assumed" in note and "'none'" in note for note in notes)
    if options["inward"] == "pixels":
        expected["inward"] = "patches"  # of the same tensors, and what every published file has
    if options["refiner"]:
        expected["refiner"] |= {"scale": 2, "iterations": 1}
        assert any("a refiner of scale 2" in note for note in notes)
        if options["refiner"].kind in ("refunet", "itself"):
            expected["refiner"]["backbone"] = RefinerConfig.backbone
    if not model.config.outward:
        expected["gradient_channels"] = 16
    if model.config.attention == "none" and model.config.squeeze in ("basic", "residual", "none"):
        expected["attention_channels"] = 256
    actual = config.to_dict()
    if model.config.inward == "none":
        expected["inward_channels"] = 64
    assert actual == expected


@pytest.mark.parametrize("kind", REFINERS)
@pytest.mark.parametrize("scale", [1, 2])
def test_refiners_train_jointly_and_refuse_what_does_not_fit(kind: str, scale: int) -> None:
    torch.manual_seed(0)
    model = BiRefNet(backbone=TinyBackbone, decoder_channels=8, refiner={"kind": kind, "scale": scale}, **WIDTHS)
    out = model.train().forward_train(torch.randn(2, 3, 64 * scale, 64 * scale))
    mean_loss(out).backward()
    assert model.refinement is not None
    first = next(model.refinement.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    coarse = next(model.encoder.backbone.parameters())
    assert coarse.grad is not None
    assert coarse.grad.abs().sum() > 0
    with pytest.raises(InputError, match=f"multiples of {32 * scale}") as error:
        model.eval()(torch.zeros(1, 3, 32 * scale + 16, 64 * scale))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        # The reference makes side predictions of a refiner only with those of the network.
        (
            {"refine": "Refiner", "bb": "pvt_v2_b2", "ms_supervision": False},
            "refiner.decoder.conv_out1.0.weight",
            "refiner.decoder.conv_ms_spvn_4.weight",
        ),
        # Its U-Net keeps batch norm where the network has none, and its stem gets a layer norm.
        ({"refine": "RefUNet", "batch_size": 1}, "refiner.encoder_1.2.running_mean", "squeeze_module.0.bn_in.weight"),
        ({"refine": "itself", "batch_size": 1}, "stem_layer.norm1.1.weight", "stem_layer.norm1.0.weight"),
        (
            {"refine": "Refiner", "bb": "pvt_v2_b2", "batch_size": 1},
            "refiner.stem_layer.norm2.1.bias",
            "refiner.stem_layer.norm2.0.bias",
        ),
    ],
)
def test_refiners_have_the_keys_that_the_options_give_them(
    options: dict[str, Any], present: str, absent: str, tmp_path: Path
) -> None:
    model = BiRefNet(ModelConfig.from_reference({"bb": "vgg16", **options}))
    model.save(tmp_path / "weights.pth")
    keys = torch.load(tmp_path / "weights.pth", weights_only=True).keys()
    assert present in keys
    assert absent not in keys
    assert load_model(tmp_path / "weights.pth").config == model.config
    if model.config.norm == "none":
        mean_loss(model.train().forward_train(torch.randn(1, 3, 128, 128))).backward()


def test_single_images_pass_where_batch_norm_does_not_train() -> None:
    model = BiRefNet(backbone=TinyBackbone, decoder_channels=8, **WIDTHS).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    mean_loss(model.forward_train(torch.randn(1, 3, 64, 64))).backward()


@pytest.mark.parametrize("norm", ["group", "none"])
def test_single_images_train_without_batch_norm(norm: str) -> None:
    torch.manual_seed(0)
    model = BiRefNet(backbone=TinyBackbone, norm=norm, decoder_channels=8, **WIDTHS).train()
    mean_loss(model.forward_train(torch.randn(1, 3, 64, 64))).backward()


def test_a_backbone_s_own_batch_norm_refuses_a_single_small_image() -> None:
    model = BiRefNet(backbone="resnet50", norm="none", decoder_channels=8, **WIDTHS).train()
    with pytest.raises(InputError, match="ResNet cannot be trained on a single image of 64 x 64") as error:
        model.forward_train(torch.randn(1, 3, 64, 64))
    assert "\n" not in str(error.value)
    mean_loss(model.forward_train(torch.randn(1, 3, 64, 128))).backward()


def test_without_scale_fusion_the_smallest_image_is_half_as_large() -> None:
    model = BiRefNet(backbone="pvt_v2_b0", scale_fusion="none").eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
