"""ONNX files against the network they were made of, in ONNX Runtime."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

import birefnet
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.errors import ConfigError, OutputError
from birefnet.export import onnx as export
from birefnet.export.onnx import export_onnx
from birefnet.export.verify import ExportReport, Source
from birefnet.model import BiRefNet
from engine_files import lively_model
from small_models import small_model
from support import tiny_model

SHAPES = [(1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 160, 32)]


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    """Trace a network once, whatever is made of it then: tracing is what takes the time."""
    trace, known = export._trace, {}

    def traced(network: nn.Module, model: BiRefNet, path: Path, opset: int) -> onnx.ModelProto:
        key = id(model), str(network), opset
        if key not in known:
            known[key] = trace(network, model, path, opset)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_trace", traced)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_onnx(small_model(), tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="module")
def plain() -> BiRefNet:
    return small_model()


def test_one_file_runs_at_every_size_and_batch(written: ExportReport) -> None:
    engine, source = OnnxEngine(written.path, threads=1), Source(small_model())
    for shape in SHAPES:
        expected = source(images(shape))
        assert expected.std() > 0.1  # else nothing would be shown
        np.testing.assert_allclose(engine(images(shape)), expected, atol=1e-4)


def test_the_report_tells_what_was_compared(written: ExportReport) -> None:
    assert 0 <= written.difference <= 1e-4
    assert {batch for batch, _, _ in written.checked} == {1, 3}
    assert any(height != width for _, height, width in written.checked)
    assert any("1.25" in note for note in written.notes)


def test_the_file_holds_the_operator_and_no_batch_norm(written: ExportReport) -> None:
    graph = onnx.load(written.path)
    assert graph.opset_import[0].version == export.DEFORM_OPSET
    assert "DeformConv" in operators(written.path)
    assert not {"BatchNormalization", "GridSample"} & operators(written.path)
    # What a norm adds is the operator's own bias, no pass of its own over the map.
    assert all(node.input[3] for node in graph.graph.node if node.op_type == "DeformConv")


def test_the_file_says_what_goes_in_and_out_and_nothing_of_its_maker(written: ExportReport) -> None:
    (entry,) = onnx.load(written.path).metadata_props
    facts = json.loads(entry.value)
    model = small_model()
    assert entry.key == "birefnet"
    assert facts["config"] == model.config.to_dict()
    assert facts["input_spec"] == model.input_spec.to_dict()
    assert (facts["output"], facts["precision"], facts["opset"]) == ("alpha", "float32", 19)
    content = written.path.read_bytes()
    assert str(Path(birefnet.__file__).parent).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.long
def test_the_decomposed_file_needs_no_operator_and_gives_the_same(tmp_path: Path) -> None:
    model = lively_model("deformable")
    report = export_onnx(model, tmp_path / "decomposed.onnx", decompose_deform=True)
    assert "GridSample" in operators(report.path)
    assert "DeformConv" not in operators(report.path)
    assert onnx.load(report.path).opset_import[0].version == export.OPSET
    engine, source = OnnxEngine(report.path, threads=1), Source(model)
    for shape in SHAPES:
        np.testing.assert_allclose(engine(images(shape)), source(images(shape)), atol=1e-4)


def test_half_weights_take_half_the_room(plain: BiRefNet, tmp_path: Path) -> None:
    report = export_onnx(plain, tmp_path / "half.onnx", half=True)
    assert 0 < report.difference < export.HALF_BOUND
    weights = sum(parameter.numel() for parameter in plain.parameters())
    assert report.path.stat().st_size == pytest.approx(2 * weights, rel=0.2)


def test_float16_is_computed_in_and_said_so(plain: BiRefNet, tmp_path: Path) -> None:
    report = export_onnx(plain, tmp_path / "half.onnx", precision="float16")
    assert 0 < report.difference < 0.01
    graph = onnx.load(report.path)
    assert {tensor.type.tensor_type.elem_type for tensor in (*graph.graph.input, *graph.graph.output)} == {
        onnx.TensorProto.FLOAT
    }
    convs = [node for node in graph.graph.node if node.op_type == "Conv"]
    types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert {types[node.input[1]] for node in convs} == {onnx.TensorProto.FLOAT16}
    assert OnnxEngine(report.path).precision == "float16"


def test_a_file_that_differs_is_not_written(plain: BiRefNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FLOAT_BOUND", -1.0)
    with pytest.raises(OutputError, match="not written, its masks differ"):
        export_onnx(plain, tmp_path / "tiny.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "tiny.onnx", small_model()
    with pytest.raises(OutputError, match=r"ends in \.onnx"):
        export_onnx(model, tmp_path / "tiny.bin")
    with pytest.raises(ConfigError, match="float32 or float16"):
        export_onnx(model, path, precision="bfloat16")
    with pytest.raises(ConfigError, match="opset 18 has no DeformConv"):
        export_onnx(model, path, opset=18)
    with pytest.raises(ConfigError, match="opset 12: choose from"):
        export_onnx(tiny_model(), path, opset=12)
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="holds less than 2: store them as float16"):
        export_onnx(model, path)
    assert list(tmp_path.iterdir()) == []


BACKBONES = ["swin_v1_t", "pvt_v2_b0", "resnet50", "vgg16bn", "dino_v3_s"]


@pytest.mark.long
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_kind_of_backbone(backbone: str, tmp_path: Path) -> None:
    model = lively_model("deformable", backbone)
    report = export_onnx(model, tmp_path / f"{backbone}.onnx")
    engine, source = OnnxEngine(report.path, threads=1), Source(model)
    for shape in ((1, 3, 224, 320), (3, 3, 128, 64)):
        expected = source(images(shape))
        assert expected.std() > 0.1
        np.testing.assert_allclose(engine(images(shape)), expected, atol=1e-4)
