"""Pretrained files of timm and of the original authors: all keys find their place, and the features are timm's."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from birefnet.backbones import BACKBONES, Backbone, build_backbone
from birefnet.backbones.resnet import ResNet
from birefnet.backbones.swin_v1 import SwinTransformer
from birefnet.backbones.vgg import Vgg
from birefnet.errors import ConfigError, WeightsError
from birefnet.weights.pretrained import PRETRAINED, convert_backbone, load_backbone
from support import GOLDENS, golden_input, golden_value, read_json, relative_error

TOLERANCE = 1e-4
FOLDER = GOLDENS / "pretrained"
BY_FILE = {hub_id.removeprefix("timm/"): name for name, hub_id in PRETRAINED.items()}
RECORDED = {BY_FILE[path.name.removesuffix(".manifest.json")]: path for path in FOLDER.glob("*.manifest.json")}
WITH_FEATURES = [BY_FILE[path.name.removesuffix(".features224.npz")] for path in FOLDER.glob("*.features224.npz")]
SOURCE = Path("folder/model.safetensors")


def manifest(name: str) -> dict[str, list[int]]:
    """Names and shapes of timm's file."""
    return read_json(RECORDED[name])


def timm_shapes(name: str) -> dict[str, Tensor]:
    return {
        key: torch.empty(shape, device="meta", dtype=torch.int64 if key.endswith("num_batches_tracked") else None)
        for key, shape in manifest(name).items()
    }


def timm_tensors(name: str) -> dict[str, Tensor]:
    """timm's file filled by the golden rule, its classifier, which may be large, with zeros that take no memory."""
    tensors = {}
    for key, shape in manifest(name).items():
        if re.match(r"head\.|fc\.|pre_logits\.", key):
            tensors[key] = torch.zeros(()).expand(shape)
        elif key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            tensors[key] = torch.from_numpy(np.asarray(golden_value(key, tuple(shape)), dtype=np.float32))
    return tensors


def swin_original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's Swin to Microsoft's names, with the constants and the classifier that their files hold."""
    window = 7
    renamed = {
        re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key): tensor
        for key, tensor in tensors.items()
        if not key.startswith("head.")
    }
    for key in list(renamed):
        if key.endswith("relative_position_bias_table"):
            index = key.replace("bias_table", "index")
            renamed[index] = torch.zeros(window**2, window**2, dtype=torch.int64)
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(64, window**2, window**2)
    return {**renamed, "head.weight": torch.zeros(10, 768), "head.bias": torch.zeros(10)}


def pvt_original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's PVTv2 to the names of its authors."""
    rules = [(r"^patch_embed\.", "patch_embed1."), (r"\.mlp\.dwconv\.", ".mlp.dwconv.dwconv.")]
    for i in range(4):
        rules += [
            (rf"^stages\.{i}\.downsample\.", f"patch_embed{i + 1}."),
            (rf"^stages\.{i}\.blocks\.", f"block{i + 1}."),
            (rf"^stages\.{i}\.norm\.", f"norm{i + 1}."),
        ]
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


def kept_tensors(name: str) -> set[str]:
    """Keys of the backbone that a pretrained file must hold."""
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    return {key for key in state if not re.search(r"^output_norms|relative_position_index$", key)}


@torch.no_grad()
def features(backbone: Backbone, image: Tensor) -> Iterator[Tensor]:
    """The maps that the goldens recorded."""
    if isinstance(backbone, SwinTransformer):
        # Before the output norms, and without stage 4, of whose single window timm drops the shift.
        x = backbone.patch_embed(image)
        for stage in backbone.stages[:3]:
            out, x = stage(x)
            yield out.permute(0, 3, 1, 2)
        return
    if isinstance(backbone, Vgg):
        x = image
        for layer in (layer for stage in backbone.stages for layer in stage):
            if isinstance(layer, nn.MaxPool2d):
                yield x.clone()
            x = layer(x)
        yield x
        return
    if isinstance(backbone, ResNet):
        yield backbone.stem[:3](image)
    yield from backbone(image)


