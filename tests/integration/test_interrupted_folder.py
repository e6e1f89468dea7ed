"""Folders whose processing is cut off, watched, or partly bad, in real processes."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-W", "error", "-m", "birefnet", "cutout"]


def make_photos(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (240, 320, 3), np.uint8)).save(folder / f"{i:02}.jpg")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def assert_whole(folder: Path) -> None:
    """Nothing but images that decode to the end."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.size == (320, 240)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_cut_off_leaves_whole_files_and_is_finished_later(tmp_path: Path, number: int) -> None:
    make_photos(tmp_path / "photos", 40)
    out = tmp_path / "out"
    command = [*COMMAND, "photos", "-o", "out/"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: out.exists() and len(list(out.iterdir())) >= 3, "the first results")
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode != 0
    assert "Traceback" not in errors
    made = len(list(out.iterdir()))
    assert 3 <= made < 40
    assert_whole(out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    result = subprocess.run([*command, "--skip-existing"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stderr.startswith(f"{40 - made} done")
    assert f"{made} skipped" in result.stderr
    assert len(list(out.iterdir())) == 40
    assert_whole(out)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_fifty_photos_show_progress_and_the_bad_ones_at_the_end(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 50)
    (tmp_path / "photos" / "07.jpg").write_bytes((tmp_path / "photos" / "08.jpg").read_bytes()[:3000])
    (tmp_path / "photos" / "20.jpg").write_text("no photo at all")
    (tmp_path / "photos" / "33.jpg").write_bytes(b"")
    # A terminal, for which progress is shown; its size is what a user's would be.
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [*COMMAND, "photos", "--batch-size", "4"], cwd=tmp_path, stderr=slave, stdout=slave, env=environment
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # how a terminal ends
                break
            if not chunk:
                break
            shown += chunk
    os.close(master)
    text = shown.decode()
    assert process.returncode == 1
    assert "/50" in text
    assert "a second" in text
    errors = [line.strip() for line in text.splitlines() if "Error: " in line]
    assert len(errors) == 3
    assert "photos/07.jpg: damaged or cut off" in errors[0]
    assert errors[1].endswith("photos/20.jpg: not an image, or of a kind that cannot be read")
    assert errors[2].endswith("photos/33.jpg: not an image, or of a kind that cannot be read")
    assert "47 done in" in text.splitlines()[-1]
    assert len(list((tmp_path / "photos-cutout").iterdir())) == 47
    assert_whole(tmp_path / "photos-cutout")


def test_a_watched_folder_is_followed_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    command = [*COMMAND, "photos", "--watch", "--kind", "mask", "-o", "photos/masks/"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "watching photos; stop with Ctrl-C\n"
        Image.new("RGB", (320, 240)).save(tmp_path / "photos" / "a.png")
        assert process.stderr.readline() == "photos/a.png -> photos/masks/a.png\n"
        (tmp_path / "photos" / "b.png").write_text("text")
        assert process.stderr.readline().startswith("Error: photos/b.png: not an image")
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "stopped: 1 done, 1 failed\n"
    assert process.returncode == 0
    assert [path.name for path in (tmp_path / "photos" / "masks").iterdir()] == ["a.png"]


def test_a_disk_that_is_full_costs_a_line_for_each_photo_and_no_file(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    # A limit on the size of files fails writes as a full disk does.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from birefnet.cli import main; main()"
    )
    command = [sys.executable, "-W", "error", "-c", code, "cutout", "photos"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    *errors, summary = result.stderr.splitlines()
    assert [line.rpartition(": ")[2] for line in errors] == ["cannot be written (File too large)"] * 3
    assert summary == "0 done, 3 failed"
    assert list((tmp_path / "photos-cutout").iterdir()) == []
