"""How a training run goes: a live display on a terminal, a plain line now and then anywhere else."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from birefnet.cli.progress import progress_columns
from birefnet.training.log import NO_LOSSES, Line, duration, flattened, validation_lines

# Drawing takes 2 to 9 milliseconds of one core, which the training misses.
_REFRESHES_A_SECOND = 1

_PLAIN_SECONDS = 30.0

# Share of a new figure in the smoothed one; what was ten lines ago counts for 3%.
_NEW = 0.3

_COLUMN = 10


class TrainProgress:
    """Shows the lines of a run's log. To be used as a context manager; no other progress may be shown in it.

    On a terminal, validations and notes scroll by, and below them a display is kept up to date until the end. Where
    standard error is no terminal, there is a line for every validation and note, and one for the training at most
    every half minute, without control characters.

    SIGTERM has the effect of Ctrl-C while it is shown, so that the terminal gets its cursor back.

    Args:
        metric: the measure that decides which weights are best, shown first.
        seconds: least time between two plain lines on the training.
    """

    def __init__(self, metric: str = "", seconds: float = _PLAIN_SECONDS) -> None:
        self._metric = metric
        self._seconds = seconds
        self._said = -math.inf
        self._line: Line = {}
        self._smooth: dict[str, float] = {}
        self._last: Line | None = None
        self._best: Line | None = None
        self._sigterm: Any = None
        console = Console(stderr=True)
        self._bar = Progress(*progress_columns()[:3], console=console)
        self._steps = self._bar.add_task("", total=None)
        self._work = Progress(*progress_columns(), console=console)
        self._live: Live | None = None
        # Not the console's own opinion: a variable such as FORCE_COLOR makes it take a file for a terminal.
        if sys.stderr.isatty() and not console.is_dumb_terminal:
            self._live = Live(console=console, refresh_per_second=_REFRESHES_A_SECOND, get_renderable=self._display)

    def __enter__(self) -> "TrainProgress":
        if threading.current_thread() is threading.main_thread():
            self._sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
            self._sigterm = None

    def recall(self, lines: Iterable[Line]) -> None:
        """Take the log of a run that is resumed, for its last and best validation, without showing each."""
        for line in validation_lines(lines):
            self._last = line
            self._best = line if line.get("best") else self._best

    def report(self, line: Line) -> None:
        """Take a line of the log."""
        if "event" in line:
            return
        if "val" in line:
            self._last = line
            if line.get("best"):
                self._best = line
            self.note(_validation(line, self._metric))
            return
        self._line = line
        # In place of the old ones at once: another thread may be drawing them.
        self._smooth = self._smooth | {
            name: self._smooth.get(name, value) * (1 - _NEW) + value * _NEW
            for name, value in line.items()
            if isinstance(value, int | float) and (name not in NO_LOSSES or name == "images_per_second")
        }
        self.tick(line["step"])
        now = time.monotonic()
        if self._live is None and (now - self._said >= self._seconds or line["step"] == line.get("steps")):
            self._said = now
            self.note(self._training())

    def tick(self, step: int) -> None:
        """Move the bar, between the lines of the log; costs microseconds."""
        self._bar.update(self._steps, completed=step, total=self._line.get("steps"))

    def note(self, text: str) -> None:
        """Print lines above the display."""
        text = "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)
        if self._live:
            # A text of its own, as brackets and numbers in what is said are no markup.
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            click.echo(text, err=True)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a second bar for something long that is done before or between steps, such as a validation.

        Args:
            title: what is done.
            total: number of its parts.

        Yields:
            What to call after each part.
        """
        task = self._work.add_task(title, total=total)
        done, said = 0, time.monotonic()

        def advance() -> None:
            nonlocal done, said
            done += 1
            self._work.advance(task)
            if self._live is None and time.monotonic() - said >= self._seconds:
                said = time.monotonic()
                self.note(f"{title}: {done:,} of {total:,}")

        if self._live:
            self._live.refresh()  # at once, not up to a second later
        try:
            yield advance
        finally:
            self._work.remove_task(task)

    def _display(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._work.tasks:
            parts.append(self._work)
        if self._line:
            self._bar.update(self._steps, description=_epoch(self._line))
            parts += [_row(self._bar, Text(self._pace(), "progress.data.speed")), self._losses(), self._state()]
        if self._last:
            parts.append(self._validations())
        return Group(*parts)

    def _losses(self) -> Text:
        text = Text(overflow="ellipsis", no_wrap=True)
        losses = {name: value for name, value in self._smooth.items() if name != "images_per_second"}
        for name in sorted(losses, key=lambda name: name != "loss"):  # the sum first, its terms as they come
            text.append(f"{name} ").append(f"{losses[name]:.4g}   ", style="bold" if name == "loss" else "cyan")
        return text

    def _state(self) -> Text:
        """What is known of the last interval besides the losses."""
        return Text("   ".join(_state(self._line)), style="dim", overflow="ellipsis", no_wrap=True)

    def _pace(self) -> str:
        speed = self._smooth.get("images_per_second")
        if not speed:
            return ""
        left = _seconds_left(self._line, speed)
        return f"{speed:.3g} images/s" + (f", {duration(left)} left" if left else "")

    def _validations(self) -> Table:
        """The last and the best validation below one another, as many measures as there is room for."""
        assert self._last is not None
        table = Table.grid(padding=(0, 2))
        room = max(1, ((self._live.console.width if self._live else 80) - 22) // _COLUMN)
        names = _ordered(flattened(self._last["val"]), self._metric)[:room]
        for _ in range(2 + len(names)):
            table.add_column(justify="right", no_wrap=True)
        table.add_row("", "step", *names, style="dim")
        for title, line in (("last", self._last), ("best", self._best)):
            if line is not None:
                values = flattened(line["val"])
                style = "green" if title == "best" else ""
                table.add_row(title, f"{line['step']:,}", *(_figure(values.get(name)) for name in names), style=style)
        return table

    def _training(self) -> str:
        line = self._line
        losses = [f"loss {line['loss']:.4g}"] if line.get("loss") is not None else ["no usable step"]
        place = f"step {line['step']:,}" + (f"/{line['steps']:,}" if "steps" in line else "")
        return "  ".join(part for part in (place, _epoch(line), *losses, *_state(line), self._pace()) if part)


def _row(left: RenderableType, right: RenderableType) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(left, right)
    return table


def _epoch(line: Line) -> str:
    """How many epochs are done, of how many that follows from the steps."""
    if "epoch" not in line:
        return ""
    whole = line["epoch"] * line["steps"] / line["step"] if line.get("steps") and line["step"] else 0.0
    return f"epoch {line['epoch']:.3g}" + (f" of {whole:.3g}" if whole else "")


def _state(line: Line) -> list[str]:
    parts = []
    if line.get("norm") is not None:
        worst = f" (worst {line['worst_norm']:.4g})" if line.get("worst_norm") is not None else ""
        parts.append(f"norm {line['norm']:.4g}{worst}")
    if line.get("rate") is not None:
        parts.append(f"rate {line['rate']:.2e}")
    if line.get("size"):
        parts.append(f"{line['size'][0]}x{line['size'][1]}")
    if "data" in line.get("share_of_time", {}):
        parts.append(f"waiting for data {line['share_of_time']['data']:.0%}")
    if line.get("skipped"):
        parts.append(f"{line['skipped']} skipped")
    return parts


def _validation(line: Line, metric: str) -> str:
    values = flattened(line["val"])
    figures = "  ".join(f"{name} {_figure(values[name])}" for name in _ordered(values, metric))
    return f"step {line['step']:,}  validation  {figures}" + ("  best so far" if line.get("best") else "")


def _ordered(values: Mapping[str, float], metric: str) -> list[str]:
    return sorted(values, key=lambda name: name.rpartition("/")[2] != metric)


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _seconds_left(line: Line, speed: float) -> float:
    """Seconds to the last step at a speed in images a second."""
    if not line.get("steps") or not line["step"] or "samples" not in line:
        return 0.0
    rest: float = (line["steps"] - line["step"]) * line["samples"] / line["step"] / speed
    return rest
