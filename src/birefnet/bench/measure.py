"""Time models in turns, so that whatever else the machine does hits both of a pair."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from birefnet.bench.case import FILES, Case, Group
from birefnet.bench.process import Process, WorkerError
from birefnet.bench.product import TYPES


@dataclass
class Row:
    """What was measured of a case. What is not known is None.

    Attributes:
        case: what was asked for.
        against: name of the case it was compared with, None for that one itself.
        engine: the engine that was chosen.
        precision: what it computes in.
        size: (height, width) of the input.
        load: seconds from the name to a model that is ready.
        first: seconds of the first run at this size, after one at another size.
        seconds: of each later run.
        ratios: of each pair, this case's seconds over those of the one it is compared with.
        products: operations a second of a large matrix product beside each run.
        peak: the most memory the whole process has held, in bytes.
        macs: multiplications of one image, counted on the network as it was trained.
        notes: lines for a person.
        error: why there is no more, in one line.
    """

    case: Case
    against: str | None = None
    engine: str | None = None
    precision: str | None = None
    size: tuple[int, int] | None = None
    load: float | None = None
    first: float | None = None
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    peak: int | None = None
    macs: int | None = None
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def median(self) -> float | None:
        """Median of the seconds of a run."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def images_per_second(self) -> float | None:
        """Images a second, by the median."""
        return None if self.median is None else self.case.batch / self.median

    @property
    def ratio(self) -> float | None:
        """Median of the pairs' ratios: below 1 is faster than what it is compared with."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def first_ratio(self) -> float | None:
        """The first run's seconds over the median."""
        return None if self.first is None or self.median is None else self.first / self.median

    @property
    def product(self) -> float | None:
        """Operations a second of the matrix product, the median."""
        return statistics.median(self.products) if self.products else None

    @property
    def efficiency(self) -> float | None:
        """Operations a second of the network over those of the product beside each run, the median."""
        if self.macs is None or not self.products:
            return None
        work = 2 * self.macs * self.case.batch
        pairs = zip(self.seconds, self.products, strict=False)
        return statistics.median(work / seconds / product for seconds, product in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        facts = ("against", "engine", "precision", "load", "first", "seconds", "ratios", "products", "peak", "macs")
        found = ("median", "images_per_second", "ratio", "first_ratio", "product", "efficiency")
        return {
            "case": self.case.to_dict(),
            "size": None if self.size is None else list(self.size),
            **{name: getattr(self, name) for name in (*facts, *found, "notes", "error")},
        }


class Bench:
    """Measures groups of cases, each case in a process of its own.

    Attributes:
        rows: what is known so far, also while `run` goes on, and after it was interrupted.
    """

    def __init__(self, groups: Sequence[Group], runs: int) -> None:
        self.rows: list[Row] = []
        self._groups = groups
        self._runs = runs
        self._files: dict[tuple[str, str], str | WorkerError] = {}
        self._macs: dict[tuple[str, tuple[int, int]], int | None] = {}

    def run(self) -> Iterator[Row]:
        """Measure, and give each row as it is finished.

        The first case of a group takes turns with each of the others, one pair after the other; its own row is finished
        last, but stands first in `rows`. What goes wrong with a case is told in its row, and the others go on.
        """
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="birefnet-bench-")))
            threads = {case.threads for group in self._groups for case in (group.reference, *group.others)}
            # A process beside those that are measured, which counts and multiplies matrices.
            self._beside = stack.enter_context(Process(threads.pop() if len(threads) == 1 else None))
            for group in self._groups:
                yield from self._measure(group)

    def _measure(self, group: Group) -> Iterator[Row]:
        reference = Row(group.reference)
        others = [Row(case, against=group.reference.name) for case in group.others]
        self.rows += [reference, *others]
        with Process() as process:
            self._start(process, reference)
            if not others and reference.error is None:
                self._take_turns([(process, reference)])
            for row in others:
                with Process() as other:
                    self._start(other, row)
                    turns = [pair for pair in ((process, reference), (other, row)) if pair[1].error is None]
                    if row.error is None:
                        self._take_turns(turns)
                yield row
            if others and not reference.seconds and reference.error is None:
                self._take_turns([(process, reference)])  # all the others have failed
        yield reference

    def _start(self, process: Process, row: Row) -> None:
        """Load a case and run it once; its error goes into its row."""
        try:
            file = weights = self._weights(row.case)
            if row.case.needs_export:
                file = self._file(weights, FILES[row.case.engine], row.case.accept_licence)
                row.notes.append(f"exported for {row.case.engine} by birefnet, into a temporary folder")
            loaded = process.ask("load", case=replace(row.case, model=file).to_dict())
            row.engine, row.precision, row.load = loaded["engine"], loaded["precision"], loaded["seconds"]
            row.size = (loaded["size"][0], loaded["size"][1])
            row.notes += loaded["notes"]
            row.macs = self._count(weights, row.size, row.case.accept_licence)
            answer = process.ask("run")
            row.first, row.peak = answer["seconds"], answer["peak"]
        except WorkerError as error:
            row.error = str(error)

    def _take_turns(self, pair: list[tuple[Process, Row]]) -> None:
        """Run one or two cases; where one of them fails, the other goes on alone."""
        for _ in range(self._runs):
            taken = []
            for process, row in pair:
                if row.error is not None:
                    continue
                speed = self._multiply(row)
                try:
                    answer = process.ask("run")
                except WorkerError as error:
                    row.error = str(error)
                    continue
                row.seconds.append(answer["seconds"])
                row.peak = answer["peak"]
                if speed is not None:
                    row.products.append(speed)
                taken.append(answer["seconds"])
            if len(taken) == 2:
                pair[1][1].ratios.append(taken[1] / taken[0])

    def _weights(self, case: Case) -> str:
        """Give what holds a case's weights: a file where they are drawn, else the model as it was named."""
        return self._file(case.model, ".safetensors", False) if case.is_random else case.model

    def _file(self, model: str, suffix: str, accept_licence: bool) -> str:
        """Give a file of a model in a format; it is written, in a process of its own, when it is first asked for.

        Raises:
            WorkerError: it cannot be.
        """
        if (model, suffix) not in self._files:
            path = str(self._folder / f"{len(self._files)}{suffix}")
            with Process() as process:
                try:
                    process.ask("write", model=model, path=path, accept_licence=accept_licence)
                    self._files[model, suffix] = path
                except WorkerError as error:
                    self._files[model, suffix] = error
        found = self._files[model, suffix]
        if isinstance(found, WorkerError):
            raise WorkerError(str(found))
        return found

    def _count(self, model: str, size: tuple[int, int], accept_licence: bool) -> int | None:
        """Multiplications of a model's image; None where there is no network to count, or no torch."""
        if (model, size) not in self._macs:
            try:
                answer = self._beside.ask("count", model=model, size=list(size), accept_licence=accept_licence)
                self._macs[model, size] = answer["macs"]
            except WorkerError:
                self._macs[model, size] = None
        return self._macs[model, size]

    def _multiply(self, row: Row) -> float | None:
        """Operations a second of a matrix product of a row's type; None where there is none of the kind."""
        if row.precision not in TYPES:
            return None
        try:
            answer = self._beside.ask("multiply", precision=row.precision)
        except WorkerError as error:
            note = f"no matrix product beside it ({error})"
            if note not in row.notes:
                row.notes.append(note)
            return None
        speed: float = answer["flops"] / answer["seconds"]
        return speed
