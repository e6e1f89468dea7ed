"""Programs of torch.export, loaded anew."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from birefnet.config import InputSpec
from birefnet.errors import OutputError
from birefnet.export import program
from birefnet.export.program import FACTS_FILE, export_program
from birefnet.export.verify import ExportReport, Source
from birefnet.model import BiRefNet
from small_models import small_model


@pytest.fixture(scope="module")
def model() -> BiRefNet:
    network = copy.deepcopy(small_model())
    network.input_spec = InputSpec(size=(128, 128))
    return network


@pytest.fixture(scope="module")
def written(model: BiRefNet, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_program(model, tmp_path_factory.mktemp("program") / "tiny.pt2")


def test_a_process_without_this_package_runs_it(model: BiRefNet, written: ExportReport, tmp_path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((3, 3, 128, 160), np.float32)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, numpy, torch\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "alpha = program(torch.from_numpy(numpy.load('images.npy')))\n"
        "numpy.save('alpha.npy', alpha.detach().numpy())\n"
        "assert 'birefnet' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, written.path], cwd=tmp_path, check=True)
    expected = Source(model)(images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.load(tmp_path / "alpha.npy"), expected, atol=1e-4)


def test_the_file_says_what_goes_in_and_out(model: BiRefNet, written: ExportReport) -> None:
    assert 0 <= written.difference <= 1e-4
    files = {FACTS_FILE: ""}
    torch.export.load(written.path, extra_files=files)
    facts = json.loads(files[FACTS_FILE])
    assert facts["output"] == "alpha"
    assert (facts["grid"], facts["least"]) == (32, [128, 128])
    assert facts["config"] == model.config.to_dict()
    assert facts["input_spec"] == model.input_spec.to_dict()


def test_what_cannot_be_is_refused_in_one_line(
    model: BiRefNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"ends in \.pt2"):
        export_program(model, tmp_path / "tiny.pt")
    with pytest.raises(OutputError, match="its own size 64 x 64: choose multiples of 32 from 128 to 8192"):
        export_program(small_model(), tmp_path / "tiny.pt2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match="needs a C\\+\\+ compiler") as error:
        export_program(model, tmp_path / "tiny.pt2", aot=True)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_differs_is_not_written(
    model: BiRefNet, written: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "FLOAT_BOUND", -1.0)
    monkeypatch.setattr(program, "trace", lambda _: torch.export.load(written.path))  # it takes a while
    with pytest.raises(OutputError, match="not written, its masks differ"):
        export_program(model, tmp_path / "tiny.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_a_compiled_package_runs_too(model: BiRefNet, tmp_path: Path) -> None:
    report = export_program(model, tmp_path / "tiny.pt2", aot=True)
    assert 0 <= report.difference <= 1e-4
    package = torch._inductor.aoti_load_package(str(report.path))
    assert json.loads(package.get_metadata()["birefnet"])["output"] == "alpha"