def test_every_pretrained_backbone_exists_and_has_its_goldens() -> None:
    assert set(PRETRAINED) == set(BACKBONES) - {"mobilenet_v4_s", "resnet_mini"}
    # Of the two largest no file was at hand; their keys are those of the smaller ones with SwiGLU.
    assert set(RECORDED) == set(PRETRAINED) - {"dino_v3_h_plus", "dino_v3_7b"}
    assert len(WITH_FEATURES) == 6


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_all_keys_of_a_file_find_their_place(name: str) -> None:
    assert convert_backbone(name, timm_shapes(name), SOURCE).keys() == kept_tensors(name)


@pytest.mark.parametrize("name", sorted(WITH_FEATURES))
def test_features_equal_timms(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    state = convert_backbone(name, timm_tensors(name), SOURCE)
    if isinstance(backbone, SwinTransformer):
        fresh = build_backbone(name).state_dict()
        state |= {key: fresh[key] for key in fresh.keys() - state.keys()}
    backbone.load_state_dict(state, assign=True)
    backbone.eval()
    with np.load(FOLDER / f"{PRETRAINED[name].removeprefix('timm/')}.features224.npz") as file:
        expected = dict(file)
    maps = list(features(backbone, golden_input([1, 3, 224, 224])))
    assert len(expected) == 2 * len(maps)
    errors = {}
    for i, x in enumerate(maps):
        errors[f"f{i}_mean"] = relative_error(x.mean(dim=(2, 3))[0].numpy(), expected[f"f{i}_mean"])
        errors[f"f{i}_corner"] = relative_error(x[:, :8, :4, :4].numpy(), expected[f"f{i}_corner"])
    print(f"{name}: largest relative error {max(errors.values()):.1e}")  # noqa: T201 - for docs
    assert {key: error for key, error in errors.items() if error >= TOLERANCE} == {}


@pytest.mark.parametrize(("name", "entry"), [("swin_v1_t", "model"), ("pvt_v2_b0", None), ("pvt_v2_b0", "state_dict")])
def test_original_files_load_to_the_same_state_as_timms(name: str, entry: str | None, tmp_path: Path) -> None:
    tensors = timm_tensors(name)
    original = swin_original(tensors) if name == "swin_v1_t" else pvt_original(tensors)
    torch.save({entry: original, "epoch": 300} if entry else original, tmp_path / "original.pth")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "timm.safetensors")
    torch.manual_seed(0)
    states = []
    for file in ("original.pth", "timm.safetensors"):
        backbone = build_backbone(name)
        left = load_backbone(backbone, name, tmp_path / file)
        norms = [f"output_norms.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
        assert left == (norms if name == "swin_v1_t" else [])
        states.append(backbone.state_dict())
    converted = convert_backbone(name, tensors, SOURCE)
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
        if key in converted:
            assert torch.equal(tensor, converted[key]), key
    if name == "swin_v1_t":  # a file's constants are not taken: these were all zeros
        assert states[0]["stages.0.blocks.0.attn.relative_position_index"].any()


def test_files_without_counters_of_batches_load_with_zeros() -> None:
    whole = timm_shapes("resnet50")
    old = {key: tensor for key, tensor in whole.items() if not key.endswith("num_batches_tracked")}
    state = convert_backbone("resnet50", old, SOURCE)
    assert state.keys() == kept_tensors("resnet50")
    assert state["stem.1.num_batches_tracked"].item() == 0


def test_torchvisions_classifiers_are_dropped() -> None:
    body = {key: tensor for key, tensor in timm_shapes("vgg16").items() if key.startswith("features.")}
    state = convert_backbone("vgg16", {**body, "classifier.0.weight": torch.empty(1, device="meta")}, SOURCE)
    assert state.keys() == kept_tensors("vgg16")


def test_rotary_buffers_of_dinov3_are_dropped() -> None:
    extra = {key: torch.empty(16, device="meta") for key in ("rope.periods", "periods", "rope.dt")}
    state = convert_backbone("dino_v3_s_plus", timm_shapes("dino_v3_s_plus") | extra, SOURCE)
    assert state.keys() == kept_tensors("dino_v3_s_plus")


def refusal(name: str, tensors: dict[str, Tensor]) -> str:
    with pytest.raises(WeightsError) as error:
        convert_backbone(name, tensors, SOURCE)
    message = str(error.value)
    assert message.startswith(f"{SOURCE}: does not fit the backbone {name}: ")
    assert "\n" not in message
    assert len(message) < 2000
    return message


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("swin_v1_t", "swin_v1_s"),
        ("swin_v1_b", "swin_v1_l"),
        ("pvt_v2_b1", "pvt_v2_b0"),
        ("vgg16bn", "vgg16"),
        ("resnet50", "swin_v1_t"),
        ("dino_v3_s", "dino_v3_s_plus"),
        ("dino_v3_b", "dino_v3_l"),
    ],
)
def test_weights_of_another_backbone_are_named(name: str, other: str) -> None:
    assert refusal(name, timm_shapes(other)).endswith(f"; these are the weights of {other}")


