"""What is OpenVINO's own: its files, its precisions, its devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.openvino_library import openvino_core
from birefnet.errors import ConfigError, InputError, WeightsError
from birefnet.models import bundled_file
from engine_files import deformable_file

NANO = bundled_file("nano", ".onnx")


def test_the_precision_is_what_was_asked_for() -> None:
    assert OpenVinoEngine(NANO, precision="float32").precision == "float32"
    automatic = OpenVinoEngine(NANO)
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        assert automatic.precision == "bfloat16"
    with pytest.raises(ConfigError, match="unknown precision 'half'"):
        OpenVinoEngine(NANO, precision="half")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_precision_that_the_device_does_not_compute_in_is_refused(precision: str) -> None:
    # What OpenVINO takes where it is asked for this, without a word.
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[precision]
    core = openvino_core()
    taken = core.compile_model(core.read_model(NANO), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    if taken.get_property("INFERENCE_PRECISION_HINT").to_string() == hint:
        assert OpenVinoEngine(NANO, precision=precision).precision == precision
        return
    with pytest.raises(InputError, match=f"precision '{precision}': OpenVINO would compute in") as error:
        OpenVinoEngine(NANO, precision=precision)
    assert "\n" not in str(error.value)


def test_bfloat16_differs_a_little() -> None:
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    try:
        rounded = OpenVinoEngine(NANO, precision="bfloat16")
    except InputError:
        pytest.skip("this CPU has no bfloat16")
    difference = np.abs(rounded(images) - OpenVinoEngine(NANO, precision="float32")(images))
    assert 0 < difference.mean() < 0.02


def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(InputError) as error:
        OpenVinoEngine(NANO, device="NPU.7")
    assert "CPU" in str(error.value)
    assert "\n" not in str(error.value)


def test_onnx_files_with_deformable_convolutions_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = deformable_file(tmp_path / "deformable.onnx")
    with pytest.raises(WeightsError, match="export the network with --to openvino") as error:
        OpenVinoEngine(path)
    assert "\n" not in str(error.value)


def test_files_of_other_kinds_and_lonely_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(WeightsError, match=r"model\.bin: no such file"):
        OpenVinoEngine(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.xml: not a model that OpenVINO can load"):
        OpenVinoEngine(tmp_path / "model.xml")
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"runs \.xml and \.onnx files"):
        OpenVinoEngine(tmp_path / "model.pth")


def test_nothing_is_told_to_openvinos_makers_and_torch_stays_away() -> None:
    code = (
        "import sys; from birefnet.engines.openvino_engine import OpenVinoEngine\n"
        "assert 'openvino' not in sys.modules\n"
        f"OpenVinoEngine({str(NANO)!r}, threads=1)\n"
        "print(sys.modules.get('openvino_telemetry'), 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert (result.stdout, result.stderr) == ("None False\n", "")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signals")
def test_signals_are_handled_after_engines_are_gone() -> None:
    # OpenVINO gives the thread a stack for signals, and two cores that overlap left it with one that was gone.
    code = (
        "import gc, signal\n"
        "from birefnet.engines.openvino_engine import OpenVinoEngine\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        f"first = OpenVinoEngine({str(NANO)!r}); second = OpenVinoEngine({str(NANO)!r})\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "signal.raise_signal(signal.SIGUSR1)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "handled\n")
