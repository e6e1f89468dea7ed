"""Which part of ONNX Runtime runs a network, and what is said where it is not the one asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from birefnet.engines.onnx_engine import PROVIDERS, OnnxEngine, provider_name
from birefnet.errors import ConfigError, InputError, WeightsError
from birefnet.models import bundled_file
from engine_files import deformable_file

NANO = bundled_file("nano", ".onnx")
HERE = set(onnxruntime.get_available_providers())
ABSENT = next(name for name, full in PROVIDERS.items() if full not in HERE)


def test_users_names_and_the_runtimes_own_are_known() -> None:
    assert provider_name("cpu") == provider_name("CPUExecutionProvider") == "CPUExecutionProvider"
    assert provider_name("CUDA") == provider_name("cudaexecutionprovider") == "CUDAExecutionProvider"
    assert provider_name("directml") == provider_name("dml") == "DmlExecutionProvider"
    assert provider_name("xnnpack") == "XnnpackExecutionProvider"
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        provider_name("cudda")


def test_the_runtime_knows_every_provider_of_the_table() -> None:
    # ROCm's has been removed from newer releases, which name MIGraphX instead.
    assert set(PROVIDERS.values()) - {"ROCMExecutionProvider"} <= set(onnxruntime.get_all_providers())


def test_a_provider_that_is_not_there_is_an_error_with_a_remedy() -> None:
    with pytest.raises(InputError) as error:
        OnnxEngine(NANO, providers=[ABSENT, "cpu"])
    assert f"provider {ABSENT!r} is not part of the installed ONNX Runtime" in str(error.value)
    assert "--allow-fallback" in str(error.value)
    assert "\n" not in str(error.value)


def test_falling_back_is_allowed_on_request_and_told(capfd: pytest.CaptureFixture[str]) -> None:
    engine = OnnxEngine(NANO, providers=[ABSENT, "cpu"], allow_fallback=True)
    assert engine.providers == ("CPUExecutionProvider",)
    assert engine.notes == (f"{ABSENT} is not in use: cpu is",)
    assert engine(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 1, 32, 32)
    assert capfd.readouterr() == ("", "")


def test_providers_are_taken_in_their_order() -> None:
    other = next((name for name in sorted(HERE) if name != "CPUExecutionProvider"), None)
    if other is None:
        pytest.skip("this ONNX Runtime has the CPU alone")
    engine = OnnxEngine(NANO, providers=[other, "cpu"])
    assert engine.providers == (other, "CPUExecutionProvider")
    assert engine.notes == ()


def test_a_runtime_without_the_deformable_convolution_is_told_the_remedy(tmp_path: Path) -> None:
    # In bfloat16 no release has it; older ones have it in no type.
    path = deformable_file(tmp_path / "deformable.onnx", TensorProto.BFLOAT16)
    with pytest.raises(WeightsError) as error:
        OnnxEngine(path)
    assert "--decompose-deform" in str(error.value)
    assert "onnxruntime>=1.25" in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_where_a_provider_fails_the_next_ones_are_taken_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # No provider that is there fails to start here, so one more is made out to be there, and to fail.
    other = next((name for name in sorted(HERE) if name != "CPUExecutionProvider"), None)
    if other is None:
        pytest.skip("this ONNX Runtime has the CPU alone")
    absent = PROVIDERS[ABSENT]
    session = onnxruntime.InferenceSession

    def start(path: str, *, providers: list[str], **options: Any) -> onnxruntime.InferenceSession:
        if absent in providers:
            raise RuntimeError("no driver\nfor it")
        return session(path, providers=providers, **options)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*HERE, absent])
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    for wanted in ([ABSENT, other, "cpu"], [other, ABSENT, "cpu"], [other, ABSENT]):
        engine = OnnxEngine(NANO, providers=wanted, allow_fallback=True)
        assert engine.providers == (other, "CPUExecutionProvider")
        assert engine.notes[0].startswith(f"{ABSENT} is not in use: ")
        with pytest.raises(InputError, match=rf"{ABSENT} does not start \(no driver\): pass --allow-fallback"):
            OnnxEngine(NANO, providers=wanted)


def test_a_damaged_file_is_not_the_providers_fault(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    for allowed in (True, False):
        with pytest.raises(WeightsError, match="not a model that ONNX Runtime can load"):
            OnnxEngine(
                tmp_path / "text.onnx",
                providers=[*sorted(HERE - {"CPUExecutionProvider"}), "cpu"],
                allow_fallback=allowed,
            )
