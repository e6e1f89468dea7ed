"""What is measured: a model with an engine, a precision, a size and a batch; and what is compared with what."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from birefnet.config import unknown_name
from birefnet.engines.metadata import PRECISIONS
from birefnet.errors import ConfigError
from birefnet.loading import ENGINES
from birefnet.models import BUNDLED

RANDOM = "random:"
"""Before the name of a backbone or of a published model: the same network with drawn weights, so nothing is fetched."""

FILES = {"onnx": ".onnx", "openvino": ".xml"}
"""Engine -> suffix of the files it runs; a network that is not such a file has to be exported first."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        model: what `birefnet.load` takes, or `random:` and the name of a backbone or of a published model.
        engine: one of `birefnet.loading.ENGINES`.
        precision: one of `birefnet.engines.metadata.PRECISIONS`.
        size: (height, width) of the network's input, None for what the weights were trained for.
        batch: images in a run.
        threads: for the network's arithmetic, None for what the engine chooses.
        accept_licence: use weights that are for non-commercial use only.
    """

    model: str
    engine: str = "auto"
    precision: str = "auto"
    size: tuple[int, int] | None = None
    batch: int = 1
    threads: int | None = None
    accept_licence: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch}: must be a whole number from 1 on")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads {self.threads}: must be a whole number from 1 on")

    @property
    def is_random(self) -> bool:
        """Whether its weights are to be drawn."""
        return self.model.startswith(RANDOM)

    @property
    def needs_export(self) -> bool:
        """Whether the engine runs files only, and the model is none of its own."""
        if self.engine not in FILES or Path(self.model).suffix.lower() in FILES.values():
            return False
        return not (self.engine == "onnx" and self.model in BUNDLED)

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"{self.model} {self.engine}:{self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "size": None if self.size is None else list(self.size)}


@dataclass(frozen=True)
class Group:
    """Cases of one model, size and batch, which take turns with the first of them.

    Attributes:
        reference: what the others are compared with.
        others: the rest, in the order they were asked for.
    """

    reference: Case
    others: tuple[Case, ...] = ()


def plan(
    models: Sequence[str],
    *,
    engines: Sequence[str] = ("auto",),
    precisions: Sequence[str] = ("auto",),
    sizes: Sequence[tuple[int, int] | None] = (None,),
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    against: str | None = None,
    accept_licence: bool = False,
) -> list[Group]:
    """Combine everything with everything, and put together what is compared.

    Args:
        models: see `Case.model`.
        engines: names of engines.
        precisions: names of precisions.
        sizes: sizes of the input, None for that of the weights.
        batches: numbers of images in a run.
        threads: see `Case.threads`.
        against: "ENGINE" or "ENGINE:PRECISION" that all are compared with; by default the first of them is.
        accept_licence: use weights that are for non-commercial use only.

    Raises:
        ConfigError: there is no such engine or precision, or a number is impossible.
    """
    groups = []
    for model, size, batch in product(models, sizes, batches):
        plain = Case(model, size=size, batch=batch, threads=threads, accept_licence=accept_licence)
        cases = [replace(plain, engine=engine, precision=form) for engine, form in product(engines, precisions)]
        if against is not None:
            engine, _, form = against.partition(":")
            cases.insert(0, replace(plain, engine=engine, precision=form or "auto"))
        first, *others = dict.fromkeys(cases)
        groups.append(Group(first, tuple(others)))
    return groups


def parse_size(text: str) -> tuple[int, int]:
    """Read "1024" or "768x1344" as (height, width).

    Raises:
        ConfigError: it is neither.
    """
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) for side in sides):
        raise ConfigError(f"size {text!r}: write a side as 1024, or height and width as 768x1344")
    return int(sides[0]), int(sides[-1])
