"""Curves and contact sheets of runs that have hardly begun, went on, or are damaged."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import DataError, OutputError
from birefnet.training.log import Line
from birefnet.training.plot import (
    Sample,
    contact_sheet,
    difference,
    is_lower_better,
    load_samples,
    plot,
    plot_curves,
    ranked,
    save_samples,
    smoothed,
)

FALSE, MISSED = (213, 94, 0), (0, 140, 220)


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


def make_sample(name: str, height: int = 60, width: int = 90, **scores: float) -> Sample:
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (height, width, 3), np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[: height // 2] = 255
    prediction = np.zeros((height, width), np.uint8)
    prediction[:, : width // 2] = 255
    return Sample(name, photo, truth, prediction, scores)


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
    assert [path.name for path in plot(tmp_path)] == ["curves.png"]


def test_no_folder_and_an_unwritable_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder: name the folder of a run"):
        plot(tmp_path / "nowhere")
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OutputError, match=r"curves\.png: cannot be written"):
        plot(tmp_path)


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


def test_which_measures_are_errors() -> None:
    names = ("loss", "DIS-VD/MAE", "mae", "HCE", "matteMSE", "maxF", "other/S", "IoU")
    assert [is_lower_better(name) for name in names] == [True] * 5 + [False] * 3


def test_the_difference_tells_false_from_missed_foreground() -> None:
    sample = make_sample("x")
    picture = difference(sample)
    assert tuple(picture[-1, 0]) == FALSE  # predicted, and not there
    assert tuple(picture[0, -1]) == MISSED
    for right in (picture[0, 0], picture[-1, -1]):  # grey where both agree
        assert right[0] == right[1] == right[2]
    unknown = np.ones(sample.truth.shape, bool)
    unknown[-1, 0] = False
    hidden = difference(Sample("x", sample.photo, sample.truth, sample.prediction, {}, unknown))
    assert tuple(hidden[-1, 0]) not in (FALSE, MISSED)


def test_samples_are_ranked_by_a_measure_of_either_direction() -> None:
    samples = [make_sample(str(i), maxF=i / 10, MAE=i / 10) for i in range(10)]
    samples.append(make_sample("without"))
    assert "".join(s.name for s in ranked(samples[:10], "maxF")) == "9876543210"
    assert "".join(s.name for s in ranked(samples[:10], "MAE")) == "0123456789"
    assert "".join(s.name for s in ranked(samples[:10], "maxF", 6)) == "985410"
    assert ranked(samples, "maxF", 20)[-1].name == "without"
    assert list(ranked(samples, "MAE")[0].scores) == ["MAE", "maxF"]
    assert ranked([], "maxF") == []


def test_samples_come_back_small_and_replace_older_ones(tmp_path: Path) -> None:
    valid = np.ones((900, 600), bool)
    valid[:450] = False
    big = make_sample("folder/photo 1.jpg", 900, 600, maxF=0.5, MAE=math.nan)
    samples = [Sample(big.name, big.photo, big.truth, big.prediction, big.scores, valid), make_sample("照片", 1, 7)]
    assert load_samples(tmp_path) == ("", [])
    save_samples(tmp_path, [make_sample("older")], 10)
    save_samples(tmp_path, samples, 2000, "best first")
    title, loaded = load_samples(tmp_path)
    assert title == "validation at step 2,000: best first"
    assert [sample.name for sample in loaded] == ["folder/photo 1.jpg", "照片"]
    first, second = loaded
    assert first.photo.shape == (320, 213, 3)
    assert first.truth.shape == first.prediction.shape == (320, 213)
    assert first.valid is not None
    assert not first.valid[:159].any()
    assert first.valid[161:].all()
    assert first.scores["maxF"] == 0.5
    assert math.isnan(first.scores["MAE"])
    assert second.valid is None
    np.testing.assert_array_equal(second.truth, samples[1].truth)
    np.testing.assert_array_equal(second.prediction, samples[1].prediction)
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert len(names) == 7
    assert names[0] == "0002000-00-folder_photo_1.jpg-photo.jpg"
    assert [path.name for path in plot(tmp_path)] == ["curves.png", "masks.png"]


def test_damaged_and_missing_samples_are_named(tmp_path: Path) -> None:
    save_samples(tmp_path, [make_sample("a")], 1)
    (photo,) = (tmp_path / "validation").glob("*-photo.jpg")
    content = photo.read_bytes()
    photo.write_bytes(content[:200])
    with pytest.raises(DataError, match="validation: is damaged"):
        load_samples(tmp_path)
    photo.unlink()
    with pytest.raises(DataError, match=r"photo\.jpg: is missing"):
        load_samples(tmp_path)
    (tmp_path / "validation" / "samples.json").write_text("{}")
    with pytest.raises(DataError, match="validation: is damaged"):
        load_samples(tmp_path)


def test_a_contact_sheet_of_any_sizes_is_laid_out_in_one_or_two_columns(tmp_path: Path) -> None:
    sizes = [(60, 90), (90, 60), (1, 300), (300, 1), (1200, 1600)]
    long_name = "a/very/long/path/" * 12 + "ünïcode 照片.jpeg"
    samples = [make_sample(long_name, height, width, maxF=0.5, MAE=math.nan) for height, width in sizes]
    widths = []
    for count in (0, 1, 4, 5):
        path = contact_sheet(samples[:count], tmp_path / "sheet.png", "title" if count else "")
        with Image.open(path) as image:
            image.load()
            widths.append(image.width)
            assert len(image.getcolors(1 << 24) or []) > 10
    assert widths[0] == widths[1] == widths[2]
    assert widths[3] > 2 * widths[0] - 40


def test_runs_are_drawn_where_torch_is_not_installed(tmp_path: Path) -> None:
    write_log(tmp_path, LOGS["one step"])
    save_samples(tmp_path, [make_sample("a")], 1)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from birefnet.training.plot import plot\n"
        f"plot(Path({str(tmp_path)!r})); print('matplotlib.pyplot' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
    assert (tmp_path / "masks.png").exists()
