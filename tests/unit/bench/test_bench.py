"""Plans, processes, figures and what is shown of them, with real processes that run the bundled model."""

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from birefnet.bench import tables
from birefnet.bench.case import Case, Group, parse_size, plan
from birefnet.bench.machine import machine
from birefnet.bench.measure import Bench, Row
from birefnet.bench.process import Process, WorkerError
from birefnet.bench.product import MatrixProduct
from birefnet.bench.worker import peak_memory
from birefnet.cli import main
from birefnet.cli.bench import save
from birefnet.errors import ConfigError, OutputError

NANO = Case("nano", "onnx", size=(64, 96))


def test_everything_is_combined_with_everything_and_the_first_is_what_others_are_compared_with() -> None:
    groups = plan(["a", "b"], engines=["onnx", "torch"], precisions=["float32", "auto"], sizes=[(32, 32)], threads=3)
    assert [group.reference.model for group in groups] == ["a", "b"]
    cases = [groups[0].reference, *groups[0].others]
    assert [(case.engine, case.precision) for case in cases] == [
        ("onnx", "float32"),
        ("onnx", "auto"),
        ("torch", "float32"),
        ("torch", "auto"),
    ]
    assert {(case.size, case.batch, case.threads) for case in cases} == {((32, 32), 1, 3)}


def test_what_all_are_compared_with_comes_first_and_once() -> None:
    (group,) = plan(["a"], engines=["torch", "openvino"], against="openvino")
    assert (group.reference.engine, [case.engine for case in group.others]) == ("openvino", ["torch"])
    (group,) = plan(["a"], against="torch:bfloat16")
    assert (group.reference.engine, group.reference.precision) == ("torch", "bfloat16")


@pytest.mark.parametrize(
    "choices", [{"engines": ["tensorflow"]}, {"against": "onnx:int3"}, {"batches": [0]}, {"threads": 0}]
)
def test_impossible_plans_are_refused(choices: dict) -> None:
    with pytest.raises(ConfigError):
        plan(["a"], **choices)


def test_sizes_are_a_side_or_two() -> None:
    assert (parse_size("64"), parse_size("768x1344"), parse_size("32×64")) == ((64, 64), (768, 1344), (32, 64))
    for text in ("", "a", "1x2x3", "0", "-32", "64x"):
        with pytest.raises(ConfigError, match="write a side as 1024"):
            parse_size(text)


def test_what_an_engine_cannot_run_itself_is_exported() -> None:
    exported = {
        (model, engine): Case(model, engine).needs_export
        for model in ("nano", "a.safetensors", "a.onnx", "a.xml", "random:swin_v1_t")
        for engine in ("torch", "onnx", "openvino")
    }
    assert {key for key, needed in exported.items() if needed} == {
        ("nano", "openvino"),
        ("a.safetensors", "onnx"),
        ("a.safetensors", "openvino"),
        ("random:swin_v1_t", "onnx"),
        ("random:swin_v1_t", "openvino"),
    }


def test_figures_are_medians_of_pairs() -> None:
    row = Row(Case("a", batch=2), against="b")
    row.seconds, row.ratios, row.products = [4.0, 2.0, 6.0], [2.0, 0.5, 1.0], [8e9, 16e9, 8e9]
    row.first, row.macs = 6.0, 4_000_000_000
    assert (row.median, row.images_per_second, row.ratio, row.first_ratio) == (4.0, 0.5, 1.0, 1.5)
    # 16 GFLOP in each run: 4, 8 and 2.67 GFLOP/s beside 8, 16 and 8.
    assert row.efficiency == pytest.approx(0.5)
    assert Row(Case("a")).efficiency is None


def test_the_bundled_model_is_measured_in_processes_of_its_own() -> None:
    bench = Bench([Group(NANO, (Case("nano", "torch", size=(64, 96)),))], runs=2)
    finished = list(bench.run())
    reference, other = bench.rows
    assert [row.case for row in finished] == [other.case, reference.case]
    assert [row.error for row in finished] == [None, None]
    assert (reference.engine, reference.precision, reference.size) == ("onnx", "float32", (64, 96))
    assert other.engine == "torch"
    assert len(reference.seconds) == len(other.seconds) == len(other.ratios) == 2
    assert other.ratios == [b / a for a, b in zip(reference.seconds, other.seconds, strict=True)]
    assert reference.macs == other.macs > 1e7
    assert 0 < reference.efficiency < 20
    # The engine without PyTorch is the smaller process, and neither holds what this one does.
    assert 20e6 < reference.peak < other.peak < 2e9
    assert other.against == "nano onnx:auto"


