"""The command as a user runs it: real photos, real files, a process that is cut off."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from birefnet.cli import main
from birefnet.cli.data import contact_sheet
from birefnet.data.pairs import find_pairs


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def data(tmp_path: Path, astronaut: Path, chelsea: Path) -> Path:
    """Cuts of real photos, with thresholds of them for masks."""
    folder = tmp_path / "DIS5K" / "TR"
    for number in range(6):
        with Image.open((astronaut, chelsea)[number % 2]) as image:
            photo = image.convert("RGB").crop((20 * number, 0, 20 * number + 200, 180 + number))
        mask = np.where(np.asarray(photo.convert("L")) > 120, 255, 0).astype(np.uint8)
        for kind, array in (("im", np.asarray(photo)), ("gt", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{number}#x#1#Cat#{number}.png")
    return folder


def test_a_set_that_is_fine(data: Path) -> None:
    result = run("check", data, "--strict")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "6 pairs: 0 errors, 0 warnings\n", "")


def test_everything_is_listed_and_written(data: Path, tmp_path: Path) -> None:
    masks = sorted((data / "gt").iterdir())
    masks[0].unlink()
    masks[1].write_bytes(b"")
    with Image.open(masks[2]) as mask:
        mask.resize((50, 45)).save(masks[2])
    Image.new("L", (200, 183)).save(masks[3])
    for number in range(12):
        Image.new("L", (9, 9)).save(data / "gt" / f"lonely{number:02d}.png")
    result = run("check", data, "-o", tmp_path / "new" / "report.json")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [
        "error no-mask (1): photos without a mask",
        "error no-photo (12): masks without a photo",
        "error unreadable (1): files that cannot be read as images",
        "error size (1): masks of another size than their photo",
        "warning empty-mask (1): masks without foreground",
        "5 pairs: 15 errors, 1 warning",
    ]
    assert all(any(f"lonely{number:02d}.png: has no photo" in line for line in lines) for number in range(12))
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert (report["pairs"], report["errors"], report["warnings"], len(report["problems"])) == (5, 15, 1, 16)
    assert report["problems"][0]["kind"] == "no-mask"
    assert set(report["problems"][0]) == {"kind", "file", "detail", "stops"}
    printed = run("check", data, "-o", "-")
    assert json.loads(printed.stdout) == report
    assert printed.exit_code == 1


def test_warnings_alone(data: Path) -> None:
    Image.new("L", (200, 180)).save(min((data / "gt").iterdir()))
    assert run("check", data).exit_code == 0
    assert run("check", data, "--strict").exit_code == 1
    assert "0 errors, 1 warning\n" in run("check", data).stdout
    assert "warning tiny (6)" in run("check", data, "--smallest", 190).stdout


def test_leakage_into_validation(data: Path) -> None:
    result = run("check", data, "--val", data)
    assert result.exit_code == 1
    assert "error leak (6): photos that are both trained on and validated on" in result.stdout
    assert "6 pairs and 6 to validate on: 6 errors, 0 warnings" in result.stdout


def test_other_ways_to_name_data(data: Path) -> None:
    assert "6 pairs" in run("check", "--images", data / "im", "--masks", data / "gt").stdout
    (data / "im").rename(data / "images")
    result = run("check", data)
    assert "6 pairs" in result.stdout
    assert result.stderr == f"{data}: photos are taken from images/, masks from gt/\n"
    assert "12 pairs" in run("check", f"{data}+TR").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check", "nowhere"], 1, "Error: nowhere: no such folder or file: a data set has"),
        (["check"], 2, "Error: name a data set: SPEC, or --images DIR with --masks DIR"),
        (["check", "a", "--images", "b", "--masks", "c"], 2, "Error: name a data set"),
        (["stats", "--images", "b"], 2, "Error: name a data set"),
        (["stats", "nowhere", "--picture", "sheet.txt"], 1, "Error: sheet.txt: an image cannot be written as .txt"),
    ],
)
def test_errors_are_one_line(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in result.output


def test_numbers_and_picture(data: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "sheet.png"
    result = run("stats", data, "--picture", sheet, "--count", 4, "-o", tmp_path / "stats.json")
    assert result.exit_code == 0
    assert result.stdout.startswith("6 pairs (TR 6)\n")
    assert result.stderr == f"picture: {sheet}\n"
    summary = json.loads((tmp_path / "stats.json").read_text())
    assert summary["width"]["median"] == 200
    assert summary["binary_masks"] == 6
    shown = next(line for line in result.stdout.splitlines() if line.startswith("height"))
    assert shown.split() == ["height", "180", "181", "182", "184", "185"]
    assert json.loads(run("stats", data, "-o", "-").stdout) == summary
    with Image.open(sheet) as image:
        first = np.asarray(image)
    assert first.shape == (2 * 296 + 6, 2 * 262 + 6, 3)


def test_the_sheet_depends_on_the_seed_alone(data: Path) -> None:
    pairs = find_pairs(data)
    first = np.asarray(contact_sheet(pairs, 3, seed=1))
    assert np.array_equal(first, np.asarray(contact_sheet(pairs[::-1], 3, seed=1)))
    assert not np.array_equal(first, np.asarray(contact_sheet(pairs, 3, seed=2)))


def test_the_sheet_shows_the_mask(tmp_path: Path) -> None:
    for kind, image in (("im", Image.new("RGB", (400, 400), "white")), ("gt", Image.new("L", (400, 400)))):
        if kind == "gt":
            image.paste(255, (100, 100, 300, 300))
        (tmp_path / kind).mkdir()
        image.save(tmp_path / kind / f"{'long name ' * 20}.png")
    sheet = np.asarray(contact_sheet(find_pairs(tmp_path), 9))
    assert sheet.shape == (302, 268, 3)
    cell = sheet[6:262, 6:262]
    assert cell[128, 128].tolist() == [255, 255, 255]
    assert cell[10, 128].tolist() == [115, 115, 167]
    line = (cell == (60, 255, 90)).all(axis=2)
    rows, columns = np.nonzero(line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 191, 64, 191)


def test_the_sheet_shows_what_cannot_be_read(data: Path) -> None:
    for path in (data / "gt").iterdir():
        path.write_bytes(b"broken")
    assert np.asarray(contact_sheet(find_pairs(data), 6)).max() > 200
    result = run("stats", data)
    assert result.exit_code == 1
    assert result.stderr == "Error: none of the 6 pairs can be read: see 'birefnet data check'\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is Unicode")
def test_names_that_are_no_unicode(tmp_path: Path, data: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/set\xff"))
    data.rename(folder)
    for number, path in enumerate(sorted((folder / "im").iterdir())):
        path.rename(Path(os.fsdecode(os.fsencode(path.parent) + b"/%d\xfe.png" % number)))
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    assert "no-mask (6)" in run("check", folder, "-o", report).stdout
    assert json.loads(report.read_text())["problems"][0]["file"] == str(folder / "im" / "0\udcfe.png")
    for number, path in enumerate(sorted((folder / "gt").iterdir())):
        path.rename(Path(os.fsdecode(os.fsencode(path.parent) + b"/%d\xfe.png" % number)))
    result = run("stats", folder, "--picture", sheet, "-o", report)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "6 pairs (set\\udcff 6)")
    assert sheet.exists()


def test_left_out_pairs_are_counted(data: Path) -> None:
    masks = sorted((data / "gt").iterdir())
    masks[0].write_bytes(b"broken")
    masks[1].unlink()
    result = run("stats", data)
    assert result.exit_code == 0
    assert result.stdout.startswith("4 pairs")
    assert result.stderr == "2 files or pairs are left out: see 'birefnet data check'\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, astronaut: Path, number: signal.Signals) -> None:
    for kind in ("im", "gt"):
        (tmp_path / kind).mkdir()
        for index in range(300):
            (tmp_path / kind / f"{index:03d}.png").symlink_to(astronaut)
    # A pipe in a photo's place: the command waits for its content until it is stopped.
    pipe = tmp_path / "im" / "100.png"
    pipe.unlink()
    os.mkfifo(pipe)
    command = [sys.executable, "-W", "error", "-m", "birefnet", "data", "check", str(tmp_path), "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads from it yet
            time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.2)
    os.close(writer)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    # The last ones may have been read without having been counted.
    assert re.fullmatch(r"stopped: \d+ of 300 pairs were read\n", errors)
