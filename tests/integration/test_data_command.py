"""The command as a user runs it: real photos, real files, a process that is cut off."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from birefnet.classes import DIS5K_CLASSES
from birefnet.cli import main
from birefnet.cli.data.pack import decode_pairs
from birefnet.cli.data.sheet import contact_sheet
from birefnet.data.cache import decode_pair, read_portable
from birefnet.data.pairs import Pair, discover, find_pairs
from birefnet.data.structures import Drawn
from birefnet.errors import DataError


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
@pytest.mark.parametrize(
    ("command", "rest", "more"),
    [("check", ["--jobs", "1"], ""), ("pack", ["new/pack.npz"], ", new/pack.npz is as it was")],
)
def test_a_signal_ends_it_cleanly(
    tmp_path: Path, astronaut: Path, number: signal.Signals, command: str, rest: list[str], more: str
) -> None:
    for kind in ("im", "gt"):
        (tmp_path / kind).mkdir()
        for index in range(300):
            (tmp_path / kind / f"{index:03d}.png").symlink_to(astronaut)
    # A pipe in a photo's place: the command waits for its content until it is stopped.
    pipe = tmp_path / "im" / "100.png"
    pipe.unlink()
    os.mkfifo(pipe)
    line = [sys.executable, "-W", "error", "-m", "birefnet", "data", command, str(tmp_path), *rest]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
    assert (process.returncode, output) == (130, ""), errors
    # The last ones may have been read without having been counted.
    assert re.fullmatch(rf"stopped: \d+ of 300 pairs were read{re.escape(more)}\n", errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt", "im"]


# --- draw ---


def test_drawn_pairs_can_be_used_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    result = run("draw", folder, "--count", 6, "--size", "150x200", "--seed", 3)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"6 pairs: {folder}\n", "")
    assert sorted(path.name for path in folder.iterdir()) == ["gt", "im"]
    pairs = find_pairs(folder)
    assert [pair.name for pair in pairs] == [f"drawn-3-{number:06d}" for number in range(6)]
    drawn = Drawn(6, 3)
    for index, pair in enumerate(pairs):
        photo, mask = drawn.draw(index, 150, 200)
        with Image.open(pair.mask) as image:
            assert np.array_equal(np.asarray(image), mask)
        with Image.open(pair.image) as image:
            assert image.format == "JPEG"
            assert np.abs(np.asarray(image).astype(int) - photo).mean() < 6
    assert run("check", folder, "--strict").exit_code == 0


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    for name, seed, jobs in (("a", 5, 1), ("b", 5, 4), ("c", 6, 4)):
        run("draw", tmp_path / name, "--count", 5, "--size", 64, "--seed", seed, "--jobs", jobs, "--photos", "png")
    first, again, other = ([path.read_bytes() for path in sorted((tmp_path / name / "im").iterdir())] for name in "abc")
    assert first == again
    assert not set(first) & set(other)
    for name in "ab":
        assert all(path.suffix == ".png" for path in (tmp_path / name / "im").iterdir())


def test_one_kind_alone(tmp_path: Path) -> None:
    run("draw", tmp_path, "--count", 2, "--size", 48, "--kind", "holes")
    with Image.open(tmp_path / "gt" / "drawn-0-000001.png") as image:
        assert np.array_equal(np.asarray(image), Drawn(2, 0, "holes").draw(1, 48, 48)[1])


def test_only_drawings_are_overwritten(tmp_path: Path) -> None:
    run("draw", tmp_path, "--count", 4, "--size", 32)
    result = run("draw", tmp_path, "--count", 2, "--size", 32)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"Error: {tmp_path}: is not empty: name another folder, or pass --overwrite to replace drawings\n"
    )
    assert len(find_pairs(tmp_path)) == 4
    assert run("draw", tmp_path, "--count", 2, "--size", 32, "--overwrite").exit_code == 0
    assert len(find_pairs(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt", "im"]
    for foreign in (tmp_path / "notes.txt", tmp_path / "im" / "cat.jpg"):
        foreign.write_text("mine")
        result = run("draw", tmp_path, "--count", 1, "--size", 32, "--overwrite")
        assert result.exit_code == 1
        assert result.stderr == f"Error: {foreign}: is no drawing, and is not overwritten: name another folder\n"
        foreign.unlink()
    assert len(find_pairs(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "12y3"], 2, "Error: Invalid value for '--size': '12y3' is no size: give HEIGHTxWIDTH such as"),
        (["--size", "15x20"], 2, "Error: Invalid value for '--size': '15x20' is no size"),
        (["--kind", "cats"], 2, "Error: Invalid value for '--kind': 'cats' is not one of 'wires', "),
        (["--seed", "-1"], 2, "Error: Invalid value for '--seed'"),
        ([], 1, "Error: {folder}: cannot be used as a folder (Not a directory)"),
    ],
)
def test_errors_of_drawing_are_one_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "file").touch()
    result = run("draw", tmp_path / "file", *arguments)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith(message.format(folder=tmp_path / "file"))


@pytest.mark.parametrize("existed", [True, False])
def test_drawing_that_is_stopped_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "set"
    if existed:
        folder.mkdir()
    command = [sys.executable, "-W", "error", "-m", "birefnet", "data", "draw", str(folder), "--count", "99999"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob("set/.birefnet-*/im/drawn-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, ""), errors
    assert re.fullmatch(rf"stopped: \d+ of 99999 pairs were drawn, {re.escape(str(folder))} is as it was\n", errors)
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())


# --- pack ---


def test_a_pack_is_read_back(data: Path, tmp_path: Path) -> None:
    for kind in ("im", "gt"):
        (data / kind / "0#x#1#Cat#0.png").rename(data / kind / "0#x#1#Bag#0.png")
    output = tmp_path / "new" / "pack.npz"
    result = run("pack", data, output, "--size", "64x96")
    assert (result.exit_code, result.stderr) == (0, "")
    megabytes = f"{output.stat().st_size / 1e6:.1f}"
    assert result.stdout == f"{output}: 6 pairs at 64x96 px, JPEG quality 95, {megabytes} MB\n"
    pack, pairs = read_portable(output), find_pairs(data)
    assert pack.names == [pair.name for pair in pairs]
    assert pack.categories == [DIS5K_CLASSES.index("Bag")] + [None] * 5
    for pixels, pair in zip(pack.pixels, pairs, strict=True):
        exact = decode_pair(pair, (64, 96))
        assert np.array_equal(pixels[3], exact[3])
        assert np.abs(pixels[:3].astype(int) - exact[:3]).mean() < 5


def test_masks_of_another_folder_and_soft_ones(data: Path, tmp_path: Path) -> None:
    for path in (data / "gt").iterdir():
        with Image.open(path) as mask:
            size = mask.size
        Image.new("L", size, 100).save(path)
    (data / "gt").rename(tmp_path / "mattes")
    output = tmp_path / "pack.npz"
    for options, level in ((["--soft"], round(100 * 254 / 255)), ([], 0)):
        result = run("pack", data / "im", output, "--masks", tmp_path / "mattes", "--size", 32, *options)
        assert result.stdout.startswith(f"{output}: 6 pairs at 32 px, JPEG quality 95")
        assert (read_portable(output).pixels[:, 3] == level).all()


def test_names_of_several_sets_tell_them_apart(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, data.with_name("VD"))
    run("pack", f"{data}+VD", tmp_path / "pack.npz", "--size", 32)
    names = read_portable(tmp_path / "pack.npz").names
    assert names[::6] == [f"{kind}/0#x#1#Cat#0" for kind in ("TR", "VD")]


def test_all_that_cannot_be_packed_is_listed(data: Path, tmp_path: Path) -> None:
    photos, masks = (sorted((data / kind).iterdir()) for kind in ("im", "gt"))
    photos[0].write_bytes(b"broken")
    Image.new("L", (50, 45)).save(masks[2])
    masks[3].unlink()
    Image.new("L", (200, 184), 1).save(masks[4])
    output = tmp_path / "pack.npz"
    output.write_text("what was there")
    result = run("pack", data, output, "--size", 32)
    assert (result.exit_code, result.stdout) == (1, "")
    first, *lines = result.stderr.splitlines()
    assert first == "Error: 4 files cannot be packed: mend or remove them, or pass --skip-bad to leave them out"
    assert [line.split(": ")[0] for line in lines] == [f"  {path}" for path in (photos[3], photos[0], *masks[2:5:2])]
    assert output.read_text() == "what was there"

    result = run("pack", data, output, "--size", 32, "--skip-bad")
    assert (result.exit_code, result.stderr.splitlines()) == (0, ["4 files left out:", *lines])
    assert result.stdout.startswith(f"{output}: 2 pairs at 32 px")
    pairs = find_pairs_named(data, (1, 5))
    pack = read_portable(output)
    assert pack.names == [pair.name for pair in pairs]
    for pixels, pair in zip(pack.pixels, pairs, strict=True):
        assert np.array_equal(pixels[3], decode_pair(pair, (32, 32))[3])


def find_pairs_named(folder: Path, numbers: Sequence[int]) -> list[Pair]:
    return [pair for pair in discover(folder).pairs if int(pair.name[0]) in numbers]


def test_nothing_left_to_pack(data: Path, tmp_path: Path) -> None:
    for path in (data / "im").iterdir():
        path.write_bytes(b"broken")
    result = run("pack", data, tmp_path / "pack.npz", "--skip-bad")
    assert result.exit_code == 1
    first, *lines = result.stderr.splitlines()
    assert first == f"Error: {data}: nothing is left to pack: see 'birefnet data check'"
    assert len(lines) == 6
    assert not (tmp_path / "pack.npz").exists()


def test_the_limit_lowers_the_quality(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("im", "gt"):
        (tmp_path / kind).mkdir()
    for number in range(2):
        noise = random.integers(0, 256, (800, 800, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "im" / f"{number}.png", compress_level=1)
        Image.new("L", (800, 800), 255).save(tmp_path / "gt" / f"{number}.png")
    output = tmp_path / "pack.npz"
    result = run("pack", tmp_path, output, "--size", 800, "--limit", 1)
    quality = re.search(r"JPEG quality (\d+), (?:0\.\d|1\.0) MB\n$", result.stdout)
    assert quality is not None
    assert int(quality[1]) < 95
    assert output.stat().st_size <= 1_000_000
    output.unlink()
    result = run("pack", tmp_path, output, "--size", 1600, "--limit", 1)
    assert (result.exit_code, result.stdout) == (1, "")
    remedy = "pack at a smaller size or raise the limit"
    assert result.stderr == f"Error: {output}: would be over 1,000,000 bytes: {remedy}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt", "im"]


def test_more_than_the_memory_holds(data: Path) -> None:
    with pytest.raises(DataError, match=r"1000000 pairs at 8192x8192 take 268435\.5 GB of memory, more than there is"):
        decode_pairs(find_pairs(data)[:1] * 1_000_000, (8192, 8192))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "{tmp}/a.npz"], 1, "Error: nowhere: no such folder or file: a data set has"),
        (["{data}", "{tmp}/a.zip"], 1, "Error: {tmp}/a.zip: a pack's name must end in .npz"),
        (["{data}", "{tmp}/folder.npz"], 1, "Error: {tmp}/folder.npz: is a folder: name a file"),
        (["{data}", "{tmp}/file/a.npz"], 1, "Error: {tmp}/file/a.npz: cannot be written, {tmp}/file is no folder to"),
        (["{data}"], 2, "Error: Missing argument 'OUTPUT.npz'."),
        (["{data}", "a.npz", "--size", "0"], 2, "Error: Invalid value for '--size': '0' is no size"),
        (["{data}", "a.npz", "--limit", "0"], 2, "Error: Invalid value for '--limit': 0 is not in the range"),
    ],
)
def test_errors_of_packing_are_one_line(
    data: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    result = run("pack", *(argument.format(data=data, tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith(message.format(tmp=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DIS5K", "file", "folder.npz"]
