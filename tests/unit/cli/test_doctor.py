"""What `birefnet doctor` says on a machine where not all is well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from birefnet.cli.doctor import examine


def test_libraries_that_cannot_be_imported_are_told_in_a_line_each(tmp_path: Path) -> None:
    # As on a machine that lacks a library of CUDA's.
    broken = ("torch", "openvino", "onnxruntime")
    for library in broken:
        (tmp_path / f"{library}.py").write_text(
            "raise OSError('libcudart.so.12: cannot open shared object file:\\nno such file')\n"
        )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from birefnet.cli import main; main(['doctor'])"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.strip() for line in result.stdout.splitlines()]
    for engine, library in zip(("torch", "openvino", "onnx"), broken, strict=True):
        said = f"engine {engine} on cpu: does not work: {library} is installed but cannot be imported (libcudart.so.12"
        assert any(line.startswith(said) for line in lines), result.stdout
    assert "ONNX Runtime's providers: none" in lines
    assert "OpenVINO's devices: none" in lines


def test_a_folder_called_as_the_model_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dict(examine())["engine onnx on cpu"] == "works, in float32"
