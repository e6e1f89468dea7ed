"""The log of a run: one JSON object a line, and the figures that go into it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, maximum

from birefnet.errors import OutputError


class Clock:
    """Seconds between marks. On a GPU the work is only queued, so the figures mean little there."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Give the time since the last mark a name."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


class Interval:
    """Figures of the steps since the last line of the log, read from the device only when the line is written."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._seconds: dict[str, float] = {}
        self._usable = self._samples = self._size = 0
        self._worst_norm: Tensor | None = None
        self._started = time.perf_counter()

    def add(self, terms: dict[str, Tensor], norm: Tensor) -> None:
        """Take in the losses and the gradient's norm of a usable step."""
        for name, value in {**terms, "norm": norm}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._worst_norm = norm if self._worst_norm is None else maximum(self._worst_norm, norm)
        self._usable += 1

    def note(self, samples: int, size: int, seconds: dict[str, float]) -> None:
        """Take in what any step, usable or not, cost."""
        self._samples += samples
        self._size = size
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def summary(self) -> dict[str, Any]:
        """Means of the losses, the worst norm, the speed, and where the time went."""
        means = {name: float(value) / self._usable for name, value in self._sums.items()}
        elapsed = time.perf_counter() - self._started
        line: dict[str, Any] = {"size": self._size}
        line |= {name: round(value, 5) for name, value in means.items()}
        if self._worst_norm is not None:
            line["worst_norm"] = round(float(self._worst_norm), 3)
        line["images_per_second"] = round(self._samples / elapsed, 2)
        line["share_of_time"] = {k: round(v / elapsed, 3) for k, v in self._seconds.items()}
        return line


class Log:
    """JSON lines, each written out at once; a resumed run appends."""

    def __init__(self, path: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Write a line, and show it."""
        self._file.write(json.dumps(line) + "\n")
        self._report(line)
