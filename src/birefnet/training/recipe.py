"""What a training run is to do, as data: everything that decides its outcome besides the photos themselves.

A `Recipe` is nested dataclasses of plain values. It is written into the run's folder as TOML, read from such a file,
and single fields are changed by their dotted names ("optimizer.rate=1e-4").
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birefnet._extras import require
from birefnet.config import ModelConfig, unknown_name
from birefnet.data.batches import DataRecipe, parse_sizes
from birefnet.errors import ConfigError
from birefnet.losses import LossRecipe, Resolution
from birefnet.metrics import LOWER_IS_BETTER, MEASURES, Conventions
from birefnet.training.lora import LoraRecipe
from birefnet.training.optimizer import OptimizerRecipe

PRECISIONS = ("float32", "bfloat16", "float16")

RESOLUTIONS = typing.get_args(Resolution)

Json = dict[str, Any]

NOTHING = "none"
"""What stands in a file, and is typed, for an optional field that is not set."""

# Which fields are told in a file even where they are not set, as the recipe of that name may set them.
_OPTIONAL = (("start",), ("pretrained_backbone",), ("lora",), ("data", "dynamic"))


@dataclass(frozen=True)
class ValidationRecipe:
    """How a run is measured on photos that it is not trained on.

    Attributes:
        every: epochs between two validations; 0 for one at the end alone.
        size: input size to predict at, "512" or "384x512"; "" for that of the last training stage. It becomes the
            input size of the saved weights.
        metric: the value that decides which weights are the best.
        patience: stop after so many validations in a row without a better one; 0 for never.
        measures: names in `birefnet.metrics.MEASURES`.
        truth_above: levels of the truth above it are foreground.

    Raises:
        ConfigError: a value is impossible.
    """

    every: float = 1.0
    size: str = ""
    metric: str = "maxF"
    patience: int = 0
    measures: tuple[str, ...] = ("S", "MAE", "E", "F", "wF", "mBA")
    truth_above: int = Conventions().truth_above

    def __post_init__(self) -> None:
        if not (self.every >= 0 and math.isfinite(self.every)) or self.patience < 0:
            raise ConfigError("validation.every and validation.patience must be 0 or more")
        for name in self.measures:
            if name not in MEASURES:
                raise unknown_name("measure", name, MEASURES)
        values = [value for name in self.measures for value in MEASURES[name].names]
        if self.metric not in (*values, "loss"):
            raise unknown_name("validation metric", self.metric, [*values, "loss"])
        if self.size:
            parse_sizes(self.size)

    @property
    def better_is(self) -> int:
        """1 where a greater value of the metric is better, else -1."""
        return -1 if self.metric == "loss" or self.metric in LOWER_IS_BETTER else 1


@dataclass(frozen=True)
class MemoryRecipe:
    """What is done to need less memory or time; beside rounding nothing of it changes what is learnt.

    Attributes:
        accumulate: parts that a batch is worked off in, one after the other; batch norm, where it trains, sees a part
            only.
        checkpoint: compute activations again on the way back instead of keeping them.
        compile: let torch.compile make kernels, where it can.
        channels_last: keep maps in the order of memory that convolutions are fastest with.

    Raises:
        ConfigError: a value is impossible.
    """

    accumulate: int = 1
    checkpoint: bool = False
    compile: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ConfigError(f"memory.accumulate must be 1 or more, not {self.accumulate}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, besides the photos.

    Attributes:
        name: which function of `birefnet.training.recipes` it comes from.
        model: the network.
        start: weights to start from (a name, repository or file, as for `birefnet cutout --model`), None for random.
        pretrained_backbone: weights of the backbone alone to start from: "hub" for those published, or a file.
        epochs: how often each photo is seen.
        samples: in place of `epochs`, how many photos are seen in all.
        data: batches, sizes and random changes.
        loss: weights of the losses, by epoch.
        compare_at: resolution at which coarse masks meet the truth, see `birefnet.losses.pixel_losses`.
        reference_defects: reproduce the errors of the reference's losses.
        optimizer: learning rate and what goes with it.
        precision: "float32", or "bfloat16" or "float16" for autocast.
        memory: what is done to need less memory or time.
        freeze: parts that are not trained, see `birefnet.training.savings.freeze`.
        lora: train low-rank adapters in place of the backbone's own weights.
        validation: how the run is measured.
        seed: of initial weights, the order of photos and all random changes.

    Raises:
        ConfigError: a value or combination is impossible.
    """

    name: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    start: str | None = None
    pretrained_backbone: str | None = None
    epochs: float | None = None
    samples: int | None = None
    data: DataRecipe = field(default_factory=DataRecipe)
    loss: LossRecipe = field(default_factory=lambda: LossRecipe("DIS5K"))
    compare_at: Resolution = "target"
    reference_defects: bool = False
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    precision: str = "float32"
    memory: MemoryRecipe = field(default_factory=MemoryRecipe)
    freeze: tuple[str, ...] = ()
    lora: LoraRecipe | None = None
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = [value for value in (self.epochs, self.samples) if value is not None]
        if len(lengths) != 1 or not (lengths[0] > 0 and math.isfinite(lengths[0])):
            raise ConfigError("a recipe is either of so many epochs or of so many samples, more than 0")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.compare_at not in RESOLUTIONS:
            raise unknown_name("compare_at", self.compare_at, RESOLUTIONS)
        if self.data.batch % self.memory.accumulate:
            raise ConfigError(
                f"a batch of {self.data.batch} cannot be parted in {self.memory.accumulate} (memory.accumulate)"
            )
        if self.start is not None and self.pretrained_backbone is not None:
            raise ConfigError("weights to start from hold a backbone: leave out start or pretrained_backbone")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")

    def samples_of(self, photos: int) -> int:
        """How many photos are seen in all, each time counted, where the set holds so many."""
        if self.samples is not None:
            return self.samples
        assert self.epochs is not None
        return max(1, round(self.epochs * photos))

    def epochs_of(self, photos: int) -> int:
        """How many epochs are begun where the set holds so many photos."""
        return math.ceil(self.samples_of(photos) / photos)

    def to_dict(self) -> Json:
        """Return all fields as plain JSON values; those that are None are left out."""
        plain: Json = _without_none(json.loads(json.dumps(dataclasses.asdict(self))))
        return plain

    def to_toml(self) -> str:
        """Write all fields as TOML, which gives the same recipe whatever the recipe of its name sets.

        Raises:
            MissingExtraError: tomli-w is not installed.
        """
        values = self.to_dict()
        for *sections, last in _OPTIONAL:
            target = values
            for section in sections:
                target = target[section]
            target.setdefault(last, NOTHING)
        # TOML has single values before sections.
        ordered = dict(sorted(values.items(), key=lambda item: isinstance(item[1], dict)))
        text: str = require("tomli_w", extra="train").dumps(ordered)
        return text

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Build from nested mappings; missing fields keep their defaults.

        Raises:
            ConfigError: a field is unknown, of the wrong kind, or its value impossible.
        """
        recipe = _build(cls, values, "")
        assert isinstance(recipe, cls)
        return recipe


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Change fields of a recipe by their dotted names; None, or in an optional field "none", puts it back to nothing.

    Raises:
        ConfigError: a field is unknown or its value impossible.
    """
    values = recipe.to_dict()
    lengths = [name for name in ("epochs", "samples") if changes.get(name) not in (None, NOTHING)]
    if len(lengths) == 1:  # the one that is asked for takes the place of the other
        values.pop("epochs", None)
        values.pop("samples", None)
    for name, value in changes.items():
        *sections, last = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if target == NOTHING or not isinstance(target, dict):
                raise ConfigError(f"{name}: {section} has no fields")
        if value is None:
            target.pop(last, None)
        elif isinstance(value, Mapping) and isinstance(target.get(last), dict):
            target[last] = _merged(target[last], value)
        else:
            target[last] = value
    return Recipe.from_dict(values)