def test_what_fails_is_told_in_its_row_and_the_others_go_on() -> None:
    bench = Bench([Group(Case("no-such-model"), (NANO, Case("nano", "onnx", "bfloat16")))], runs=1)
    list(bench.run())
    assert bench._beside._process.returncode is not None
    missing, works, impossible = bench.rows
    assert "unknown model 'no-such-model'" in missing.error
    assert works.error is None
    assert len(works.seconds) == 1
    assert works.ratio is None
    assert impossible.error is not None
    assert "\n" not in impossible.error
    assert not impossible.seconds
    assert [cell for cell in tables.cells(missing)[5:] if cell] == ["failed"]


def test_a_process_that_is_killed_is_told_as_such() -> None:
    with Process() as process:
        process.ask("load", case=NANO.to_dict())
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"killed, as the system does where memory runs out"):
            process.ask("run")
    with Process() as process:
        with pytest.raises(WorkerError, match=r"^KeyError: 'juggle'$"):
            process.ask("juggle")
        os.kill(process._process.pid, signal.SIGTERM)
        with pytest.raises(WorkerError, match=r"^the process has died \(signal 15: it said nothing\)$"):
            process.ask("multiply", precision="float32")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = bytearray(os.urandom(1)) * 200_000_000
    assert peak_memory() >= before
    assert peak_memory() > len(held)


def test_a_product_counts_its_operations() -> None:
    product = MatrixProduct("float32")
    assert product() > 0
    assert round((product.flops / 2) ** (1 / 3)) in (512, 1024, 2048, 4096)


def test_tables_json_and_chart_hold_what_was_measured(tmp_path: Path) -> None:
    rows = [Row(Case("a$b|c", "onnx", size=(64, 64))), Row(Case("a$b|c", "torch", size=(64, 64)), against="a onnx")]
    for row, seconds in zip(rows, (1.0, 2.0), strict=True):
        row.engine, row.precision, row.size, row.seconds = row.case.engine, "float32", (64, 64), [seconds]
        row.peak, row.macs, row.products, row.first = 2_000_000_000, 10**9, [4e9], 3.0
    rows[1].ratios, rows[1].error, rows[1].notes = [2.0], "it broke", ["a remark"]
    text = tables.markdown(tables.HEADER, [tables.cells(row) for row in rows])
    assert text.splitlines()[2] == (
        "| a$b/c | onnx | float32 | 64x64 | 1 | 1.000 | 1 | 1.00 | 3.00 x | 2.00 GB | 1.0 | 4 GFLOP/s | 50% |"
    )
    assert tables.remarks(rows) == ["a$b|c torch:auto: a remark", "a$b|c torch:auto: it broke"]
    content = json.loads(tables.to_json(rows, 1, machine()))
    assert (content["format"], content["version"], content["runs"]) == ("birefnet-bench", 1, 1)
    assert content["machine"]["cores"] >= 1
    assert content["rows"][0]["efficiency"] == 0.5
    assert content["rows"][1]["case"]["size"] == [64, 64]
    tables.draw(rows, tmp_path / "chart.png", machine())
    tables.draw([], tmp_path / "empty.png", machine())
    with Image.open(tmp_path / "chart.png") as chart, Image.open(tmp_path / "empty.png") as empty:
        assert min(chart.size) > 200
        assert len(chart.convert("RGB").getcolors(2**20)) > len(empty.convert("RGB").getcolors(2**20))
    with pytest.raises(OutputError, match=r"ends in \.png"):
        tables.draw(rows, tmp_path / "chart.pdf", machine())


