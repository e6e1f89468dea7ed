"""Which engine is chosen, what it is told, and what is said where that cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import birefnet
import birefnet.cli.cutout as cutout_command
from birefnet.config import InputSpec
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.testing import FakeEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.errors import ConfigError, InputError, WeightsError
from birefnet.evaluation.model import Model
from birefnet.export.openvino import export_openvino
from birefnet.loading import choose_engine
from birefnet.models import bundled_file
from birefnet.predictor import Predictor
from birefnet.sources import Source, locate
from engine_files import SIZE, lively_model

NANO = bundled_file("nano", ".onnx")


def test_the_engine_is_chosen_by_what_is_asked_for() -> None:
    assert choose_engine("nano") == "onnx"
    assert choose_engine("nano", precision="float32") == "onnx"
    assert choose_engine("nano", precision="bfloat16") == "torch"
    assert choose_engine("nano", device="cuda") == "torch"
    assert choose_engine("nano", max_memory=10**9) == "torch"
    assert choose_engine("nano", compiled=True) == "torch"
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


def test_proportions_are_kept_unless_both_sides_are_named() -> None:
    model = lively_model()
    model.input_spec = InputSpec(size=(64, 64), keep_aspect=True)
    assert birefnet.load(model).spec == model.input_spec
    assert birefnet.load(model, size=96).spec.size_of(100, 200) == (64, 128)
    assert birefnet.load(model, size=(96, 64)).spec.size_of(100, 200) == (96, 64)
    assert birefnet.load(model, size=(96, 96), keep_aspect=True).spec.size_of(100, 200) == (64, 128)
    assert birefnet.load(model, keep_aspect=False).spec.size_of(100, 200) == (64, 64)
    model.input_spec = InputSpec(size=(64, 64))
    assert birefnet.load(model, keep_aspect=True).spec.size_of(100, 200) == (32, 96)


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
        ({"engine": "onnx", "compiled": True}, ConfigError, "leave --compile out"),
        ({"engine": "openvino", "compiled": True}, ConfigError, "leave --compile out"),
        ({"compiled": True}, InputError, "compiled for cuda alone"),
        ({"model": "program.pt2"}, WeightsError, r"program\.pt2: a program, which PyTorch runs by itself"),
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


def test_the_name_of_a_bundled_model_means_that_model_unless_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("nano") == locate(Path("nano")) == Source(bundled_file("nano", ".safetensors"))
    Path("nano").mkdir()
    assert locate("nano") == Source(bundled_file("nano", ".safetensors"))
    assert isinstance(birefnet.load("nano").engine, OnnxEngine)
    assert choose_engine("./nano") == choose_engine(Path("nano")) == "torch"
    for written in ("./nano", Path("nano"), tmp_path / "nano"):
        with pytest.raises(WeightsError, match="holds no model"):
            birefnet.load(written)


class Noting(FakeEngine):
    """Has something to say after its first run."""

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a kernel failed",) if self.shapes else ()


def test_a_predictor_tells_what_its_engine_finds_out_in_runs(chelsea: Path, tmp_path: Path) -> None:
    predictor = Predictor(Noting(), InputSpec(size=(64, 64)), notes=["loaded so"])
    assert predictor.notes == ("loaded so",)
    predictor.predict(chelsea)
    assert predictor.notes == ("loaded so", "a kernel failed")
    told: list[str] = []
    model = Model(lambda: Predictor(Noting(), InputSpec(size=(64, 64)), notes=["loaded so"]), None, tmp_path)
    model.tell = told.append
    for name in ("one", "two"):
        model.predict(chelsea, tmp_path / f"{name}.png")
    assert told == ["loaded so", "a kernel failed"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_command_tells_what_came_up_in_runs_at_its_end(
    stream: bool, chelsea: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Predictor:
        return Predictor(Noting(), InputSpec(size=(64, 64)), notes=["loaded so"])

    monkeypatch.setattr(cutout_command, "load", load)
    target = "-" if stream else str(tmp_path / "mask.png")
    result = CliRunner().invoke(cutout_command.cutout, [str(chelsea), "-o", target, "--kind", "mask"])
    assert result.exit_code == 0
    assert result.stderr == "loaded so\na kernel failed\n"
