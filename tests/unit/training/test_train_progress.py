"""How a run is shown: in a real terminal, in a file, and when it is stopped."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"

RUN = """
import sys, time
from birefnet.cli.train_progress import TrainProgress
from birefnet.training.log import read_log
from pathlib import Path
lines = read_log(Path(sys.argv[1]))
with TrainProgress("maxF", seconds=float(sys.argv[2])) as progress:
    progress.recall(lines[:2])
    with progress.work("looking at the photos", 3) as advance:
        for _ in range(3):
            advance()
            time.sleep(0.2)
    progress.note("[3 of them] worth a look\\x1b[31m")
    for line in lines[2:]:
        progress.report(line)
        progress.tick(line["step"])
        time.sleep(0.05)
"""

STOPPED = """
import sys, time
from birefnet.cli.train_progress import TrainProgress
try:
    with TrainProgress() as progress:
        progress.report({"step": 1, "steps": 9, "samples": 8, "loss": 1.0, "images_per_second": 1.0})
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines: list[dict[str, object]] = [
        {"step": 0, "event": "started", "at": ""},
        {"step": 50, "val": {"MAE": 0.125, "maxF": 0.625}, "best": True},
        {"step": 50, "event": "resumed", "at": ""},
    ]
    for step in range(60, 201, 10):
        figures = {"loss": 200 / step, "bce": 100 / step, "norm": 12.0, "worst_norm": 1234.0, "skipped": 2}
        if step == 100:
            figures = {"skipped": 10}
        if step == 110:
            figures = {"loss": None, "bce": None, "norm": None, "worst_norm": None, "skipped": 0}
        lines.append(
            {
                **{"step": step, "steps": 200, "samples": step * 8, "epoch": step / 100, "rate": 1e-3},
                **{"seconds": 1.0, "size": [160, 224], **figures},
                **{"images_per_second": 4.0, "share_of_time": {"data": 0.25, "forward": 0.75}},
            }
        )
        if step % 50 == 0:
            lines.append({"step": step, "val": {"MAE": 0.25, "maxF": 0.5, "HCE": None}, "best": step == 200})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, code: str, *words: str, columns: int = 100, term: str = "xterm") -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        hidden = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        variables = {name: value for name, value in os.environ.items() if name not in hidden}
        command = [sys.executable, "-W", "error", "-c", code, *words]
        self.process = subprocess.Popen(command, stdout=slave, stderr=slave, env={**variables, "TERM": term})
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str | None) -> str:
        """Read until a text is shown, or to the end."""
        data = self.shown.encode()
        while text is None or text.encode() not in data:
            try:
                chunk = os.read(self.master, 65536)
            except OSError:  # how a terminal ends
                break
            if not chunk:
                break
            data += chunk
        self.shown = data.decode()
        return self.shown

    def finish(self) -> str:
        shown = self.read_until(None)
        os.close(self.master)
        self.process.wait(timeout=60)
        return shown


def plain(shown: str) -> str:
    """What was shown, line by line, with all that was shown before in the same place."""
    lines = shown.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", lines)


def test_a_terminal_shows_where_the_run_stands(run: Path) -> None:
    terminal = Terminal(RUN, str(run), "30")
    shown = terminal.finish()
    assert terminal.process.returncode == 0
    assert "Traceback" not in shown
    assert shown.count(HIDE) == shown.count(SHOW) == 1
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    text = plain(shown)
    assert "looking at the photos" in text
    assert "[3 of them] worth a look?" in text
    assert "step 200  validation  maxF 0.5000  MAE 0.2500  HCE -  best so far" in text
    # What was known of the run before it was resumed.
    assert re.search(r"best +50 +0\.6250 +0\.1250", text)
    *_, bar, losses, state, head, last, best = text.rstrip().splitlines()
    assert bar.startswith("epoch 2 of 2 ━")
    assert "200/200 4 images/s" in bar
    assert re.fullmatch(r"loss 1\.\d+ +bce 0\.\d+ +", losses)
    assert state == "norm 12 (worst 1234)   rate 1.00e-03   160x224   waiting for data 25%   2 skipped"
    assert head.split() == ["step", "maxF", "MAE", "HCE"]
    assert last.split() == ["last", "200", "0.5000", "0.2500", "-"]
    assert best.split() == ["best", "200", "0.5000", "0.2500", "-"]


@pytest.mark.parametrize("columns", [20, 40, 250])
def test_no_line_of_the_display_is_broken_on_any_width(run: Path, columns: int) -> None:
    terminal = Terminal(RUN, str(run), "30", columns=columns)
    shown = terminal.finish()
    assert terminal.process.returncode == 0
    assert "Traceback" not in shown
    display = plain(shown).rstrip().splitlines()[-6:]
    assert all(len(line) <= columns for line in display)


def check_plain(text: str) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    lines = text.splitlines()
    assert lines[0] == "[3 of them] worth a look?[31m"
    assert lines[1].startswith("step 60/200  epoch 0.6 of 2  loss 3.333  norm 12 (worst 1234)  rate 1.00e-03  160x224")
    assert lines[1].endswith("waiting for data 25%  2 skipped  4 images/s, 5 min left")
    assert [line for line in lines if "validation" in line] == [
        "step 100  validation  maxF 0.5000  MAE 0.2500  HCE -",
        "step 150  validation  maxF 0.5000  MAE 0.2500  HCE -",
        "step 200  validation  maxF 0.5000  MAE 0.2500  HCE -  best so far",
    ]


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}])
def test_a_file_gets_a_plain_line_now_and_then(run: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-W", "error", "-c", RUN, str(run), "600"]
    environment = {**os.environ, **variables}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout == ""
    check_plain(shown.stderr)
    assert len(shown.stderr.splitlines()) == 6  # note, first line, last line, three validations
    always = subprocess.run([*command[:-1], "0"], capture_output=True, text=True, check=True, env=environment)
    lines = always.stderr.splitlines()
    assert lines[:3] == [f"looking at the photos: {done} of 3" for done in (1, 2, 3)]
    check_plain("\n".join(lines[3:]))
    assert len(lines) == 3 + 1 + 15 + 3
    assert sum("no usable step" in line for line in lines) == 2


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(run: Path) -> None:
    terminal = Terminal(RUN, str(run), "600", term="dumb")
    check_plain(terminal.finish().replace("\r", ""))
    assert terminal.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_the_terminal_with_a_cursor(number: int) -> None:
    terminal = Terminal(STOPPED)
    terminal.read_until("ready")
    terminal.process.send_signal(number)
    shown = terminal.finish()
    assert terminal.process.returncode == 0
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert plain(shown).rstrip().endswith("stopped")
    assert "Traceback" not in shown


def test_the_usual_effect_of_sigterm_comes_back() -> None:
    code = (
        "import signal; from birefnet.cli.train_progress import TrainProgress\n"
        "with TrainProgress(): pass\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "True\n"
