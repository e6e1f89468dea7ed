"""What is summed up for a line of the log: losses, speed, and where the time went."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from birefnet.training.log import Line

_DIGITS = 6


class Clock:
    """Seconds between marks, added up by name.

    On CUDA a mark only tells how long it took to queue the work: the time itself shows at the next mark at which the
    program waits for the device, such as where the gradient's norm is read.

    Attributes:
        laps: name -> seconds.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last mark to a name, which may come several times a step."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


class Interval:
    """Figures of the steps since the last line of the log.

    Losses stay on the device, where reading them would wait for all queued work, until the line is written.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._worst_norm: Tensor | None = None
        self._seconds: dict[str, float] = {}
        self._aside: dict[str, float] = {}
        self._usable = self._skipped = self._samples = 0
        self._size: tuple[int, int] | None = None

    def add(self, terms: Mapping[str, Tensor], norm: Tensor) -> None:
        """Take in the losses and the gradient's norm, all of shape (), of a step whose gradient was used."""
        for name, value in {**terms, "norm": norm}.items():
            known = self._sums.get(name)
            self._sums[name] = value.detach() if known is None else known + value.detach()
        norm = norm.detach()
        self._worst_norm = norm if self._worst_norm is None else self._worst_norm.maximum(norm)
        self._usable += 1

    def skip(self) -> None:
        """Count a step whose gradient was of no use."""
        self._skipped += 1

    def note(self, samples: int, size: tuple[int, int], seconds: Mapping[str, float]) -> None:
        """Take in what any step, used or skipped, cost.

        Args:
            samples: photos of the step, those of all processes together.
            size: height and width of the photos.
            seconds: laps of the step's clock; "data" is the time waited for the batch.
        """
        self._samples += samples
        self._size = size
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def aside(self, name: str, seconds: float) -> None:
        """Take in time between steps, such as that of a validation: in the shares of time, but not in the speed."""
        self._aside[name] = self._aside.get(name, 0.0) + seconds

    def summary(self, across: Callable[[Tensor], Tensor] | None = None) -> Line:
        """Means of the losses and norms, the worst norm, the speed, and where the time went.

        Args:
            across: averages a tensor of shape (K,) over all processes; called once, unless all steps were skipped.

        Returns:
            "size" as [height, width], the terms by name with "norm", "worst_norm", "skipped", "images_per_second",
            and "share_of_time" by name. What there is nothing known of is missing.
        """
        line: Line = {}
        if self._size is not None:
            line["size"] = list(self._size)
        if self._worst_norm is not None:
            # One tensor, so that the device is waited for once.
            values = torch.stack([value.float() for value in self._sums.values()]) / self._usable
            values = torch.cat([values if across is None else across(values), self._worst_norm.float().view(1)])
            line |= {
                name: _rounded(value) for name, value in zip((*self._sums, "worst_norm"), values.tolist(), strict=True)
            }
        line["skipped"] = self._skipped
        training = sum(self._seconds.values())
        if training > 0:
            line["images_per_second"] = _rounded(self._samples / training)
        elapsed = training + sum(self._aside.values())
        if elapsed > 0:
            line["share_of_time"] = {
                name: round(value / elapsed, 4) for name, value in {**self._seconds, **self._aside}.items()
            }
        return line


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
