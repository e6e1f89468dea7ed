"""Curves of runs that have hardly begun, went on, or are damaged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import DataError, OutputError
from birefnet.training.curves import plot_curves, smoothed
from birefnet.training.log import Line


def write_log(run: Path, lines: list[Line]) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def step_line(step: int, **more: object) -> Line:
    return {
        "step": step,
        "steps": 1000,
        "samples": step * 8,
        "epoch": step / 100,
        "rate": 1e-3,
        "seconds": step * 2.0,
        "size": [160, 160],
        "loss": 100 / step,
        "bce": 50 / step,
        "norm": 10.0,
        "worst_norm": 20.0,
        "skipped": 0,
        "images_per_second": 4.0,
        "share_of_time": {"data": 0.1, "forward": 0.9},
        **more,
    }


def val_line(step: int, best: bool = True) -> Line:
    return {"step": step, "epoch": 1.0, "val": {"loss": 30.0, "maxF": step / 1000, "MAE": 0.1}, "best": best}


def colours(path: Path) -> int:
    """Number of colours, by which a picture with curves is told from an empty one."""
    with Image.open(path) as image:
        image.load()
        assert image.size == (1600, 840)
        found = image.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return len(found)


LOGS: dict[str, list[Line]] = {
    "no line": [],
    "only begun": [{"step": 0, "event": "started", "at": "2026-01-01T00:00:00+00:00"}],
    "one step": [step_line(10)],
    "one validation": [val_line(10)],
    "no usable step": [{"step": 10, "steps": 100, "rate": 1e-3, "skipped": 10, "images_per_second": 3.0}],
    "all null": [step_line(s, loss=None, bce=None, norm=None, worst_norm=None) for s in range(1, 9)],
    "negative and null losses": [step_line(s, loss=-1.0 if s % 3 else None) for s in range(1, 20)],
    "zero": [step_line(s, loss=0.0, bce=0.0, norm=0.0, rate=0.0, images_per_second=0.0) for s in range(1, 9)],
    "names that matplotlib takes for something else": [step_line(s, **{"_x": 1.0, "a$b$c_": 2.0}) for s in (1, 2)],
    "a size each line": [step_line(s, size=[256 + 32 * (s % 9), 512]) for s in range(1, 60)],
    "several sets": [{"step": 5, "val": {"DIS-VD": {"maxF": 0.5, "HCE": 1300.0}, "mine": {"maxF": 0.4, "MAE": None}}}],
    "twelve terms": [step_line(s, **{f"term{k}": s / (k + 1) for k in range(12)}) for s in range(1, 9)],
    "measures at their best": [{"step": s, "val": {"MAE": 0.0, "loss": 3.0, "maxF": 1.0}} for s in (1, 2)],
}


@pytest.mark.parametrize("name", LOGS)
def test_every_log_can_be_drawn(name: str, tmp_path: Path) -> None:
    write_log(tmp_path, LOGS[name])
    path = plot_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    colours(path)


def test_a_long_run_in_two_sittings_shows_more_than_an_empty_one(tmp_path: Path) -> None:
    empty = colours(plot_curves(tmp_path))
    lines: list[Line] = [{"step": 0, "event": "started", "at": ""}]
    for step in range(10, 1001, 10):
        lines.append(step_line(step, size=[160, 160] if step < 500 else [224, 224], skipped=int(step == 300)))
        if step % 100 == 0:
            lines.append(val_line(step))
        if step == 400:
            lines.append({"step": 400, "event": "resumed", "at": ""})
    write_log(tmp_path, lines)
    assert colours(plot_curves(tmp_path)) > 2 * empty


def test_no_folder_and_an_unwritable_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder: name the folder of a run"):
        plot_curves(tmp_path / "nowhere")
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OutputError, match=r"curves\.png: cannot be written"):
        plot_curves(tmp_path)


def test_a_running_mean_starts_at_the_first_value_and_passes_over_gaps() -> None:
    few = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(smoothed(few), few)
    values = np.full(400, 5.0)
    values[[0, 10, 399]] = np.nan
    result = smoothed(values)
    assert math.isnan(result[0])
    np.testing.assert_allclose(result[1:], 5.0)
    step = np.repeat([0.0, 1.0], 200)
    risen = smoothed(step)
    assert risen[199] == 0
    assert 0.5 < risen[210] < 0.8
    assert risen[-1] > 0.99
    assert len(smoothed(np.empty(0))) == 0