def test_a_missing_or_misshapen_or_unknown_tensor_is_named() -> None:
    tensors = timm_shapes("swin_v1_t")
    del tensors["layers.3.blocks.1.mlp.fc2.bias"]
    assert "1 missing (layers.3.blocks.1.mlp.fc2.bias)" in refusal("swin_v1_t", tensors)

    tensors = timm_shapes("swin_v1_t")
    tensors["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.empty(529, 3, device="meta")
    message = refusal("swin_v1_t", tensors)
    assert "1 of another shape or type (layers.0.blocks.0.attn.relative_position_bias_table" in message
    assert "[529, 3] instead of [169, 3]" in message

    message = refusal("pvt_v2_b0", timm_shapes("pvt_v2_b0") | {"neck\n.weight": torch.empty(1, device="meta")})
    assert r"1 unexpected ('neck\n.weight')" in message

    tensors = timm_shapes("resnet50")
    tensors["conv1.weight"] = tensors["conv1.weight"].to(torch.int8)
    assert "conv1.weight torch.int8 instead of torch.float32" in refusal("resnet50", tensors)


def test_missing_keys_have_the_names_that_the_file_uses() -> None:
    tensors = pvt_original(timm_shapes("pvt_v2_b0"))
    del tensors["patch_embed2.proj.weight"]
    assert "1 missing (patch_embed2.proj.weight)" in refusal("pvt_v2_b0", tensors)


def test_a_whole_network_is_told_from_a_backbone() -> None:
    tensors = {f"bb.{key}": tensor for key, tensor in timm_shapes("swin_v1_t").items()}
    tensors["decoder.conv_out1.0.bias"] = torch.empty(1, device="meta")
    assert "a whole network, which birefnet.load_model reads" in refusal("swin_v1_t", tensors)


def test_a_backbone_without_pretrained_files_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown pretrained backbone 'mobilenet_v4_s'.*resnet50"):
        convert_backbone("mobilenet_v4_s", {}, SOURCE)


def test_a_refused_file_leaves_the_backbone_as_it_was(tmp_path: Path) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in timm_tensors("pvt_v2_b0").items()}
    del tensors["stages.3.norm.bias"]
    save_file(tensors, tmp_path / "cut.safetensors")
    backbone = build_backbone("pvt_v2_b0")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=r"cut\.safetensors: .*1 missing \(stages\.3\.norm\.bias\)"):
        load_backbone(backbone, "pvt_v2_b0", tmp_path / "cut.safetensors")
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}},  # which of the two?
        {"model": [torch.zeros(1)]},
        {"epoch": 1, "weights": {"a": torch.zeros(1)}},
        [torch.zeros(1)],
    ],
)
def test_a_file_without_one_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="itself or below 'model' or 'state_dict'") as error:
        load_backbone(build_backbone("pvt_v2_b0"), "pvt_v2_b0", path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
