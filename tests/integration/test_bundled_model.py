"""The model inside the package: both files, both engines, a real photo."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import birefnet
from birefnet.config import ModelConfig
from birefnet.errors import ConfigError
from birefnet.imaging.io import read_photo
from birefnet.models import BUNDLED, bundled_file


@pytest.mark.parametrize("name", BUNDLED)
def test_both_engines_give_the_same_mask(name: str, astronaut: Path, chelsea: Path) -> None:
    for path in (astronaut, chelsea):
        engines = ({"engine": "onnx"}, {"engine": "torch", "precision": "float32"})
        masks = [birefnet.load(name, crf=0.0, **engine).predict(path).alpha for engine in engines]
        assert masks[0].shape == read_photo(path).rgb.shape[:2]
        assert np.abs(masks[0] - masks[1]).max() < 1e-3
        # A CRF makes more of differences where the network is undecided.
        settled = [birefnet.load(name, **engine).predict(path).alpha for engine in engines]
        apart = np.abs(settled[0] - settled[1])
        assert apart.max() < 0.05
        assert (apart > 1e-3).mean() < 0.03


def test_the_object_is_found(astronaut: Path, chelsea: Path) -> None:
    # Patches that anyone would call object or background.
    alpha = birefnet.load().predict(astronaut).alpha
    assert alpha[100:400, 170:290].mean() > 0.9
    assert alpha[:100, 300:360].mean() < 0.1
    alpha = birefnet.load().predict(chelsea).alpha
    assert alpha[80:220, 150:300].mean() > 0.8
    assert alpha[:40, :40].mean() < 0.2


def test_the_files_are_small_and_have_a_card() -> None:
    for name in BUNDLED:
        sizes = [bundled_file(name, suffix).stat().st_size for suffix in (".safetensors", ".onnx")]
        assert sum(sizes) < 12e6
        card = files("birefnet.models") / name / "README.md"
        assert "terms" in card.read_text(encoding="utf-8")


def test_engines_and_names_are_chosen_as_documented() -> None:
    assert type(birefnet.load("nano").engine).__name__ == "OnnxEngine"
    assert type(birefnet.load("nano", engine="torch").engine).__name__ == "TorchEngine"
    assert birefnet.load("nano", size=320).spec.size == (320, 320)
    for arguments, message in (
        ({"model": "nanno"}, "did you mean 'nano'"),
        ({"engine": "onyx"}, "did you mean 'onnx'"),
        ({"engine": "onnx", "device": "cuda"}, "the onnx engine runs on the cpu"),
        ({"size": 100}, "must be a multiple of 32"),
    ):
        with pytest.raises(ConfigError, match=message):
            birefnet.load(**arguments)


def test_weights_and_graph_belong_together() -> None:
    # The same configuration and preparation stand in both files.
    import onnx

    model = birefnet.load_model(bundled_file("nano", ".safetensors"))
    (entry,) = onnx.load(bundled_file("nano", ".onnx")).metadata_props
    facts = json.loads(entry.value)
    assert ModelConfig.from_dict(facts["config"]) == model.config
    assert facts["input_spec"] == model.input_spec.to_dict()
