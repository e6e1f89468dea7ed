"""Weights files: what loads, what is refused, and what a file holds after saving."""

import itertools
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from birefnet import load_model, save_model
from birefnet.backbones import build_backbone
from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError, OutputError, WeightsError
from birefnet.model import BiRefNet
from birefnet.weights.checkpoint import MismatchError
from birefnet.weights.keys import KeyMap
from support import GOLDENS, TINY, golden_input, golden_model, golden_state, relative_error, tiny_model

SWIN_T = ModelConfig(backbone="swin_v1_t")


@pytest.fixture(scope="module")
def swin_state() -> dict[str, torch.Tensor]:
    return golden_state(BiRefNet.from_config(SWIN_T))


@pytest.fixture(scope="module")
def swin_file(swin_state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "swin.pth"
    torch.save(swin_state, path)
    return path


def one_line(error: pytest.ExceptionInfo[BaseException], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("", ".pth"),
        ("", ".safetensors"),
        ("module.", ".pth"),
        ("_orig_mod.", ".pth"),
        ("module._orig_mod.", ".pth"),
        ("_orig_mod.module.", ".safetensors"),
    ],
)
def test_a_golden_file_loads_strictly_and_gives_the_golden_logits(
    swin_state: dict[str, torch.Tensor], tmp_path: Path, prefix: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    prefixed = {prefix + key: tensor for key, tensor in swin_state.items()}
    torch.save(prefixed, path) if suffix == ".pth" else save_file(prefixed, path)
    model = load_model(path)
    assert model.config == SWIN_T  # told by keys and shapes alone
    assert not model.training
    expected = np.load(GOLDENS / "model" / "swin_v1_t-224x352.npz")["logits"]
    with torch.no_grad():
        logits = model(golden_input([1, 3, 224, 352])).numpy()
    assert relative_error(logits, expected) < 1e-4

    for again in (tmp_path / "again.pth", tmp_path / "again.safetensors"):
        save_model(model, again)
        saved = torch.load(again, weights_only=True) if again.suffix == ".pth" else load_file(again)
        assert saved.keys() == swin_state.keys()
        for key, tensor in swin_state.items():
            assert saved[key].shape == tensor.shape
            assert saved[key].dtype == tensor.dtype
            assert torch.equal(saved[key], tensor)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(backbone="pvt_v2_b0"),
        ModelConfig(backbone="pvt_v2_b1", decoder_channels=16, attention_channels=8, inward_channels=12),
        ModelConfig(backbone="swin_v1_s", attention="aspp"),
        TINY,
    ],
)
def test_the_configuration_is_told_by_keys_and_shapes(config: ModelConfig, tmp_path: Path) -> None:
    save_model(BiRefNet.from_config(config), tmp_path / "weights.pth")
    assert load_model(tmp_path / "weights.pth").config == config


