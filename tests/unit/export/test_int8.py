"""int8 files: what they keep, what they cost, and when they are not written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import birefnet
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.openvino_library import openvino_core, openvino_library
from birefnet.errors import DataError, OutputError
from birefnet.export import int8
from birefnet.export.int8 import Int8Report, quantise_onnx, quantise_openvino
from birefnet.export.sensitivity import fingerprint, sensitivities
from birefnet.imaging.io import read_photo
from birefnet.imaging.preprocess import prepare
from engine_files import lively_model

pytestmark = pytest.mark.long

WRITERS: dict[str, Callable[..., Int8Report]] = {".onnx": quantise_onnx, ".xml": quantise_openvino}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: Path, chelsea: Path) -> Path:
    """Cuts of real photos; what the network itself finds in them is their truth, so that it loses by rounding alone."""
    folder = tmp_path_factory.mktemp("data")
    predictor = birefnet.load(lively_model(), precision="float32")
    for part in ("im", "gt"):
        (folder / part).mkdir()
    for index in range(12):
        with Image.open((astronaut, chelsea)[index % 2]) as image:
            cut = image.convert("RGB").crop((20 * index, 10 * index, 20 * index + 120, 10 * index + 100))
        cut.save(folder / "im" / f"{index:02}.png")
        levels = np.asarray(predictor.predict(cut).mask())
        Image.fromarray(np.where(levels > 127, 255, 0).astype(np.uint8)).save(folder / "gt" / f"{index:02}.png")
    return folder


# Exporting to ONNX takes most of a minute of its own.
@pytest.fixture(scope="module", params=[pytest.param(".onnx"), ".xml"])
def written(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Int8Report:
    path = tmp_path_factory.mktemp("int8") / f"tiny{request.param}"
    # Random weights have no margins for rounding as trained ones have.
    return WRITERS[request.param](lively_model(), path, calibration=data, limit=0.2)


def test_the_file_is_smaller_and_runs_at_every_size(written: Int8Report) -> None:
    assert written.size < written.size_before / 2
    engine = birefnet.load(written.path).engine
    assert engine.precision == "int8"
    for shape in ((1, 3, 64, 64), (2, 3, 96, 32)):
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        with torch.inference_mode():
            expected = lively_model()(torch.from_numpy(images)).sigmoid().numpy()
        difference = np.abs(engine(images) - expected)
        assert 1e-5 < difference.mean() < 0.1


def test_what_it_costs_is_measured_on_photos_that_were_not_calibrated_with(written: Int8Report) -> None:
    assert written.scored == 6
    assert written.before["maxF"] > 0.95
    assert written.loss == pytest.approx(written.before["maxF"] - written.after["maxF"])
    assert written.loss <= 0.2
    assert written.after["MAE"] >= 0
    assert 0 < written.mean < written.difference
    assert written.speed > 0
    text = "\n".join(written.lines())
    assert f"{written.after['maxF']:.4f} on 6 photos" in text
    assert f"{written.quantised} of {written.layers} layers" in text
    assert written.quantised > 0


def test_most_layers_are_in_whole_numbers_and_the_most_sensitive_are_not(written: Int8Report) -> None:
    assert 0 < len(written.kept) <= written.layers / 2
    layers = dict(lively_model().named_modules())
    assert all(name.removeprefix("model.") in layers for name in written.kept)
    if written.path.suffix == ".onnx":
        graph = onnx.load(written.path)
        types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
        whole = [t for t in types.values() if t == onnx.TensorProto.INT8]
        scales = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("_scale") and tensor.dims]
        assert any(len(tensor.dims) == 1 and tensor.dims[0] > 1 for tensor in scales)  # one for each channel
    else:
        graph = openvino_core().read_model(written.path)
        kinds = [node.get_element_type() for node in graph.get_ops() if node.get_type_name() == "Constant"]
        whole = [kind for kind in kinds if kind == openvino_library().Type.i8]
    # A backbone's layer is there twice, once for each scale, or once with two readers.
    assert len(whole) >= (written.layers - len(written.kept)) / 2


def test_the_metadata_say_int8(written: Int8Report) -> None:
    if written.path.suffix == ".onnx":
        text = {entry.key: entry.value for entry in onnx.load(written.path).metadata_props}["birefnet"]
    else:
        text = openvino_core().read_model(written.path).get_rt_info(["birefnet"]).astype(str)
    facts = json.loads(text)
    assert facts["precision"] == "int8"
    assert facts["config"] == lively_model().config.to_dict()
    assert OpenVinoEngine(written.path, threads=1).input_spec == lively_model().input_spec


def test_too_great_a_loss_is_an_error_that_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "KEPT_SHARES", (0.05,))
    with pytest.raises(OutputError, match=r"not written, int8 loses -?0\.\d+ of maxF") as error:
        quantise_openvino(lively_model(), tmp_path / "tiny.xml", calibration=data, limit=-1.0)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_without_masks_alpha_itself_is_compared(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "ALPHA_LIMIT", 0.1)
    report = quantise_openvino(lively_model(), tmp_path / "tiny.xml", calibration=data / "im")
    assert report.before == report.after == {}
    assert report.scored == 0
    assert 0 < report.mean <= 0.1
    assert not any("maxF" in line for line in report.lines())


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_without_photos_is_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, message in (
        (tmp_path / "empty", "no photos to calibrate with"),
        (tmp_path / "missing", "no such folder"),
    ):
        with pytest.raises(DataError, match=message) as error:
            WRITERS[suffix](lively_model(), tmp_path / f"a{suffix}", calibration=place)
        assert "\n" not in str(error.value)
        assert str(place) in str(error.value)
    assert not (tmp_path / f"a{suffix}").exists()


def test_masks_are_never_calibrated_with(data: Path, tmp_path: Path) -> None:
    for part in ("im", "gt"):
        (tmp_path / part).mkdir()
        shutil.copy(data / part / "00.png", tmp_path / part)
    assert int8._calibration_set(tmp_path) == ([tmp_path / "im" / "00.png"], [])
    (tmp_path / "im" / "00.png").unlink()
    with pytest.raises(DataError, match="holds no photos"):
        int8._calibration_set(tmp_path)


def test_a_mask_of_another_size_is_named_before_any_work(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    mask = tmp_path / "data" / "gt" / "01.png"
    Image.new("L", (30, 20)).save(mask)
    with pytest.raises(DataError, match="of another size than its photo") as error:
        quantise_openvino(lively_model(), tmp_path / "a.xml", calibration=tmp_path / "data")
    assert str(error.value).startswith(str(mask))


def test_the_layer_that_hurts_most_comes_first(astronaut: Path) -> None:
    model = lively_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = [prepare(read_photo(astronaut).rgb, model.input_spec)[None]]
    found = sensitivities(model, images)
    assert [layer.loss for layer in found] == sorted((layer.loss for layer in found), reverse=True)
    assert found[0].loss > 10 * found[-1].loss
    # The network itself is as it was.
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_fingerprint_stays_whatever_the_layout() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    assert fingerprint(weight.transpose(1, 2, 3, 0)) == fingerprint(weight) == fingerprint(weight.reshape(6, -1).T)
    assert fingerprint(weight + np.float32(0.01)) != fingerprint(weight)
