"""The options that say what runs a network, as the commands take them."""

from pathlib import Path

import pytest
from click import BadParameter
from click.testing import CliRunner, Result

from birefnet.cli.cutout import cutout
from birefnet.cli.doctor import examine
from birefnet.cli.engine_options import memory_amount
from birefnet.cli.evaluate import evaluate


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1000", 1000), ("800M", 800 * 10**6), ("1.5G", 1500 * 10**6), ("2 gb", 2 * 10**9), ("3k", 3000), ("1T", 10**12)],
)
def test_amounts_of_memory_are_read(text: str, amount: int) -> None:
    assert memory_amount(text) == amount


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1.5X", "1e9", "two", "0.1"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="is no amount of memory"):
        memory_amount(text)


def cut(photo: Path, target: Path, *options: str) -> Result:
    return CliRunner().invoke(cutout, [str(photo), "-o", str(target), "--kind", "mask", *options])


def test_the_command_takes_engine_precision_and_threads(chelsea: Path, tmp_path: Path) -> None:
    result = cut(chelsea, tmp_path / "mask.png", "--engine", "openvino", "--precision", "float32", "--threads", "1")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "mask.png").is_file()


def test_a_provider_that_fell_back_is_told(chelsea: Path, tmp_path: Path) -> None:
    result = cut(chelsea, tmp_path / "mask.png", "--provider", "rocm", "--allow-fallback")
    assert result.exit_code == 0
    assert "rocm is not in use: cpu is" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--provider", "rocm"), "provider 'rocm' is not part of the installed ONNX Runtime"),
        (("--provider", "rocn"), "did you mean 'rocm'"),
        (("--engine", "onnx", "--max-memory", "1G"), "the onnx engine keeps to no limit of memory"),
        (("--engine", "torch", "--provider", "cpu"), "are the onnx engine's"),
        (("--engine", "onnx", "--compile"), "leave --compile out"),
        (("--compile",), "compiled for cuda alone"),
        (("--max-memory", "lots"), "is no amount of memory"),
        (("--threads", "0"), "--threads"),
        (("--precision", "float8"), "--precision"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[str, ...], message: str, chelsea: Path, tmp_path: Path) -> None:
    result = cut(chelsea, tmp_path / "mask.png", *options)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "mask.png").exists()


def test_every_command_that_runs_a_network_has_the_options() -> None:
    wanted = {"engine", "precision", "threads", "max_memory", "providers", "allow_fallback", "compiled"}
    for command in (cutout, evaluate, evaluate.commands["checkpoints"]):  # type: ignore[attr-defined]
        assert wanted <= {parameter.name for parameter in command.params}


def test_doctor_tries_every_engine_and_says_what_is_chosen() -> None:
    told = dict(examine())
    assert told["engine onnx on cpu"] == "works, in float32"
    assert told["engine torch on cpu"].startswith("works, in ")
    assert told["engine openvino on cpu"].startswith("works, in ")
    assert "cpu" in told["ONNX Runtime's providers"]
    assert "CPU" in told["OpenVINO's devices"]
    assert told["engine for bundled models"] == "onnx"
    assert told["engine for .onnx and .xml files"] == "onnx and openvino"