def test_safetensors_carry_configuration_and_input_spec(tmp_path: Path) -> None:
    model = tiny_model(size=96)
    save_model(model, tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors")
    assert loaded.config == TINY
    assert loaded.input_spec == InputSpec(size=(96, 96))


def test_half_precision_files_load_as_float32_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    model = tiny_model()
    save_model(model, path, dtype=torch.float16)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16, torch.int64}
    assert {p.dtype for p in load_model(path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(path, dtype=None).parameters()} == {torch.float16}
    # A norm with what is beyond float16, such as the variance of a map of large values, stays what it is.
    key, variance = next((key, value) for key, value in model.state_dict().items() if key.endswith("running_var"))
    variance[0] = 70_000.0
    save_model(model, path, dtype=torch.float16)
    assert torch.equal(load_model(path).state_dict()[key], variance)
    assert sum(tensor.dtype == torch.float32 for tensor in load_file(path).values()) == 4
    half = load_model(path, dtype=None).eval()
    assert half(torch.zeros(1, 3, 64, 64, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    save_model(tiny_model(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError) as error:
        load_model(path)
    one_line(error, path)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"bb.x": Payload(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="could run code"):
        load_model(path)
    path.write_bytes(pickle.dumps({"bb.x": Payload(marker)}))
    with pytest.raises(WeightsError) as error:
        load_model(path)
    one_line(error, path)
    assert not marker.exists()


def test_the_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    unet = nn.ModuleDict({f"stage{i}": nn.Conv2d(8, 8, 3) for i in range(20)})
    # A plain ResNet where a BiRefNet keeps its backbone: the right prefix, and nothing else right.
    resnet = {f"bb.layer{i}.{j}.conv1.weight": torch.zeros(8, 8, 3, 3) for i in range(1, 5) for j in range(3)}
    for state in (unet.state_dict(), resnet):
        for path, save in ((tmp_path / "other.pth", torch.save), (tmp_path / "other.safetensors", save_file)):
            save(state, path)
            with pytest.raises(WeightsError, match="not the weights of a BiRefNet") as error:
                load_model(path)
            one_line(error, path)


def test_a_backbone_without_its_decoder_is_refused(swin_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save({key: tensor for key, tensor in swin_state.items() if key.startswith("bb.")}, path)
    with pytest.raises(MismatchError, match="missing") as error:
        load_model(path)
    assert "decoder.conv_out1.0.weight" in error.value.missing
    assert not any(key.startswith("bb.") for key in error.value.missing)


def test_every_length_of_header_is_told_from_a_pickle(tmp_path: Path) -> None:
    # A safetensors file starts with the length of its header, a multiple of 8, the low byte of which can be that of
    # a pickle (0x80); two bytes can spell the start of an archive ("PK").
    path, seen = tmp_path / "weights.safetensors", set()
    save_model(tiny_model(size=96), path)
    state, facts = load_file(path), read_metadata(path)
    renamed = tmp_path / "weights.bin"  # whose suffix tells nothing
    for padding in range(0, 256, 8):
        save_file(state, renamed, metadata={"birefnet": facts, "padding": "x" * padding})
        seen.add(renamed.read_bytes()[0])
        assert load_model(renamed).input_spec.size == (96, 96)
    assert 0x80 in seen
    assert len(seen) == 32


def read_metadata(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["birefnet"]


@pytest.mark.parametrize(
    "replacement",
    [
        torch.zeros(1, 128, 1, 1, device="meta"),
        torch.zeros(1, 128, 1, 1).to_sparse(),
        torch.zeros(1, 128, 1, 1, dtype=torch.complex64),
        torch.zeros(1, 128, 1, 1, dtype=torch.int32),
    ],
    ids=["meta", "sparse", "complex", "integer"],
)
def test_tensors_that_are_no_plain_numbers_are_refused_and_nothing_is_loaded(
    tmp_path: Path, replacement: torch.Tensor
) -> None:
    model = tiny_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    path = tmp_path / "odd.pth"
    save_model(tiny_model(seed=1), path)
    state = torch.load(path, weights_only=True)
    key = "decoder.conv_ms_spvn_3.weight"
    assert state[key].shape == replacement.shape
    torch.save({**state, key: replacement}, path)
    for attempt in (lambda: load_model(path), lambda: model.load_weights(path)):
        with pytest.raises(WeightsError) as error:
            attempt()
        assert key in one_line(error, path)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.complex64, torch.float32])
def test_counters_and_indices_must_be_of_the_right_type(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "odd.pth"
    save_model(tiny_model(), path)
    state = torch.load(path, weights_only=True)
    key = "squeeze_module.0.bn_in.num_batches_tracked"
    torch.save({**state, key: state[key].to(dtype)}, path)
    with pytest.raises(MismatchError) as error:
        load_model(path)
    assert error.value.mismatched == {key: (str(dtype), "torch.int64")}


def test_a_loaded_network_is_independent_of_its_file(tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        path = tmp_path / name
        save_model(tiny_model(), path)
        model = load_model(path)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        path.write_bytes(b"\0" * path.stat().st_size)
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_tensors_that_share_memory_in_the_file_are_parted(tmp_path: Path) -> None:
    path = tmp_path / "shared.pth"
    save_model(tiny_model(), path)
    state = torch.load(path, weights_only=True)
    first, second = "decoder.gdt_convs_4.1.weight", "decoder.gdt_convs_4.1.running_var"
    state[first] = state[second] = torch.ones(1).expand(state[first].shape)
    torch.save(state, path)
    model = load_model(path)
    norm = model.decoder.stages[0].outward.norm
    with torch.no_grad():
        norm.weight[0] = 5
    assert norm.weight.tolist() == [5, *[1] * 15]
    assert norm.running_var.tolist() == [1] * 16
    save_model(model, tmp_path / "again.safetensors")


def test_damage_inside_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "flipped.pth"
    save_model(tiny_model(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged or cut off") as error:
        load_model(path)
    one_line(error, path)


def test_names_from_a_file_cannot_break_the_message(tmp_path: Path) -> None:
    path = tmp_path / "names.pth"
    for key in ("evil\nkey\x1b[31m", "x" * 100_000):
        torch.save({key: torch.zeros(1)}, path)
        with pytest.raises(WeightsError) as error:
            load_model(path)
        message = one_line(error, path)
        assert message.isprintable()
        assert len(message) < 1000


def test_a_name_that_is_not_utf8_loads_or_is_refused_in_one_line(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "weights.safetensors")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors"))
    (tmp_path / "weights.safetensors").rename(odd)
    try:
        load_model(odd)
    except WeightsError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {}, {"state": {"a": torch.zeros(1)}}, torch.zeros(3), {1: torch.zeros(1)}]
)
def test_other_contents_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError) as error:
        load_model(path)
    one_line(error, path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80", b"not weights at all", b"\xff" * 100, b"\0" * 9])
def test_files_that_hold_no_tensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load_model(path)
    one_line(error, path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(WeightsError) as error:
            load_model(path)
        one_line(error, path)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(swin_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = golden_model(SWIN_T)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    path = tmp_path / "broken.pth"
    broken = {key: torch.zeros_like(tensor) for key, tensor in swin_state.items()}
    del broken["decoder.conv_out1.0.bias"]
    broken["decoder.extra.weight"] = torch.zeros(2)
    broken["bb.norm0.weight"] = torch.zeros(5)
    broken["bb.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save(broken, path)
    for attempt in (lambda: load_model(path), lambda: model.load_weights(path)):
        with pytest.raises(MismatchError) as error:
            attempt()
        message = one_line(error, path)
        assert error.value.missing == ["decoder.conv_out1.0.bias"]
        assert error.value.unexpected == ["decoder.extra.weight"]
        assert error.value.mismatched == {
            "bb.norm0.weight": ("[5]", "[96]"),
            "bb.layers.0.blocks.0.attn.relative_position_index": ("torch.float32", "torch.int64"),
        }
        for key in (*error.value.missing, *error.value.unexpected, *error.value.mismatched):
            assert key in message
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_any_single_missing_key_is_named(swin_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "one_missing.pth"
    for key in itertools.islice(swin_state, 0, None, 97):
        torch.save({name: tensor for name, tensor in swin_state.items() if name != key}, path)
        with pytest.raises(WeightsError, match="1 missing") as error:
            load_model(path)
        assert key in one_line(error, path)


def test_our_own_names_on_disk_are_not_accepted(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "ours.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(WeightsError):
        model.load_weights(path)


def test_the_same_key_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pth"
    torch.save({"a.b": torch.zeros(1), "module.a.b": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="twice"):
        load_model(path)


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[]",
        '{"config": {}}',
        '{"config": 1}',
        '{"config": {"bakbone": "x"}, "input_spec": {}}',
        '{"config": {"backbone": {}}, "input_spec": {}}',
        '{"config": {"decoder_channels": 1' + 30 * "0" + '}, "input_spec": {}}',
        '{"config": {"dropout": NaN}, "input_spec": {}}',
        '{"config": {}, "input_spec": {"mean": ["a", "b", "c"]}}',
        '{"config": {}, "input_spec": {"std": [NaN, NaN, NaN]}}',
        '{"config": {}, "input_spec": {"size": [32000000000, 32]}}',
        100_000 * "[",
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"bb.x": torch.zeros(1)}, path, metadata={"birefnet": metadata})
    with pytest.raises(WeightsError, match="configuration cannot be read") as error:
        load_model(path)
    one_line(error, path)


def test_a_network_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"bb.x": torch.zeros(1)}, path, metadata={"birefnet": '{"config": {"backbone": "no"}, "input_spec": {}}'})
    with pytest.raises(WeightsError, match="unknown backbone 'no'") as error:
        load_model(path)
    one_line(error, path)
    state = golden_state(tiny_model())
    state["squeeze_module.0.conv_in.weight"] = torch.zeros(0, 640, 3, 3)
    torch.save(state, tmp_path / "empty.pth")
    with pytest.raises(WeightsError) as error:
        load_model(tmp_path / "empty.pth")
    one_line(error, tmp_path / "empty.pth")
    state["squeeze_module.0.conv_in.weight"] = torch.zeros(1).expand(2**40, 640, 3, 3)
    torch.save(state, tmp_path / "huge.pth")
    with pytest.raises(WeightsError) as error:
        load_model(tmp_path / "huge.pth")
    one_line(error, tmp_path / "huge.pth")


def test_saving_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_model(tiny_model(), path)
    old = path.read_bytes()
    broken = tiny_model()
    broken.decoder.head.weight = nn.Parameter(torch.zeros(1, device="meta"))
    with pytest.raises(NotImplementedError):
        save_model(broken, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_to_impossible_places_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (
        tmp_path / "weights.onnx",
        tmp_path / "nowhere" / "weights.pth",
        tmp_path / "file" / "weights.safetensors",
    ):
        with pytest.raises(OutputError) as error:
            save_model(tiny_model(), path)
        one_line(error, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    model = tiny_model()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the next write past it fails, as on a full disk
    try:
        with pytest.raises(OutputError) as error:
            save_model(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(error, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_a_checkpoint_of_a_training_may_hold_the_weights_as_an_entry(tmp_path: Path, entry: str) -> None:
    model = tiny_model()
    torch.save({entry: golden_state(model), "epoch": 3}, tmp_path / "checkpoint.pth")
    assert load_model(tmp_path / "checkpoint.pth").config == TINY


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!doctype html><html></html>", "download the file itself"),
        (b"garbage", "fetch or save it again"),
    ],
)
def test_what_is_downloaded_instead_of_weights_is_named(tmp_path: Path, content: bytes, remedy: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=remedy) as error:
        load_model(path)
    one_line(error, path)


def test_a_folder_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder; name the weights file") as error:
        load_model(tmp_path)
    one_line(error, tmp_path)


@pytest.mark.parametrize("prefix", ["", "bb."])
def test_a_backbone_alone_is_told_from_a_network(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "backbone.pth"
    keys = KeyMap(ModelConfig(backbone="pvt_v2_b0"))
    state = build_backbone("pvt_v2_b0").state_dict()
    renamed = {
        (keys.to_reference(f"encoder.backbone.{key}") or "").replace("bb.", prefix): tensor
        for key, tensor in state.items()
    }
    torch.save(renamed, path)
    if prefix:
        # Everything but the backbone is missing.
        with pytest.raises(WeightsError, match="missing") as error:
            load_model(path)
    else:
        with pytest.raises(WeightsError, match="backbone='pvt_v2_b0', pretrained_backbone=FILE") as error:
            load_model(path)
    one_line(error, path)


def test_a_refiner_alone_is_told_from_a_network(tmp_path: Path) -> None:
    path = tmp_path / "refiner.pth"
    model = BiRefNet(backbone="pvt_v2_b0", refiner={"kind": "refiner", "backbone": "pvt_v2_b0", "scale": 1})
    model.save(tmp_path / "whole.pth")
    whole = torch.load(tmp_path / "whole.pth", weights_only=True)
    refiner = {key.removeprefix("refiner."): value for key, value in whole.items() if key.startswith("refiner.")}
    torch.save(refiner, path)
    with pytest.raises(WeightsError, match="a refiner alone") as error:
        load_model(path)
    one_line(error, path)


def test_a_missing_key_does_not_change_what_is_told_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "gap.pth"
    state = golden_state(BiRefNet(backbone="pvt_v2_b0"))
    del state["decoder.decoder_block4.conv_in.weight"]
    torch.save(state, path)
    with pytest.raises(MismatchError) as error:
        load_model(path)
    assert error.value.missing == ["decoder.decoder_block4.conv_in.weight"]
    assert not error.value.unexpected
    assert not error.value.mismatched


def test_the_attention_of_the_squeeze_module_alone_tells_its_width(tmp_path: Path) -> None:
    config = ModelConfig(backbone="pvt_v2_b0", attention="none", squeeze="aspp", attention_channels=64)
    BiRefNet(config).save(tmp_path / "weights.pth")
    assert load_model(tmp_path / "weights.pth").config == config


def test_unknown_devices_and_configurations_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    tiny_model().save(path)
    with pytest.raises(ConfigError, match="device 'nope' is unknown"):
        load_model(path, device="nope")
    with pytest.raises(ConfigError, match="must be a ModelConfig"):
        load_model(path, config={"backbone": "swin_v1_t"})  # type: ignore[arg-type]
