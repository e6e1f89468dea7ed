"""The log of a run: lines that survive kills, resumes and full disks, the same figures in TensorBoard."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from birefnet.errors import DataError, MissingExtraError, OutputError
from birefnet.training.interval import Clock, Interval
from birefnet.training.log import (
    Line,
    Log,
    cut_log,
    duration,
    flattened,
    is_lower_better,
    read_log,
    training_lines,
    validation_lines,
)


def step_line(step: int, loss: float = 1.0) -> Line:
    return {
        "step": step,
        "steps": 100,
        "samples": step * 8,
        "epoch": step / 10,
        "rate": 1e-3,
        "seconds": 1.5,
        "size": [160, 224],
        "loss": loss,
        "bce": loss / 2,
        "norm": 3.0,
        "worst_norm": 4.0,
        "skipped": 0,
        "images_per_second": 20.0,
        "share_of_time": {"data": 0.1, "forward": 0.9},
    }


def steps_of(lines: list[Line]) -> list[int]:
    return [line["step"] for line in training_lines(lines)]


def test_a_clock_adds_up_laps_of_one_name() -> None:
    clock = Clock()
    time.sleep(0.02)
    clock.lap("data")
    clock.lap("forward")
    time.sleep(0.02)
    clock.lap("data")
    assert list(clock.laps) == ["data", "forward"]
    assert clock.laps["data"] >= 0.04
    assert clock.laps["forward"] < 0.02


def test_an_interval_sums_up_used_and_skipped_steps() -> None:
    interval = Interval()
    for loss, norm in ((1.0, 2.0), (3.0, 10.0)):
        terms = {"bce": torch.tensor(loss / 2, requires_grad=True), "loss": torch.tensor(loss, requires_grad=True)}
        interval.add(terms, torch.tensor(norm))
        interval.note(8, (160, 224), {"data": 0.1, "forward": 0.3})
    interval.skip()
    interval.note(8, (160, 224), {"data": 0.1, "forward": 0.3})
    interval.aside("validation", 0.8)
    assert interval.summary() == {
        "size": [160, 224],
        "bce": 1.0,
        "loss": 2.0,
        "norm": 6.0,
        "worst_norm": 10.0,
        "skipped": 1,
        "images_per_second": 20.0,
        "share_of_time": {"data": 0.15, "forward": 0.45, "validation": 0.4},
    }


def test_an_interval_does_not_keep_graphs() -> None:
    interval = Interval()
    weight = torch.ones((), requires_grad=True)
    interval.add({"loss": weight * 2}, weight * 3)
    interval.add({"loss": weight * 2}, weight * 3)
    kept = [*interval._sums.values(), interval._worst_norm]
    assert all(value is not None and value.grad_fn is None for value in kept)


def test_means_are_averaged_over_processes_and_the_worst_norm_is_not() -> None:
    interval = Interval()
    interval.add({"loss": torch.tensor(1.0)}, torch.tensor(4.0))
    seen = []

    def across(values: torch.Tensor) -> torch.Tensor:
        seen.append(values.shape)
        return values + torch.tensor([1.0, 0.0])

    line = interval.summary(across)
    assert seen == [(2,)]
    assert (line["loss"], line["norm"], line["worst_norm"]) == (2.0, 4.0, 4.0)


def test_an_interval_of_skipped_steps_has_no_losses_and_asks_no_process() -> None:
    interval = Interval()
    interval.skip()
    interval.note(8, (160, 160), {"data": 0.5})

    def across(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    line = interval.summary(across)
    assert line["skipped"] == 1
    assert "loss" not in line
    assert Interval().summary() == {"skipped": 0}


def test_what_is_not_finite_becomes_null_and_single_numbers_plain(tmp_path: Path) -> None:
    reported = []
    with Log(tmp_path, report=reported.append, tensorboard=False) as log:
        log.write({"step": 1, "loss": math.nan, "bce": math.inf, "norm": torch.tensor(2.5), "rate": np.float32(0.5)})
        log.write({"step": 1, "val": {"set": {"maxF": -math.inf}}, "size": (1, 2), "best": np.bool_(True)})
    expected = [
        {"step": 1, "loss": None, "bce": None, "norm": 2.5, "rate": 0.5},
        {"step": 1, "val": {"set": {"maxF": None}}, "size": [1, 2], "best": True},
    ]
    assert reported == expected
    lines = read_log(tmp_path)
    assert [line.get("event") for line in lines] == ["started", None, None]
    assert lines[1:] == expected
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_every_line_is_there_at_once(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=False) as log:
        for step in range(1, 4):
            log.write(step_line(step))
            assert steps_of(read_log(tmp_path)) == list(range(1, step + 1))


def test_a_resumed_log_tells_one_story(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=False) as log:
        for step in (10, 20, 30):
            log.write(step_line(step, loss=1.0))
            log.write({"step": step, "val": {"maxF": step / 100}, "best": True})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while it wrote
    assert steps_of(read_log(tmp_path)) == [10, 20, 30]
    with Log(tmp_path, resumed_at=20, tensorboard=False) as log:
        log.write(step_line(30, loss=2.0))
    lines = read_log(tmp_path)
    assert [(line["step"], line["loss"]) for line in training_lines(lines)] == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert [line["step"] for line in validation_lines(lines)] == [10, 20]
    assert [(line["event"], line["step"]) for line in lines if "event" in line] == [("started", 0), ("resumed", 20)]


def test_a_start_without_a_checkpoint_empties_an_older_log(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=False) as log:
        log.write(step_line(1))
    with Log(tmp_path, tensorboard=False) as log:
        log.write(step_line(2))
    assert steps_of(read_log(tmp_path)) == [2]


def test_a_log_that_ends_where_the_checkpoint_was_is_left_alone(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=False) as log:
        log.write(step_line(1))
    path = tmp_path / "log.jsonl"
    before = (path.stat().st_ino, path.read_bytes())
    cut_log(path, 1)
    assert (path.stat().st_ino, path.read_bytes()) == before
    cut_log(tmp_path / "none.jsonl", 1)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"log\.jsonl: line 2 is damaged: remove that line"):
        read_log(tmp_path)
    with pytest.raises(DataError, match="line 2"):
        Log(tmp_path, resumed_at=3, tensorboard=False)
    assert read_log(tmp_path / "nowhere") == []


def test_validations_of_one_step_count_once() -> None:
    lines = [{"step": 1, "val": {"maxF": 0.1}}, {"step": 2, "val": {"maxF": 0.2}}, {"step": 2, "val": {"maxF": 0.3}}]
    assert [line["val"]["maxF"] for line in validation_lines(lines)] == [0.1, 0.3]


def test_measures_of_several_sets_get_the_name_of_their_set() -> None:
    assert flattened({"a": {"maxF": 1.0}, "MAE": 2, "note": "text"}) == {"a/maxF": 1.0, "MAE": 2}
    assert math.isnan(flattened({"MAE": None})["MAE"])


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_has_the_same_figures_and_pictures(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=True) as log:
        log.write(step_line(10, loss=2.0))
        log.write({"step": 10, "val": {"maxF": 0.5, "other": {"MAE": 0.25}}, "best": True})
        log.write({"step": 10, "event": "stopped"})
        log.pictures(10, {"photo": np.full((6, 4, 3), 200, np.uint8)})
    found = scalars(tmp_path / "tensorboard")
    assert {tag: values[0][1] for tag, values in found.items()} == pytest.approx(
        {
            "loss/loss": 2.0,
            "loss/bce": 1.0,
            "schedule/epoch": 1.0,
            "schedule/rate": 1e-3,
            "schedule/height": 160,
            "schedule/width": 224,
            "gradient/norm": 3.0,
            "gradient/worst_norm": 4.0,
            "gradient/skipped": 0,
            "speed/images_per_second": 20.0,
            "share_of_time/data": 0.1,
            "share_of_time/forward": 0.9,
            "val/maxF": 0.5,
            "val/other/MAE": 0.25,
        }
    )
    assert {values[0][0] for values in found.values()} == {10}
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (image,) = accumulator.Images("photo")
    assert (image.step, image.height, image.width) == (10, 6, 4)


def test_tensorboard_hides_what_is_done_again(tmp_path: Path) -> None:
    with Log(tmp_path, tensorboard=True) as log:
        for step in (10, 20, 30):
            log.write(step_line(step, loss=1.0))
    time.sleep(1.1)  # its files are ordered by the second they were made in
    with Log(tmp_path, resumed_at=20, tensorboard=True) as log:
        log.write(step_line(30, loss=2.0))
    assert scalars(tmp_path / "tensorboard")["loss/loss"] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_without_tensorboard_the_training_goes_on_unless_it_is_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # what Python itself takes for "not installed"
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    notes: list[str] = []
    with pytest.raises(MissingExtraError, match=r"tensorboard is not installed: run  pip install 'birefnet\[train\]'"):
        Log(tmp_path, tensorboard=True)
    assert read_log(tmp_path) == [{"step": 1}]  # nothing was touched
    with Log(tmp_path, note=notes.append) as log:
        log.write(step_line(1))
        log.pictures(1, {"photo": np.zeros((2, 2, 3), np.uint8)})
    assert len(notes) == 1
    assert notes[0].startswith("nothing is written for TensorBoard: tensorboard is not installed")
    assert not (tmp_path / "tensorboard").exists()
    assert steps_of(read_log(tmp_path)) == [1]


def test_tensorboard_that_is_not_wanted_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from birefnet.training.log import Log\n"
        f"with Log(Path({str(tmp_path)!r}), tensorboard=False) as log: log.write({{'step': 1, 'loss': 1.0}})\n"
        "print(sorted({'torch', 'tensorboard'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere: the log cannot be written"):
        Log(tmp_path / "nowhere", tensorboard=False)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    # A limit on the size of files fails writes as a full disk does.
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path; from birefnet.training.log import Log; from birefnet.errors import OutputError\n"
        f"log = Log(Path({str(tmp_path)!r}), tensorboard=False)\n"
        "try:\n"
        "    for step in range(1, 100): log.write({'step': step, 'loss': 0.123456})\n"
        "except OutputError as error: print(error)\n"
        "log.close()"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{tmp_path}: the log cannot be written (File too large)\n"
    text = (tmp_path / "log.jsonl").read_text()
    assert text.endswith("}\n")
    assert len(text) > 900
    assert steps_of(read_log(tmp_path)) == list(range(1, len(text.splitlines())))


def test_a_killed_run_leaves_a_log_to_go_on_with(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from birefnet.training.log import Log\n"
        f"log = Log(Path({str(tmp_path)!r}), tensorboard=False)\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    log.write({'step': step, 'text': 'x' * 20_000})"
    )
    path = tmp_path / "log.jsonl"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_size > 1_000_000):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    last = steps_of(read_log(tmp_path))[-1]
    assert last >= 49
    with Log(tmp_path, resumed_at=last - 5, tensorboard=False) as log:
        log.write({"step": last - 4})
    assert steps_of(read_log(tmp_path)) == list(range(1, last - 3))
    assert all(json.loads(text) for text in path.read_text().splitlines())


def test_which_measures_are_errors() -> None:
    names = ("loss", "DIS-VD/MAE", "mae", "HCE", "matteMSE", "maxF", "other/S", "IoU")
    assert [is_lower_better(name) for name in names] == [True] * 5 + [False] * 3


def test_times_are_written_as_a_person_would() -> None:
    seconds = (0, 59.4, 60, 3570, 7260, 48 * 3600)
    assert [duration(each) for each in seconds] == ["0 s", "59 s", "1 min", "1 h 00 min", "2 h 01 min", "2.0 days"]
