"""`birefnet export` as a user runs it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import birefnet
from birefnet.cli import main
from birefnet.cli.export import CLASHES, FORMATS
from birefnet.engines.onnx_engine import OnnxEngine
from small_models import SMALL, small_model

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    small_model().save(path)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)], catch_exceptions=False)


def test_an_onnx_file_is_compared_on_photos_and_cuts_out(weights: Path, tmp_path: Path, astronaut: Path) -> None:
    output = tmp_path / "mine.onnx"
    result = run(weights, "--to", "onnx", "-o", output, "--size", "96x64", "--photos", astronaut)
    assert result.exit_code == 0, result.output
    assert str(output) in result.stdout
    assert "alpha differs by at most" in result.stdout
    assert "1 x 96 x 64" in result.stdout
    assert f"compared on 1 photos of {astronaut}" in result.stdout
    assert OnnxEngine(output).input_spec.size == (96, 64)
    cut = CliRunner().invoke(main, ["cutout", str(astronaut), "--weights", str(output), "-o", str(tmp_path / "a.png")])
    assert cut.exit_code == 0, cut.output


def test_weights_are_written_in_half_precision(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.safetensors"
    result = run(weights, "--to", "safetensors", "-o", output, "--precision", "float16")
    assert result.exit_code == 0, result.output
    assert output.stat().st_size < 0.6 * weights.stat().st_size
    assert birefnet.load_model(output).config == SMALL


def test_the_source_is_not_overwritten(weights: Path) -> None:
    before = weights.read_bytes()
    result = run(weights, "--to", "safetensors", "-o", weights)
    assert result.exit_code == 1
    assert "is what is exported: choose another name" in result.stderr
    assert weights.read_bytes() == before


def test_openvinos_weights_do_not_replace_the_source(weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "net.bin"
    source.write_bytes(weights.read_bytes())
    for other in ((), ("net.xml",)):  # also where a file of the name is there
        for name in other:
            (tmp_path / name).write_text("older")
        result = run(source, "--to", "openvino", "-o", tmp_path / "net.xml")
        assert result.exit_code == 1
        assert "net.bin" in result.stderr
        assert source.read_bytes() == weights.read_bytes()


def test_bad_places_and_photos_are_found_before_any_work(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "bad.png").write_text("no photo")
    (tmp_path / "empty").mkdir()
    for output, photos, message in (
        ("folder.onnx", "bad.png", "a folder has this name"),
        ("a.onnx", "bad.png", "bad.png"),
        ("a.onnx", "empty", "no photos to compare on"),
        ("a.ONNX", "empty", "writes .onnx files"),
    ):
        result = run(weights, "--to", "onnx", "-o", tmp_path / output, "--photos", tmp_path / photos)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "openvino", "-o", "a.xml", "--opset", "19"], "--opset is no option of --to openvino, but of onnx"),
        (["--to", "onnx", "-o", "a.onnx", "--aot"], "--aot is no option of --to onnx, but of torch-export"),
        (["--to", "onnx", "-o", "a.onnx", "--precision", "bfloat16"], "choose from float32, float16"),
        (["--to", "onnx", "-o", "a.pt2"], "--to onnx writes .onnx files"),
        (["--to", "onnx", "-o", "a.onnx", "--int8"], "--int8 goes with --calibration"),
        (["--to", "onnx", "-o", "a.onnx", "--calibration", "."], "--int8 goes with --calibration"),
        (
            ["--to", "onnx", "-o", "a.onnx", "--int8", "--calibration", ".", "--half"],
            "--int8 does not go with --half: leave one of them out",
        ),
        (["--to", "onnx", "-o", "a.onnx", "--size", "100"], "--size 100: must be a multiple of 32"),
        (["--to", "onnx", "-o", "a.onnx", "--photos", "no-such"], "no-such: no such folder"),
        (["--to", "onnx", "-o", "missing/a.onnx"], "missing/a.onnx: cannot be written, there is no folder missing"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(weights, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_already_is_refused(tmp_path: Path) -> None:
    (tmp_path / "done.onnx").write_bytes(b"")
    result = run(tmp_path / "done.onnx", "--to", "onnx", "-o", tmp_path / "again.onnx")
    assert result.exit_code == 1
    assert "is exported already: name the weights that it was made of" in result.stderr


def test_the_tables_name_options_that_exist() -> None:
    from birefnet.cli.export import export

    names = {parameter.name for parameter in export.params}
    assert {name for _, options in FORMATS.values() for name in options} <= names
    assert {name for pair in CLASHES for name in pair} <= names