def parse_changes(settings: Iterable[str]) -> Json:
    """Read changes written as "a.b=value", the value as in TOML; what is no TOML is a text.

    Raises:
        ConfigError: one is not of that form.
    """
    changes: Json = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"a change is written as name=value, such as optimizer.rate=1e-4, not {setting!r}")
        changes[name.strip()] = _value(text.strip())
    return changes


def read_file(path: Path) -> Json:
    """Read the fields of a recipe from a TOML file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe in TOML ({error})") from error


def differences(first: Json, second: Json, above: str = "") -> list[str]:
    """Tell in what two recipes (as of `to_dict`) differ, as "a.b: 1 -> 2"."""
    found = []
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += differences(one, two, f"{above}{name}.")
        elif one != two:
            found.append(f"{above}{name}: {'none' if one is None else one} -> {'none' if two is None else two}")
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(old: Json, new: Mapping[str, Any]) -> Json:
    merged = dict(old)
    for name, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return value


def _build(cls: type, values: Any, above: str) -> Any:
    """Build a dataclass of plain values, naming the field in every message."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{above.rstrip('.')}: takes fields, not {values!r}")
    if cls is ModelConfig:
        # Its other fields that may be "none" mean a kind of part by it.
        return ModelConfig.from_dict({name: value for name, value in values.items() if (name, value) != _NO_REFINER})
    hints = typing.get_type_hints(cls)
    names = {item.name for item in dataclasses.fields(cls)}
    for name in values:
        if name not in names:
            raise unknown_name(f"setting {above.rstrip('.')}".strip(), name, names)
    try:
        return cls(**{name: _cast(hints[name], value, f"{above}{name}") for name, value in values.items()})
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(f"{above.rstrip('.')}: {error}") from error


def _cast(kind: Any, value: Any, name: str) -> Any:
    """Bring a plain value to a field's type, or say that it is of another kind."""
    if typing.get_origin(kind) is typing.Literal:
        kind = str
    if isinstance(kind, types.UnionType):
        if value == NOTHING:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _build(kind, value, f"{name}.")
    if typing.get_origin(kind) is tuple:
        return _cast_tuple(typing.get_args(kind), value, name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or isinstance(value, float)):
        return float(value)
    if (kind is int and whole) or (kind is bool and isinstance(value, bool)):
        return value
    if kind is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)  # "--set data.sizes=512" is a number to TOML
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    raise ConfigError(f"{name}: takes {_KINDS.get(kind, kind)}, not {value!r}")


def _cast_tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_cast(kinds[0], item, name) for item in items)
    if len(items) != len(kinds):
        raise ConfigError(f"{name}: takes {len(kinds)} values, not {value!r}")
    return tuple(_cast(kind, item, name) for kind, item in zip(kinds, items, strict=True))


_NO_REFINER = ("refiner", NOTHING)
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
