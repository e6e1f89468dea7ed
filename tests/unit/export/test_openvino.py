"""OpenVINO files against the network they were made of."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import birefnet
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.openvino_library import openvino_core, openvino_library
from birefnet.errors import OutputError
from birefnet.export import openvino as export
from birefnet.export.openvino import export_openvino, moved_together
from birefnet.export.verify import ExportReport
from birefnet.modules.deform_conv import deform_conv2d
from engine_files import lively_model

pytestmark = pytest.mark.long

SHAPES = [(1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 160, 32)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_openvino(lively_model("deformable"), tmp_path_factory.mktemp("openvino") / "tiny.xml")


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def alpha_of(model: birefnet.BiRefNet, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(batch)).sigmoid().numpy()


def test_one_file_runs_at_every_size_and_batch(written: ExportReport) -> None:
    engine, model = OpenVinoEngine(written.path, threads=1, precision="float32"), lively_model("deformable")
    for shape in SHAPES:
        expected = alpha_of(model, images(shape))
        assert expected.std() > 0.1  # else nothing would be shown
        np.testing.assert_allclose(engine(images(shape)), expected, atol=1e-4)


def test_the_report_tells_what_was_compared(written: ExportReport) -> None:
    assert 0 <= written.difference <= 1e-4
    assert {batch for batch, _, _ in written.checked} == {1, 3}
    assert any(height != width for _, height, width in written.checked)
    assert any("tiny.bin" in note for note in written.notes)


def test_the_file_says_what_goes_in_and_out_and_nothing_of_its_maker(written: ExportReport) -> None:
    graph = openvino_core().read_model(written.path)
    facts = json.loads(graph.get_rt_info(["birefnet"]).astype(str))
    model = lively_model("deformable")
    assert facts["output"] == "alpha"
    assert facts["precision"] == "float32"
    assert facts["config"] == model.config.to_dict()
    assert OpenVinoEngine(written.path, threads=1).input_spec == model.input_spec
    assert graph.inputs[0].get_any_name() == "image"
    assert graph.outputs[0].get_any_name() == "alpha"
    content = written.path.read_text()
    assert str(Path(birefnet.__file__).parent) not in content
    assert "site-packages" not in content
    assert str(written.path.parent) not in content


def test_deformable_convolutions_are_openvinos_own(written: ExportReport) -> None:
    kinds = [node.get_type_name() for node in openvino_core().read_model(written.path).get_ops()]
    assert "DeformableConvolution" in kinds
    assert not any("BatchNorm" in kind for kind in kinds)


@pytest.mark.parametrize(("kernel", "spread"), list(itertools.product((1, 3, 7), (0.7, 4.0, 30.0))))
def test_openvino_reads_beyond_the_border_as_we_do(kernel: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(kernel)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    height, width, padding = 9, 12, kernel // 2
    x, weight = draw(2, 5, height, width), draw(4, 5, kernel, kernel)
    offset = spread * draw(2, 2 * kernel**2, height, width)
    # Half of the positions exactly on pixels, and on the border's outer edge.
    offset[:, ::2] = offset[:, ::2].round()
    modulation = draw(2, kernel**2, height, width).sigmoid()
    inputs = (x, offset, weight, modulation)
    openvino, opset8 = openvino_library(), openvino_library("openvino.opset8")
    nodes = [opset8.parameter(list(tensor.shape), np.float32) for tensor in inputs]
    result = opset8.deformable_convolution(
        *nodes[:3], [1, 1], [padding] * 2, [padding] * 2, [1, 1], nodes[3], bilinear_interpolation_pad=True
    )
    graph = openvino.Model([result], nodes, "deformable")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino_core().compile_model(graph, "CPU", settings)
    actual = compiled([tensor.numpy() for tensor in inputs])[0]
    expected = deform_conv2d(x, offset, modulation, weight, padding=padding).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


def test_half_weights_take_half_the_room(written: ExportReport, tmp_path: Path) -> None:
    report = export_openvino(lively_model("deformable"), tmp_path / "half.xml", half=True)
    assert 1e-6 < report.difference < 0.01
    sizes = [path.with_suffix(".bin").stat().st_size for path in (report.path, written.path)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.05)
    assert OpenVinoEngine(report.path, threads=1)(images(SHAPES[0])).shape == (1, 1, 64, 64)


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.xml").write_text("older")
    monkeypatch.setattr(export, "FLOAT_BOUND", -1.0)
    with pytest.raises(OutputError, match="not written, its masks differ"):
        export_openvino(lively_model(), tmp_path / "tiny.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.xml"]
    assert (tmp_path / "tiny.xml").read_text() == "older"


def test_impossible_places_are_refused_in_one_line(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "a.onnx", r"ends in \.xml"), (tmp_path / "no" / "a.xml", "cannot be written")):
        with pytest.raises(OutputError, match=message) as error:
            export_openvino(lively_model(), path)
        assert "\n" not in str(error.value)


def test_files_that_are_none_of_its_own_stay(tmp_path: Path) -> None:
    path, weights = tmp_path / "tiny.xml", tmp_path / "tiny.bin"
    weights.write_text("mine")
    with pytest.raises(OutputError, match=r"would replace .*tiny\.bin"):
        export_openvino(lively_model(), path)
    weights.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="a folder has this name"):
        export_openvino(lively_model(), path)
    assert [place.name for place in tmp_path.iterdir()] == ["tiny.xml"]


def write_both(path: Path) -> None:
    with moved_together(path) as temporary:
        temporary.write_text("new")
        temporary.with_suffix(".bin").write_text("new weights")


@pytest.mark.parametrize("older", [True, False])
def test_both_files_are_replaced_or_none(older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, weights = tmp_path / "tiny.xml", tmp_path / "tiny.bin"
    if older:
        path.write_text("old")
        weights.write_text("old weights")
    before = {place.name: place.read_text() for place in tmp_path.iterdir()}
    replace = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if Path(target) == path:
            raise KeyboardInterrupt  # Ctrl-C between both
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_both(path)
    assert {place.name: place.read_text() for place in tmp_path.iterdir()} == before
    monkeypatch.undo()
    write_both(path)
    assert {place.name: place.read_text() for place in tmp_path.iterdir()} == {
        "tiny.xml": "new",
        "tiny.bin": "new weights",
    }


@pytest.mark.parametrize("backbone", ["swin_v1_t", "pvt_v2_b0", "dino_v3_s"])
def test_backbones_are_followed_at_sizes_that_the_trace_has_not_seen(backbone: str, tmp_path: Path) -> None:
    model = lively_model("aspp", backbone)
    report = export_openvino(model, tmp_path / "model.xml")
    engine = OpenVinoEngine(report.path, threads=1, precision="float32")
    for shape in ((1, 3, 224, 64), (2, 3, 96, 128)):
        np.testing.assert_allclose(engine(images(shape)), alpha_of(model, images(shape)), atol=1e-4)
