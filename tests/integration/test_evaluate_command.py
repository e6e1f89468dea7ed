"""The command as a user runs it: real photos and masks, real weights, processes that are cut off."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from birefnet import save_model
from birefnet.cli import main
from birefnet.metrics import Scorer
from support import tiny_model

COMMAND = [sys.executable, "-W", "error", "-m", "birefnet", "evaluate"]


def evaluate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd / "cache")}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run commands in, in this process, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def inside(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def make_set(folder: Path, photos: list[Path], count: int = 4) -> Path:
    """Real photos, with thresholds of them for truth."""
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as image:
            photo = image.convert("RGB").resize((72, 60 + number))
        truth = np.where(np.asarray(photo.convert("L")) > 80 + 10 * number, 255, 0).astype(np.uint8)
        for kind, array in (("im", np.asarray(photo)), ("gt", truth)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"p{number}.{'jpg' if kind == 'im' else 'png'}")
    return folder


def blur(data: Path, target: Path, sigma: float) -> Path:
    """Predictions: blurred truth."""
    target.mkdir(parents=True)
    for path in (data / "gt").iterdir():
        with Image.open(path) as image:
            Image.fromarray(cv2.GaussianBlur(np.asarray(image), (0, 0), sigma)).save(target / path.name)
    return target


@pytest.fixture
def photos(astronaut: Path, chelsea: Path) -> list[Path]:
    return [astronaut, chelsea]


def test_predictions_against_truth(here: Path, photos: list[Path]) -> None:
    data = make_set(here / "data", photos)
    blur(data, here / "mine", 3)
    files = ("-o", "r.json", "--csv", "r.csv", "--markdown", "r.md", "--latex", "r.tex", "--report", "report")
    result = evaluate("mine", "--truth", "data/gt", "--jobs", "2", *files, cwd=here)
    assert result.returncode == 0, result.stderr
    scorer = Scorer(["F", "wF", "MAE", "S", "E", "HCE"])
    for path in sorted((data / "gt").iterdir()):
        scorer.update(np.asarray(Image.open(here / "mine" / path.name)), np.asarray(Image.open(path)))
    expected = scorer.compute()
    found = load(here / "r.json")
    assert found["measures"] == ["maxF", "wF", "MAE", "S", "meanE", "HCE"]
    (row,) = found["rows"]
    assert (row["method"], row["set"], row["task"], row["count"]) == ("mine", "data", None, 4)
    assert row["summary"] == {name: expected[name] for name in found["measures"]}
    assert {name: len(curve) for name, curve in row["curves"].items()} == dict.fromkeys(
        ("F", "E", "precision", "recall"), 256
    )
    assert row["images"][1]["truth"] == "data/gt/p1.png"
    assert row["images"][1]["image"] == "data/im/p1.jpg"
    assert row["images"][1]["prediction"] == "mine/p1.png"
    assert row["images"][1]["size"] == [61, 72]
    assert result.stdout == (here / "r.md").read_text()
    assert result.stdout.splitlines()[0] == "| method | set | images | maxF ↑ | wF ↑ | MAE ↓ | S ↑ | meanE ↑ | HCE ↓ |"
    assert result.stdout.splitlines()[2].startswith(
        f"| mine | data | 4 | {expected['maxF']:.4f} | {expected['wF']:.4f} |"
    )
    with (here / "r.csv").open(newline="") as file:
        assert [line[2] for line in csv.reader(file)] == ["image", "", "p0", "p1", "p2", "p3"]
    assert (here / "r.tex").read_text().count(r"\\") == 2
    assert (here / "report" / "index.html").is_file()
    assert "report: report/index.html" in result.stderr
    # The same again, from the cache and by one process: the same to the last byte.
    again = evaluate("mine", "--truth", "data", "--jobs", "1", "-o", "again.json", cwd=here)
    assert (again.returncode, again.stderr) == (0, "")
    assert (here / "again.json").read_bytes() == (here / "r.json").read_bytes()


def test_several_methods_on_several_sets(here: Path, photos: list[Path]) -> None:
    for name in ("CAMO", "NC4K"):
        data = make_set(here / "root" / "COD" / name, photos, 2)
        blur(data, here / "good" / name, 1)
        blur(data, here / "bad" / name, 6)
    result = inside("--method", "fine=good", "bad", "--data", "root", "--no-cache", "--jobs", 1, "--latex", "t.tex")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "| method | set | images | S ↑ | wF ↑ | MAE ↓ | meanE ↑ |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| bad", "CAMO"],
        ["| bad", "NC4K"],
        ["| fine", "CAMO"],
        ["| fine", "NC4K"],
    ]
    assert "**" not in lines[2]
    assert lines[4].count("**") == 8
    assert (here / "t.tex").read_text().count(r"\midrule") == 2
    assert not (here / "cache").exists()
    one = inside("bad/NC4K", "--set", "X=root/COD/NC4K/gt", "--measures", "all", "--task", "matting", "--markdown", "-")
    assert one.stdout.splitlines()[0].startswith("| method | set | images | S ↑ | maxF ↑ | meanE ↑ | MSE ↓ |")
    assert one.stdout.splitlines()[2].startswith("| NC4K | X | 2 |")


def test_a_model_on_data(here: Path, photos: list[Path]) -> None:
    make_set(here / "data", photos, 3)
    options = ("--model", "nano", "--data", "data", "--measures", "wF,MAE")
    kept = evaluate(*options, "--jobs", "2", "--save-masks", "masks", "-o", "kept.json", cwd=here)
    assert (kept.returncode, kept.stderr) == (0, "")
    found = load(here / "kept.json")
    assert [image["prediction"] for image in found["rows"][0]["images"]] == [f"masks/data/p{n}.png" for n in range(3)]
    files = inside("--method", "nano=masks", "--data", "data", "--measures", "wF,MAE", "--no-cache", "--jobs", 1)
    assert files.stdout == kept.stdout
    dropped = inside(*options, "-o", "dropped.json")
    assert dropped.stdout == kept.stdout
    assert [image["prediction"] for image in load(here / "dropped.json")["rows"][0]["images"]] == [None] * 3
    reported = inside(*options, "--report", "report", "--size", 64)
    assert reported.exit_code == 0, reported.output
    assert len(list((here / "report" / "masks" / "data").iterdir())) == 3
    assert reported.stdout != kept.stdout


def test_what_is_wrong_with_files_is_told_and_decides_the_exit_status(here: Path, photos: list[Path]) -> None:
    data = make_set(here / "data", photos)
    made = blur(data, here / "mine", 2)
    (made / "p0.png").unlink()
    (made / "odd.png").write_bytes((made / "p1.png").read_bytes())
    missing = inside("mine", "--truth", "data/gt", "-o", "r.json")
    assert missing.exit_code == 1
    expected = (
        "extra-prediction: 1\n  mine/odd.png: no mask of this name in data/gt\nmissing-prediction: 1\n  mine/p0: "
    )
    assert missing.stderr.startswith(expected)
    assert "| mine | data | 3 |" in missing.stdout
    assert {problem["kind"] for problem in load(here / "r.json")["rows"][0]["problems"]} == {
        "extra-prediction",
        "missing-prediction",
    }
    assert inside("mine", "--truth", "data/gt", "--allow-missing").exit_code == 0
    with Image.open(made / "p1.png") as image:
        image.resize((36, 30)).save(made / "p1.png")
    differs = inside("mine", "--truth", "data/gt", "--allow-missing")
    assert differs.exit_code == 1
    assert "size-differs: 1\n  mine/p1.png: 30 x 36, and its truth is 61 x 72 (height x width)\n" in differs.stderr
    resized = inside("mine", "--truth", "data/gt", "--allow-missing", "--resize-predictions")
    assert resized.exit_code == 0
    assert "resized: 1\n" in resized.stderr
    for path in made.iterdir():
        path.write_text("no image")
    broken = inside("mine", "--truth", "data/gt")
    assert "| mine | data | 0 | - | - | - | - | - | - |" in broken.stdout
    assert "unreadable-prediction: 3\n" in broken.stderr


def test_the_threshold_of_the_truth(here: Path) -> None:
    for folder, level in (("gt", 128), ("mine", 255)):
        (here / folder).mkdir()
        array = np.zeros((20, 20), np.uint8)
        array[5:15, 5:15] = level
        Image.fromarray(array).save(here / folder / "a.png")
    above = inside("mine", "--truth", "gt", "--measures", "IoU")
    assert "empty-truth: 1" in above.stderr
    assert "| 0.0000 |" in above.stdout
    assert "| 1.0000 |" in inside("mine", "--truth", "gt", "--measures", "IoU", "--truth-threshold", 127).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "nothing to score: name predictions"),
        (("mine",), 2, "nothing to score against"),
        (("mine", "--truth", "nowhere"), 1, "Error: nowhere: no such folder"),
        (("nowhere", "--truth", "data/gt"), 1, "Error: nowhere: no such file or folder"),
        (("mine", "mine", "--truth", "data"), 2, "several methods are called mine; name them apart with --method"),
        (("mine", "--truth", "data", "--data", "data"), 2, "several sets are called data; name them apart"),
        (("mine", "--truth", "data", "--measures", "wF,nonsense"), 1, "Error: unknown measure 'nonsense'"),
        (("mine", "--truth", "data", "--method", "mine"), 2, "--method takes NAME=PATH, not 'mine'"),
        (("mine", "--truth", "data", "--save-masks", "x"), 2, "--save-masks goes with --model or --weights"),
        (("mine", "--truth", "data", "--csv", "-", "-o", "-"), 2, "only one thing can go to standard output"),
        (("--model", "nano", "--weights", "x.pth", "--data", "data"), 2, "exclude each other"),
        (("--model", "nanoo", "--data", "data"), 1, "Error: unknown model 'nanoo': did you mean 'nano'?"),
        (("--weights", "none.pth", "--data", "data"), 1, "none.pth"),
        (("--model", "nano", "--set", "x=mine"), 1, "Error: mine: no photos: a data set has its photos in im/"),
        (("--model", "nano", "--data", "data", "--size", "33"), 1, "size 33: must be a multiple of 32"),
        (("mine", "--data", "empty"), 1, "Error: empty: no data set"),
        (("compare", "a.json", "b.json"), 1, "Error: a.json: no such file: write it with"),
        (("checkpoints", "mine", "--data", "data"), 1, "Error: mine: holds no weights (.safetensors, .pth)"),
    ],
)
def test_mistakes_are_told_in_one_line(
    here: Path, photos: list[Path], arguments: tuple[str, ...], status: int, message: str
) -> None:
    blur(make_set(here / "data", photos, 1), here / "mine", 1)
    (here / "empty").mkdir()
    result = inside(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_an_evaluation_that_is_cut_off_goes_on_where_it_was(here: Path, photos: list[Path]) -> None:
    count = 30
    make_set(here / "data", photos, count)
    for number in range(count):  # large enough that scoring one takes a while
        for kind, suffix in (("im", "jpg"), ("gt", "png")):
            path = here / "data" / kind / f"p{number}.{suffix}"
            with Image.open(path) as image:
                image.resize((400, 300 + number), Image.Resampling.NEAREST).save(path)
    cache = here / "cache" / "birefnet" / "evaluation"
    arguments = ["--model", "nano", "--data", "data", "--jobs", "2", "-o", "r.json", "--measures", "all"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(here / "cache")}

    def scores() -> dict[Path, int]:
        """Kept scores, and when they were written; beside them are digests of predictions."""
        return {path: path.stat().st_mtime_ns for path in cache.glob("??/*.json") if "values" in path.read_text()}

    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=here, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(scores()) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the scoring processes too
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"stopped: \d+ of 30 images scored; the same command goes on from there\n", errors)
    assert not (here / "r.json").exists()
    kept = scores()
    assert 3 <= len(kept) < count
    finished = evaluate(*arguments, cwd=here)
    assert finished.returncode == 0, finished.stderr
    assert len(scores()) == count
    assert scores().items() >= kept.items()
    assert load(here / "r.json")["rows"][0]["count"] == count


def test_two_evaluations_are_compared(here: Path, photos: list[Path]) -> None:
    data = make_set(here / "data", photos, 6)
    blur(data, here / "soft", 4)
    blur(data, here / "sharp", 1)
    (here / "sharp" / "p5.png").unlink()
    for name in ("soft", "sharp"):
        inside(name, "--truth", "data", "-o", f"{name}.json")
    result = inside("compare", "soft.json", "sharp.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    header = "| set | measure | images | soft | sharp | difference | 95% interval | better | verdict |"
    assert lines[0] == header
    verdicts = {line.split(" | ")[1]: line.split(" | ")[-1].rstrip(" |") for line in lines[2:8]}
    assert list(verdicts) == ["maxF", "wF", "MAE", "S", "meanE", "HCE"]
    assert verdicts["wF"] == verdicts["MAE"] == "better"
    assert all(line.split(" | ")[2] == "5" for line in lines[2:8])
    assert "largest changes" in lines
    assert any(line.startswith("data, wF: p") for line in lines)
    assert result.stderr == "data: 1 images are in one of the results only and left out\n"
    back = inside("compare", "sharp.json", "soft.json", "--measure", "MAE", "--largest", 0)
    assert "| worse |" in back.stdout
    assert len(back.stdout.splitlines()) == 3
    both = inside("soft", "sharp", "--truth", "data", "-o", "both.json", "--truth-threshold", 100)
    assert both.exit_code == 1
    within = inside("compare", "both.json", "both.json", "--first", "soft", "--second", "sharp", "--measure", "wF")
    assert "| data | wF | 5 |" in within.stdout
    other = inside("compare", "soft.json", "both.json", "--second", "soft", "--measure", "S")
    assert "the conventions differ, so the values may not be comparable: truth_above: 128 and 100" in other.stderr
    unknown = inside("compare", "soft.json", "sharp.json", "--measure", "mBA")
    assert (unknown.exit_code, unknown.stderr.startswith("Error: unknown measure 'mBA'")) == (1, True)


def test_the_best_checkpoint_of_a_run_is_named(here: Path, photos: list[Path]) -> None:
    make_set(here / "data", photos, 2)
    for number, name in enumerate(("epoch_2.safetensors", "epoch_10.safetensors")):
        (here / "run").mkdir(exist_ok=True)
        save_model(tiny_model(seed=number), here / "run" / name)
    options = ("checkpoints", "run", "--data", "data", "--jobs", 1, "--measures", "S")
    result = inside(*options, "--link", "run/best.safetensors", "-o", "r.json", "--measure", "MAE")
    assert result.exit_code == 0, result.output
    found = load(here / "r.json")
    assert found["measures"] == ["MAE", "S"]
    errors = {row["method"]: row["summary"]["MAE"] for row in found["rows"]}
    best = min(errors, key=lambda name: errors[name])
    assert list(errors) == sorted(errors, key=lambda name: errors[name])
    assert f"best by MAE: run/{best} ({errors[best]:.4f})\ncopied to run/best.safetensors\n" in result.stderr
    assert (here / "run" / "best.safetensors").read_bytes() == (here / "run" / best).read_bytes()
    alone = inside("--weights", f"run/{best}", "--data", "data", "--measures", "MAE", "--jobs", 1)
    assert f"| {errors[best]:.4f} |" in alone.stdout
    # A file that does not load is told, and the copy is no candidate.
    (here / "run" / "broken.safetensors").write_bytes(b"nothing")
    broken = inside(*options, "--link", "run/best.safetensors", "--measure", "MAE")
    assert broken.exit_code == 1
    assert f"best by MAE: run/{best}" in broken.stderr
    assert "Error: run/broken.safetensors: " in broken.stderr
    assert "run/best" not in broken.stdout


def test_help_lists_options_and_commands() -> None:
    text = inside("--help").stdout
    assert "--resize-predictions" in text
    assert re.search(r"Commands:\n  checkpoints .*\n(.*\n)*  compare ", text)
    assert "A.json B.json" in inside("compare", "-h").stdout
    assert "RUN" in inside("checkpoints", "-h").stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")
def test_nobody_is_left_behind_when_an_evaluation_is_killed(here: Path, photos: list[Path]) -> None:
    data = make_set(here / "data", photos, 40)
    blur(data, here / "mine", 2)
    command = [*COMMAND, "mine", "--data", "data", "--jobs", "2", "--measures", "all", "--cache", "kept"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        children: set[str] = set()
        while not list((here / "kept").glob("??/*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            children |= set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        process.kill()
    assert len(children) >= 2
    while any(Path(f"/proc/{child}/exe").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_terminal_gets_a_table_for_reading(here: Path, photos: list[Path]) -> None:
    pty = pytest.importorskip("pty")
    data = make_set(here / "data", photos, 2)
    for name, sigma in (("fine", 1), ("coarse", 5)):
        blur(data, here / name, sigma)
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    command = [*COMMAND, "fine", "coarse", "--truth", "data", "--jobs", "1", "--no-cache"]
    with subprocess.Popen(command, cwd=here, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                text += os.read(leader, 65536)
            except OSError:  # the terminal is closed
                break
    os.close(leader)
    assert process.returncode == 0
    shown = text.decode()
    assert "evaluate" in shown  # the progress bar
    assert "|" not in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert re.search(r"method +set +images +maxF ↑ +wF ↑ +MAE ↓ +S ↑ +meanE ↑ +HCE ↓ *\r\n", plain)
    assert re.search(r"fine +data +2( +[01]\.\d{4}){5} +\d+ *\r\n", plain)
    (fine,) = (line for line in shown.splitlines() if line.startswith("fine"))
    (coarse,) = (line for line in shown.splitlines() if line.startswith("coarse"))
    assert "\x1b[1m" in fine
    assert "\x1b[1m0" not in coarse
