"""Weights by name: from the zoo, a hub, a folder or a file, over real HTTP from a hub on this machine."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import Tensor, nn

import birefnet
from birefnet import BiRefNet, InputSpec, ModelConfig
from birefnet.errors import ConfigError, WeightsError
from birefnet.hub import fetch_file
from birefnet.weights.pretrained import PRETRAINED
from hub_server import FakeHub, hub_environment, hub_server, using_hub
from support import GOLDENS, TINY, golden_input, golden_model, golden_state, golden_value, relative_error, tiny_model

# What a repository with the reference's code holds beside the weights.
REMOTE_CODE = {
    "config.json": json.dumps(
        {
            "architectures": ["BiRefNet"],
            "auto_map": {"AutoModelForImageSegmentation": "birefnet.BiRefNet"},
            "bb_pretrained": False,
        }
    ).encode(),
    "birefnet.py": b"raise SystemExit('remote code was run')\n",
    "BiRefNet_config.py": b"raise SystemExit('remote code was run')\n",
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with hub_server() as server, using_hub(server.url, tmp_path / "home"):
        yield server


def as_safetensors(state: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({key: tensor.contiguous() for key, tensor in state.items()}, {"format": "pt"})


def as_pickle(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_published_model_is_loaded_by_name_and_gives_the_golden_logits(hub: FakeHub) -> None:
    state = golden_state(BiRefNet(backbone="swin_v1_t"))
    hub.add("ZhengPeng7/BiRefNet_lite", {"model.safetensors": as_safetensors(state), **REMOTE_CODE})
    model = BiRefNet.from_pretrained("general-lite")
    assert model.config == ModelConfig(backbone="swin_v1_t")
    assert model.input_spec == InputSpec(size=(1024, 1024))
    assert any("backbone swin_v1_t" in note for note in model.notes)
    expected = np.load(GOLDENS / "model" / "swin_v1_t-256.npz")["logits"]
    with torch.no_grad():
        assert relative_error(model(golden_input([1, 3, 256, 256])).numpy(), expected) < 1e-4
    assert not hub.asked(".py")
    assert not hub.asked("timm/")  # no backbone is fetched for a full checkpoint

    asked = len(hub.log)
    predictor = birefnet.load("birefnet-general-lite", size=128)  # rembg's name for the same
    matte = predictor.predict(np.full((40, 50, 3), 200, np.uint8))
    assert matte.alpha.shape == (40, 50)
    assert len(hub.log) == asked  # all from the cache


def test_any_repository_is_loaded_without_running_its_code(hub: FakeHub) -> None:
    model = tiny_model()
    preprocessor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [1.0, 1.0, 1.0], "size": {"height": 64, "width": 96}}
    files = {
        "weights.pth": as_pickle(golden_state(model)),
        "preprocessor_config.json": json.dumps(preprocessor).encode(),
    }
    hub.add("someone/net", {**files, **REMOTE_CODE})
    predictor = birefnet.load("someone/net")
    assert predictor.spec == InputSpec(size=(64, 96), mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    assert any("keys and shapes tell: backbone mobilenet_v4_s" in note for note in predictor.notes)
    assert not hub.asked(".py")


def test_a_repository_of_another_network_is_refused_in_one_line(hub: FakeHub) -> None:
    hub.add("someone/unet", {"model.safetensors": as_safetensors({"down.weight": torch.zeros(2, 2)})})
    with pytest.raises(WeightsError, match="not the weights of a BiRefNet") as error:
        birefnet.load("someone/unet")
    one_line(error)


def test_non_commercial_weights_say_so_and_gated_ones_need_a_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("briaai/RMBG-2.0", {"model.safetensors": as_safetensors(golden_state(tiny_model()))}, gated=True)
    with pytest.raises(WeightsError, match="non-commercial") as error:
        birefnet.load("rmbg-2.0")
    one_line(error)
    assert hub.log == []
    with pytest.raises(WeightsError, match="HF_TOKEN") as error:
        birefnet.load("rmbg-2.0", accept_licence=True)
    one_line(error)
    hub.readers.add("hf_reader")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert birefnet.load("rmbg-2.0", accept_licence=True).spec.size == (1024, 1024)


def test_a_saved_folder_comes_back_and_a_card_that_is_there_stays(tmp_path: Path) -> None:
    model = tiny_model(size=96)
    model.save_pretrained(tmp_path / "net", dtype=torch.float16)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["bb_pretrained"] is False
    assert config["birefnet"]["config"]["backbone"] == "mobilenet_v4_s"
    card = tmp_path / "net" / "README.md"
    assert card.read_text().startswith("---\nlibrary_name: birefnet\n")
    card.write_text("mine")
    model.save_pretrained(tmp_path / "net")
    assert card.read_text() == "mine"
    loaded = BiRefNet.from_pretrained(tmp_path / "net")
    assert (loaded.config, loaded.input_spec) == (TINY, model.input_spec)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert birefnet.load(tmp_path / "net").spec == model.input_spec


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no model\.safetensors") as error:
        birefnet.load(tmp_path)
    one_line(error)
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.pth").touch()
    with pytest.raises(WeightsError, match="2 weights files; name one") as error:
        birefnet.load(tmp_path)
    one_line(error)


def test_a_pushed_model_is_found_by_everyone(hub: FakeHub) -> None:
    model = tiny_model()
    with pytest.raises(WeightsError, match="HF_TOKEN") as error:
        model.push_to_hub("me/net")
    one_line(error)
    hub.writers.add("hf_writer")
    url = model.push_to_hub("me/net", token="hf_writer", message="First try")
    assert url.startswith(f"{hub.url}/me/net")
    (commit,) = [files for sha, files in hub.repos["me/net"].commits.items() if "model.safetensors" in files]
    assert commit.keys() >= {"model.safetensors", "config.json", "README.md"}
    loaded = BiRefNet.from_pretrained("me/net")
    assert loaded.config == TINY
    assert loaded.notes == ()
    with torch.no_grad():
        assert torch.equal(loaded(torch.ones(1, 3, 64, 64)), model(torch.ones(1, 3, 64, 64)))


class ReferenceLike(nn.Module, PyTorchModelHubMixin):
    """Reads repositories as the reference's class does: the hub's mixin, `bb_pretrained`, and the reference's keys."""

    shapes: ClassVar[dict[str, Tensor]] = {}

    def __init__(self, bb_pretrained: bool = True) -> None:
        super().__init__()
        self.bb_pretrained = bb_pretrained
        for key, tensor in self.shapes.items():
            *path, name = key.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(name, torch.zeros_like(tensor))


