"""What every measure can do: take pairs in, merge with its like, and tell the mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

from birefnet.errors import InputError
from birefnet.metrics.bits import Mask
from birefnet.metrics.conventions import Conventions
from birefnet.metrics.pair import Curve, Image, Pair


@dataclass(frozen=True)
class Reading:
    """What a measure says about one pair: named values, and named curves over 256 thresholds."""

    values: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)


class Measure(ABC):
    """A measure that gathers sums over images, so that parts of a data set may be measured apart and merged.

    Subclasses name their values in `names` and read them off a pair in `read`; those with curves say in `best` which
    of their values is the maximum of which mean curve.
    """

    names: ClassVar[tuple[str, ...]]
    best: ClassVar[dict[str, str]] = {}

    def __init__(self, conventions: Conventions | None = None) -> None:
        self.conventions = conventions or Conventions()
        self.images = 0
        self._values: dict[str, float] = {}
        self._curves: dict[str, Curve] = {}

    @abstractmethod
    def read(self, pair: Pair) -> Reading:
        """Measure one pair and remember nothing."""

    def add(self, pair: Pair) -> dict[str, float]:
        """Take a pair in, which other measures may share, and give its own values."""
        return self.take(self.read(pair))

    def take(self, reading: Reading) -> dict[str, float]:
        """Take in what was read of a pair, and give its own values."""
        self.images += 1
        for name, value in reading.values.items():
            self._values[name] = self._values.get(name, 0.0) + value
        for name, curve in reading.curves.items():
            self._curves[name] = self._curves.get(name, 0.0) + curve
        return reading.values

    def update(self, prediction: Image, truth: Image, trimap: Mask | None = None) -> dict[str, float]:
        """Take a prediction and its truth in, as `Pair` describes them, and give their own values."""
        return self.add(Pair(prediction, truth, conventions=self.conventions, trimap=trimap))

    def compute(self) -> dict[str, float]:
        """Means over the images so far.

        A maximum over thresholds is that of the mean curve, as the field has it; under its name and "_per_image" is
        the mean of the images' own maxima.

        Raises:
            InputError: there are no images.
        """
        if self.images == 0:
            raise InputError("no images were measured: update the measure first")
        means = {name: value / self.images for name, value in self._values.items()}
        peaks = {name: float(self._curves[curve].max()) / self.images for name, curve in self.best.items()}
        return {**means, **peaks, **{f"{name}_per_image": means[name] for name in peaks}}

    def curves(self) -> dict[str, Curve]:
        """Mean curves over the thresholds 255, 254, ..., 0, by name: (256,)."""
        return {name: curve / self.images for name, curve in self._curves.items()}

    def merge(self, other: Self) -> None:
        """Take in what another measure of the same kind and conventions gathered.

        Raises:
            InputError: it is of another kind.
        """
        if type(other) is not type(self) or other.conventions != self.conventions:
            raise InputError(f"{type(self).__name__} merges only with its own kind, under the same conventions")
        self.images += other.images
        for name, value in other._values.items():
            self._values[name] = self._values.get(name, 0.0) + value
        for name, curve in other._curves.items():
            self._curves[name] = self._curves.get(name, 0.0) + curve
