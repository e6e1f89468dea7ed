"""The log of a run: one JSON object a line, and the same figures for TensorBoard.

A line is of one of three kinds. What was trained since the last such line has the loss and its terms, the speed and
where the time went; a validation has the key `val` with the measures; an event (`started`, `resumed`, or what the
training program adds) has the key `event`. All have the `step` they stand at. Nothing here imports torch before
TensorBoard is to be written, so that the log of a run can be read and drawn where torch is not installed.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from birefnet._atomic import write_whole
from birefnet._extras import require
from birefnet.errors import DataError, MissingExtraError, OutputError
from birefnet.metrics.scorer import LOWER_IS_BETTER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"

Line = dict[str, Any]
"""A line of the log."""

# Where TensorBoard shows the figures of a training line; all others are losses. Those of no use there have no place.
_PLACES = {
    "step": None,
    "steps": None,
    "samples": None,
    "seconds": None,
    "best": None,
    "epoch": "schedule/epoch",
    "rate": "schedule/rate",
    "height": "schedule/height",
    "width": "schedule/width",
    "norm": "gradient/norm",
    "worst_norm": "gradient/worst_norm",
    "skipped": "gradient/skipped",
    "images_per_second": "speed/images_per_second",
}


NO_LOSSES = frozenset([*_PLACES, "size", "share_of_time"])
"""Figures of a training line; any other number in it is a term of the loss."""


class Log:
    """The log of a run: JSON lines, each written out at once, and scalars and pictures for TensorBoard.

    To be used as a context manager. It belongs to one process: with several, to the first.

    Args:
        run: folder of the run, which must be there.
        report: called with every line after it was written.
        resumed_at: step of the checkpoint that the run goes on from. Lines of later steps, which will be taken again,
            are cut off first, so that the log tells one story. None for a run that starts: an older log is emptied.
        tensorboard: write for TensorBoard: True, False, or None for "if it is installed".
        note: told why nothing is written for TensorBoard, where that was left to what is installed.

    Raises:
        DataError: the log of the run that is resumed is damaged.
        OutputError: the log cannot be written.
        MissingExtraError: TensorBoard is demanded and not installed.
    """

    def __init__(
        self,
        run: Path,
        *,
        report: Callable[[Line], None] = lambda _: None,
        resumed_at: int | None = None,
        tensorboard: bool | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path = run / LOG
        self._report = report
        # Before the log is touched: a demand that cannot be met should leave everything as it is.
        self._writer = _open_tensorboard(run / TENSORBOARD, resumed_at, tensorboard, note)
        cut_log(self._path, resumed_at)
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append({"step": resumed_at or 0, "event": "started" if resumed_at is None else "resumed", "at": now})

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, line: Line) -> None:
        """Write a line, for TensorBoard too, and report it. Numbers that are not finite become null.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more.
        """
        line = _plain(line)
        self._append(line)
        try:
            self._add_scalars(line)
        except OSError as error:
            raise self._refused(error) from error
        self._report(line)

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Show pictures, uint8 (H, W, 3) by name, in TensorBoard; without it, do nothing.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more.
        """
        if self._writer is None:
            return
        try:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step, dataformats="HWC")
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        self._file.close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError as error:
                raise self._refused(error) from error

    def _add_scalars(self, line: Line) -> None:
        if self._writer is None:
            return
        # All figures of a line in one record: `add_scalar`, which makes one for each, takes four times as long.
        proto = require("tensorboard.compat.proto.summary_pb2", extra="train")
        values = [
            proto.Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line) if math.isfinite(value)
        ]
        if values:
            writer: Any = self._writer.file_writer
            writer.add_summary(proto.Summary(value=values), line["step"])
            if "val" in line:  # rare, and what people wait for
                writer.flush()

    def _append(self, line: Line) -> None:
        rest = memoryview((json.dumps(line, allow_nan=False) + "\n").encode())
        size = self._path.stat().st_size
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(size)  # no part of a line, which the next one would be glued to
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self._path.parent}: the log cannot be written ({error.strerror or error})")


def read_log(path: Path) -> list[Line]:
    """Read the lines of a log; the last one may be torn, as where the program was killed, and is then left out.

    Args:
        path: the file or the folder of the run.

    Returns:
        The lines in order; none where there is no such file.

    Raises:
        DataError: the file cannot be read, or another line than the last is damaged.
    """
    path = path / LOG if path.is_dir() else path
    return [line for line, _ in _lines(path)]


def training_lines(lines: Iterable[Line]) -> list[Line]:
    """Those lines that tell of training steps."""
    return [line for line in lines if "val" not in line and "event" not in line]


def validation_lines(lines: Iterable[Line]) -> list[Line]:
    """Those lines that tell of validations, the last one of each step."""
    return list({line["step"]: line for line in lines if "val" in line}.values())


def flattened(values: Mapping[str, Any]) -> dict[str, float]:
    """Measures by name; those of several sets, {set: {measure: value}}, as "set/measure"."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{part}": number for part, number in flattened(value).items()}
        elif isinstance(value, int | float) or value is None:
            flat[name] = math.nan if value is None else value
    return flat


def is_lower_better(name: str) -> bool:
    """Whether a measure of a validation is an error, by its name, which may have the name of a set before it."""
    measure = name.rpartition("/")[2].lower()
    return "loss" in measure or measure in {each.lower() for each in LOWER_IS_BETTER}


def duration(seconds: float) -> str:
    """Write how long a run took, or will take, as a person would."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours / 24:.1f} days"


def cut_log(path: Path, step: int | None) -> None:
    """Cut off, whole or not at all, the lines that stand after a step, and a last line that is torn.

    Args:
        path: the file, which need not be there.
        step: the last step to keep; None to keep nothing.

    Raises:
        DataError: the file cannot be read, or another line than the last is damaged.
        OutputError: the file cannot be written.
    """
    if not path.exists():
        return
    kept = b""
    if step is not None:
        kept = b"".join(text for line, text in _lines(path) if line.get("step", 0) <= step)
    if len(kept) != path.stat().st_size:
        write_whole(path, kept)


def _lines(path: Path) -> Iterator[tuple[Line, bytes]]:
    """Parsed lines, each with its bytes."""
    try:
        texts = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and text.endswith(b"\n"):
            yield line, text
        elif number < len(texts):
            raise DataError(f"{path}: line {number} is damaged: remove that line")


def _open_tensorboard(
    folder: Path, resumed_at: int | None, wanted: bool | None, note: Callable[[str], None]
) -> "SummaryWriter | None":
    if wanted is False:
        return None
    try:
        require("tensorboard", extra="train")
    except MissingExtraError as error:
        if wanted:
            raise
        note(f"nothing is written for TensorBoard: {error}")
        return None
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard hides what older files in the folder hold from this step on.
    purge = 0 if resumed_at is None else resumed_at + 1
    try:
        return SummaryWriter(str(folder), purge_step=purge)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _scalars(line: Line) -> Iterator[tuple[str, float]]:
    """Figures of a line with the names TensorBoard shows them under; the part before the slash groups them."""
    if "event" in line:
        return
    if "val" in line:
        yield from flattened({"val": line["val"]}).items()
        return
    for name, value in line.items():
        if name == "size":
            yield from zip(("schedule/height", "schedule/width"), value, strict=True)
        elif isinstance(value, dict):
            yield from flattened({name: value}).items()
        elif isinstance(value, int | float) and (tag := _PLACES.get(name, f"loss/{name}")):
            yield tag, value


def _plain(value: Any) -> Any:
    """Make values that JSON has: single numbers out of tensors and arrays, None out of NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