def test_the_reference_s_way_of_loading_reads_what_is_saved_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr(ReferenceLike, "shapes", golden_state(model))
    theirs = ReferenceLike.from_pretrained(str(tmp_path), strict=True)
    assert theirs.bb_pretrained is False
    state = theirs.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in saved.items())


def publish_backbone(hub: FakeHub, backbone: str) -> dict[str, Tensor]:
    """Publish timm's weights of a backbone as the goldens fill them."""
    name = PRETRAINED[backbone]
    manifest = json.loads((GOLDENS / "pretrained" / f"{name.partition('/')[2]}.manifest.json").read_text())
    state = {key: torch.as_tensor(golden_value(key, tuple(shape))).reshape(shape) for key, shape in manifest.items()}
    hub.add(name, {"model.safetensors": as_safetensors(state)})
    return state


def test_a_pretrained_backbone_is_fetched_and_fits(hub: FakeHub) -> None:
    state = publish_backbone(hub, "pvt_v2_b0")
    model = BiRefNet(backbone="pvt_v2_b0", pretrained_backbone=True)
    weights = model.encoder.backbone.state_dict()
    assert torch.equal(weights["stages.1.blocks.0.attn.q.weight"], state["stages.1.blocks.0.attn.q.weight"])
    file = fetch_file(PRETRAINED["pvt_v2_b0"], "model.safetensors")
    other = BiRefNet(backbone="pvt_v2_b0", pretrained_backbone=file)
    assert all(torch.equal(a, weights[key]) for key, a in other.encoder.backbone.state_dict().items())


def test_what_is_not_in_the_file_and_terms_are_told(hub: FakeHub) -> None:
    publish_backbone(hub, "swin_v1_t")
    model = BiRefNet(backbone="swin_v1_t", bb_pretrained=True)
    assert any("start anew" in note and "output_norms.0.weight" in note for note in model.notes)
    assert all((norm.weight == 1).all() for norm in model.encoder.backbone.output_norms)
    publish_backbone(hub, "dino_v3_s")
    assert any("DINOv3 licence" in note for note in BiRefNet(backbone="dino_v3_s", pretrained_backbone=True).notes)


def test_the_tutorial_s_spelling_asks_for_swin_l(hub: FakeHub) -> None:
    with pytest.raises(WeightsError) as error, torch.device("meta"):
        BiRefNet(bb_pretrained=True)
    assert PRETRAINED["swin_v1_l"] in one_line(error)
    assert hub.asked(PRETRAINED["swin_v1_l"])


def test_backbones_without_published_weights_are_refused_in_one_line(hub: FakeHub) -> None:
    with pytest.raises(ConfigError, match="mobilenet_v4_s") as error:
        BiRefNet(backbone="mobilenet_v4_s", pretrained_backbone=True)
    one_line(error)
    assert hub.log == []


def test_without_network_and_cache_the_error_says_what_to_do(tmp_path: Path) -> None:
    with using_hub("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1"):
        with pytest.raises(WeightsError) as error:
            birefnet.load("general")
        assert "birefnet models download" in one_line(error)
        birefnet.load("nano")  # comes with the package


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'general-lite'") as error:
        birefnet.load("general-light")
    assert "nano" in one_line(error)


def test_the_command_fetches_and_tells_what_it_assumed(hub: FakeHub, tmp_path: Path, astronaut: Path) -> None:
    hub.add("someone/net", {"weights.pth": as_pickle(golden_state(golden_model(TINY)))})
    environment = hub_environment(hub.url, tmp_path / "home")
    arguments = [sys.executable, "-m", "birefnet", "cutout", str(astronaut), "--model", "someone/net"]
    result = subprocess.run(
        [*arguments, "--size", "128", "-o", str(tmp_path / "out.png")],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert "keys and shapes tell: backbone mobilenet_v4_s" in result.stderr
    assert "1024 x 1024 is assumed" in result.stderr
