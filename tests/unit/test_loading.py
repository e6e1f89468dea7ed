"""Which engine is chosen, what it is told, and what is said where that cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch

import birefnet
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.errors import ConfigError, InputError, WeightsError
from birefnet.export.openvino import export_openvino
from birefnet.loading import choose_engine
from birefnet.models import bundled_file
from engine_files import SIZE, lively_model

NANO = bundled_file("nano", ".onnx")


def test_the_engine_is_chosen_by_what_is_asked_for() -> None:
    assert choose_engine("nano") == "onnx"
    assert choose_engine("nano", precision="float32") == "onnx"
    assert choose_engine("nano", precision="bfloat16") == "torch"
    assert choose_engine("nano", device="cuda") == "torch"
    assert choose_engine("nano", max_memory=10**9) == "torch"
    assert choose_engine("a/model.ONNX") == "onnx"
    assert choose_engine(Path("a/model.xml")) == "openvino"
    assert choose_engine("a/model.safetensors") == choose_engine("general") == choose_engine("owner/name") == "torch"


def test_engines_get_what_is_asked_for() -> None:
    engine = birefnet.load("nano", threads=1).engine
    assert isinstance(engine, OnnxEngine)
    assert engine.threads == 1
    engine = birefnet.load("nano", engine="openvino", threads=1, precision="float32").engine
    assert isinstance(engine, OpenVinoEngine)
    assert (engine.threads, engine.precision) == (1, "float32")
    engine = birefnet.load("nano", engine="torch", precision="float32", max_memory=2 * 10**9).engine
    assert isinstance(engine, TorchEngine)
    assert engine.precision == "float32"
    assert birefnet.load(lively_model(), precision="float32").engine.precision == "float32"


def test_threads_of_torch_are_set() -> None:
    before = torch.get_num_threads()
    try:
        birefnet.load("nano", engine="torch", threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_openvino_files_are_told_by_their_suffix(tmp_path: Path, chelsea: Path) -> None:
    report = export_openvino(lively_model(), tmp_path / "tiny.xml")
    predictor = birefnet.load(report.path)
    assert isinstance(predictor.engine, OpenVinoEngine)
    assert predictor.spec.size == (SIZE, SIZE)
    assert predictor.predict(chelsea).alpha.shape == (300, 451)
    with pytest.raises(ConfigError, match="an exported file, which the torch engine does not run"):
        birefnet.load(report.path, engine="torch")
    with pytest.raises(ConfigError, match=r"the onnx engine runs bundled models and \.onnx files"):
        birefnet.load(report.path, engine="onnx")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "openvno"}, ConfigError, "did you mean 'openvino'"),
        ({"precision": "float8"}, ConfigError, "unknown precision 'float8'"),
        ({"threads": 0}, ConfigError, "from 1 on"),
        ({"engine": "onnx", "device": "cuda"}, ConfigError, "--provider"),
        ({"engine": "onnx", "precision": "bfloat16"}, ConfigError, "computes in float32, not bfloat16"),
        ({"engine": "onnx", "max_memory": 10**9}, ConfigError, "keeps to no limit of memory"),
        ({"engine": "openvino", "max_memory": 10**9}, ConfigError, "keeps to no limit of memory"),
        ({"engine": "openvino", "device": "cuda"}, InputError, "OpenVINO has"),
        ({"engine": "openvino", "providers": ["cpu"]}, ConfigError, "are the onnx engine's"),
        ({"engine": "torch", "allow_fallback": True}, ConfigError, "are the onnx engine's"),
        ({"providers": ["cudda"]}, ConfigError, "did you mean 'cuda'"),
        ({"model": "general", "engine": "openvino"}, ConfigError, r"runs bundled models and \.xml or \.onnx files"),
        ({"model": "missing.xml"}, WeightsError, r"missing\.xml: no such file"),
        ({"model": "missing.onnx"}, WeightsError, r"missing\.onnx: no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        birefnet.load(**arguments)
    assert "\n" not in str(raised.value)


def test_a_network_in_memory_runs_in_torch_alone() -> None:
    for engine in ("onnx", "openvino"):
        with pytest.raises(ConfigError, match=f"the {engine} engine runs files"):
            birefnet.load(lively_model(), engine=engine)
