"""Configuration as data: what network to build and how its input is prepared.

A `ModelConfig` travels with the weights it belongs to (as JSON), so every field has a plain JSON value.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from birefnet.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Far above what any machine can hold: larger numbers are slips or damage.
MAX_CHANNELS = 2**16
MAX_SIDE = 2**15

ATTENTIONS = ("deformable", "dilated")
RESIZES = ("pil_bilinear", "cv2_linear")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """Make the error for a name that no table holds: the nearest names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_tuple(value: object, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length


class _Json:
    """Conversion of a frozen dataclass to and from plain JSON values, refusing unknown fields."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping of field names to JSON values; missing fields keep their defaults.

        Raises:
            ConfigError: a field is unknown, or a value is impossible.
        """
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in names:
                raise unknown_name(f"{cls.__name__} field", name, names)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class ModelConfig(_Json):
    """The structure of a BiRefNet. The defaults are the published network with a Swin-L backbone.

    Attributes:
        backbone: name of the encoder's backbone, a key of `birefnet.backbones.BACKBONES`.
        attention: what the decoder blocks look around with: "deformable" (modulated deformable convolutions, the
            published network) or "dilated" (atrous spatial pyramid pooling, which exports everywhere).
        decoder_channels: inner width of the decoder blocks and of the squeeze module.
        attention_channels: width of each branch of the attention.
        inward_channels: inner width of the inward reference, whose input is the image cut into patches.
        gradient_channels: width of the gradient features of the outward reference.
        dropout: probability of zeroing an element of an attention's output in training.
    """

    backbone: str = "swin_v1_l"
    attention: str = "deformable"
    decoder_channels: int = 64
    attention_channels: int = 256
    inward_channels: int = 64
    gradient_channels: int = 16
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str):
            raise ConfigError(f"ModelConfig.backbone must be a name, not {self.backbone!r}")
        if self.attention not in ATTENTIONS:
            raise unknown_name("attention", self.attention, ATTENTIONS)
        for name in ("decoder_channels", "attention_channels", "inward_channels", "gradient_channels"):
            value = getattr(self, name)
            if not _is_whole(value) or not 1 <= value <= MAX_CHANNELS:
                raise ConfigError(f"ModelConfig.{name} must be a whole number from 1 to {MAX_CHANNELS}, not {value!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"ModelConfig.dropout must be from 0 to below 1, not {self.dropout!r}")


@dataclass(frozen=True)
class InputSpec(_Json):
    """How a photo becomes the network's input. It belongs to the weights: other preprocessing costs quality.

    Attributes:
        size: (height, width) the photo is stretched to.
        mean: per-channel mean subtracted from RGB in [0, 1].
        std: per-channel standard deviation the difference is divided by.
        resize: how sizes are changed on the way in and back. "pil_bilinear" is that of the demos and model cards:
            Pillow's antialiased bilinear, and bicubic back. "cv2_linear" is that of the paper's tables: bilinear
            without antialiasing, and bilinear with aligned corners back.
    """

    size: tuple[int, int] = (1024, 1024)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = "pil_bilinear"

    def __post_init__(self) -> None:
        if not _is_tuple(self.size, 2) or not all(
            _is_whole(s) and 32 <= s <= MAX_SIDE and s % 32 == 0 for s in self.size
        ):
            raise ConfigError(f"InputSpec.size must be two multiples of 32, from 32 to {MAX_SIDE}, not {self.size!r}")
        if not all(_is_tuple(values, 3) and all(map(_is_number, values)) for values in (self.mean, self.std)):
            raise ConfigError("InputSpec.mean and std must hold three numbers each")
        if min(self.std) <= 0:
            raise ConfigError("InputSpec.std must be above 0")
        if self.resize not in RESIZES:
            raise unknown_name("resize policy", self.resize, RESIZES)