def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    words = ["bench", "nano", "--engine", "onnx", "--size", "64x96", "--batch", "2", "--runs", "2", *files]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "| nano | onnx | float32 | 64x96 | 2 |" in result.stdout
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["images_per_second"] == pytest.approx(2 / row["median"])
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "big"], "write a side as 1024"),
        (["--against", "tensorflow"], "unknown engine 'tensorflow'"),
        (["--plot", "a.pdf"], r"ends in .png"),
    ],
)
def test_what_is_impossible_is_refused_before_anything_runs(words: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_cannot_or_must_not_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    model, folder = tmp_path / "a.onnx", tmp_path / "model"
    folder.mkdir()
    for file in (model, tmp_path / "b.xml", tmp_path / "b.bin", folder / "config.json"):
        file.write_bytes(b"weights")
    (tmp_path / "link.json").symlink_to(model)
    inputs = [str(model), str(tmp_path / "b.xml"), str(folder)]
    for name in ("a.onnx", "b.xml", "b.bin", "model/config.json", "link.json", "model/../a.onnx"):
        result = CliRunner().invoke(main, ["bench", *inputs, "--json", str(tmp_path / name)])
        assert (result.exit_code, result.stdout) == (1, ""), name
        assert "is part of a model that is measured: choose another name" in result.stderr
    assert model.read_bytes() == b"weights"
    for option, name in itertools.product(("--json", "--plot"), ("missing/a.png", "a.onnx/a.png", "a" * 300 + ".png")):
        result = CliRunner().invoke(main, ["bench", *inputs, option, str(tmp_path / name)])
        assert result.exit_code == 1
        assert "cannot be written (" in result.stderr
        assert result.stderr.count("\n") == 1
    result = CliRunner().invoke(main, ["bench", *inputs, "--json", str(folder)])
    assert "model: cannot be written (Is a directory)" in result.stderr
    same = [str(tmp_path / "a.png"), "--plot", str(folder / ".." / "a.png")]
    result = CliRunner().invoke(main, ["bench", *inputs, "--json", *same])
    assert "--json and --plot are the same file" in result.stderr
    assert not list(tmp_path.glob("*.png"))


def test_a_chart_without_matplotlib_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(main, ["bench", "no-such-model", "--plot", str(tmp_path / "a.png")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "matplotlib is not installed: run  pip install 'birefnet[train]'" in result.stderr


def test_a_file_that_cannot_be_written_any_more_keeps_no_other_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row(NANO, seconds=[1.0])
    assert not save([row], 1, tmp_path / "gone" / "a.json", tmp_path / "a.png")
    assert "a.json: cannot be written" in capsys.readouterr().err
    assert (tmp_path / "a.png").exists()


def test_one_that_dies_in_a_turn_leaves_the_other_to_go_on() -> None:
    bench = Bench([], runs=3)
    for killed in (0, 1):
        rows = [Row(NANO), Row(NANO, against="the first")]
        with Process() as first, Process() as second:
            for process in (first, second):
                process.ask("load", case=NANO.to_dict())
            os.kill((first, second)[killed]._process.pid, signal.SIGKILL)
            bench._take_turns([(first, rows[0]), (second, rows[1])])
        assert "killed" in str(rows[killed].error)
        assert rows[1 - killed].error is None
        assert [len(row.seconds) for row in rows] == [3 * (killed == 1), 3 * (killed == 0)]
        assert not rows[1].ratios


def test_a_process_takes_no_module_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "birefnet").mkdir()
    (tmp_path / "birefnet" / "__init__.py").write_text("raise SystemExit(8)\n")
    monkeypatch.chdir(tmp_path)
    with Process() as process, pytest.raises(WorkerError, match=r"^KeyError: 'juggle'$"):
        process.ask("juggle")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec sleep 60 >&-", "answers no more, though it has not ended"),
        ("printf '{\"seco'", r"the process has died \(exit status 0: it said nothing\)"),
    ],
)
def test_a_process_that_stops_answering_is_told_as_such(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("birefnet.bench.process._PATIENCE", 0.3)
    with Process() as process, pytest.raises(WorkerError, match=message):
        process.ask("juggle")


def test_stopping_shows_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Bench] = []

    class Stopped(Bench):
        """Sends this process what Ctrl-C does, once something is measured."""

        def __init__(self, groups: Sequence[Group], runs: int) -> None:
            super().__init__(groups, runs)
            begun.append(self)
            threading.Thread(target=self.stop, daemon=True).start()

        def stop(self) -> None:
            while not (self.rows and self.rows[0].seconds):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("birefnet.cli.bench.Bench", Stopped)
    words = ["nano", "--engine", "onnx", "--size", "64", "--runs", "1000000", "--json", str(tmp_path / "a.json")]
    # Should the command have ended when the signal comes, it must not end the tests.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        result = CliRunner().invoke(main, ["bench", *words])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 130, result.output
    assert "stopped: what was measured until now follows" in result.stderr
    assert "| nano | onnx | float32 | 64x64 | 1 |" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["seconds"]
    assert begun[0]._beside._process.returncode is not None
    assert not begun[0]._folder.exists()
