"""Weights files, compared before they are written."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import birefnet
from birefnet.errors import ConfigError, OutputError
from birefnet.export import weights
from birefnet.export.weights import export_safetensors
from birefnet.weights.keys import KeyMap
from engine_files import lively_model


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_file_gives_the_network_again(precision: str, tmp_path: Path) -> None:
    model = lively_model("deformable")
    report = export_safetensors(model, tmp_path / "tiny.safetensors", precision=precision)
    assert (report.difference == 0) == (precision == "float32")
    loaded = birefnet.load_model(report.path)
    assert (loaded.config, loaded.input_spec) == (model.config, model.input_spec)
    keys = KeyMap(model.config)
    with safe_open(report.path, "pt") as file:
        assert set(file.keys()) == {keys.to_reference(key) for key in model.state_dict()}
        floats = {file.get_tensor(key).dtype for key in file.keys()} - {torch.int64}  # noqa: SIM118 - no mapping
    assert floats == {getattr(torch, precision)}


def test_what_cannot_be_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model()
    with pytest.raises(OutputError, match=r"ends in \.safetensors"):
        export_safetensors(model, tmp_path / "tiny.bin")
    with pytest.raises(ConfigError, match="float32, float16, bfloat16"):
        export_safetensors(model, tmp_path / "tiny.safetensors", precision="int8")
    monkeypatch.setitem(weights._BOUNDS, "float16", 0.0)
    with pytest.raises(OutputError, match="not written, its masks differ"):
        export_safetensors(model, tmp_path / "tiny.safetensors", precision="float16")
    assert list(tmp_path.iterdir()) == []
