"""The ONNX engine on a file that the exporter made; the exporter itself is tested in tests/unit/export."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import birefnet
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.errors import InputError, WeightsError
from birefnet.export.onnx import export_onnx
from small_models import small_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return export_onnx(small_model(), path).path


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 256, 64)])
def test_one_file_runs_at_every_size_and_batch(exported: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    actual, expected = OnnxEngine(exported)(images), TorchEngine(small_model(), precision="float32")(images)
    assert actual.shape == (shape[0], 1, *shape[2:])
    assert np.abs(actual - expected).max() < 1e-4


def test_the_file_says_what_goes_in_and_out_and_nothing_of_its_maker(exported: Path) -> None:
    assert OnnxEngine(exported).input_spec == small_model().input_spec
    predictor = birefnet.load(exported)
    assert predictor.spec == small_model().input_spec
    content = exported.read_bytes()
    assert str(Path(birefnet.__file__).parent).encode() not in content
    assert b"site-packages" not in content


def test_other_files_are_refused_in_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:5000])
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    foreign.metadata_props.add(key="birefnet", value='{"output": "logits", "input_spec": {}}')
    onnx.save(foreign, tmp_path / "logits.onnx")
    for name in ("text.onnx", "cut.onnx", "foreign.onnx", "logits.onnx", "missing.onnx", "."):
        with pytest.raises(WeightsError) as error:
            OnnxEngine(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)


def test_impossible_sizes_are_refused_in_one_line(exported: Path) -> None:
    with pytest.raises(InputError) as error:
        OnnxEngine(exported)(np.zeros((1, 3, 50, 50), np.float32))
    assert "\n" not in str(error.value)
