"""Configuration as data: what network to build and how its input is prepared.

A `ModelConfig` travels with the weights it belongs to (as JSON), so every field has a plain JSON value.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from birefnet.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Far above what any machine can hold: larger numbers are slips or damage.
MAX_CHANNELS = 2**16
MAX_SIDE = 2**15

MAX_CRF = 50.0
"""The most that a CRF may move logits: far beyond what leaves anything undecided."""

MAX_ASPECT = 3.0
"""The most that one side of an input that keeps proportions has of the other: longer photos are squeezed to that."""

MAX_REPEATS = 64

SCALE_FUSIONS = ("cat", "add", "none")
SQUEEZES = ("basic", "residual", "aspp", "deformable", "none")
DECODER_BLOCKS = ("basic", "residual")
ATTENTIONS = ("deformable", "aspp", "none")
INWARDS = ("patches", "pixels", "whole", "none")
NORMS = ("batch", "group", "none")
REFINERS = ("refunet", "refiner", "refiner_pvt_in4", "itself")
PARTS = ("backbone", "squeeze", "decoder_block", "lateral_block", "decoder")
"""Parts of the network that a user's own code may build."""

CUSTOM = "custom"
"""What stands in a configuration for a backbone from the user's own code."""

ADAPTIVE = "adaptive"
REFERENCE_CLASSES = 219
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


def _check_name(kind: str, name: object, known: tuple[str, ...]) -> None:
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind.replace("_", " "), name, known)


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
class RefinerConfig(_Json):
    """A second network that looks at the image and the first one's mask (in the reference until January 2024).

    Attributes:
        kind: "refunet" (a small U-Net on image and mask), "refiner" (a stem, a backbone and a plain decoder),
            "refiner_pvt_in4" (the same without a stem, on a PVTv2 that takes four channels) or "itself" (a stem, then
            the whole network once more).
        scale: 1 to refine the whole image at once; above, the first network sees the image at 1 / scale of its size,
            and the refiner sees it in scale x scale tiles.
        iterations: how often the mask is refined.
        backbone: backbone of the kinds that have one.
    """

    kind: str = "refunet"
    scale: int = 2
    iterations: int = 1
    backbone: str = "pvt_v2_b2"

    def __post_init__(self) -> None:
        _check_name("refiner", self.kind, REFINERS)
        for name, most in (("scale", 16), ("iterations", 100)):
            value = getattr(self, name)
            if not _is_whole(value) or not 1 <= value <= most:
                raise ConfigError(f"RefinerConfig.{name} must be a whole number from 1 to {most}, not {value!r}")
        if not isinstance(self.backbone, str):
            raise ConfigError(f"RefinerConfig.backbone must be a name, not {self.backbone!r}")
        if self.kind == "refiner_pvt_in4" and self.backbone != "pvt_v2_b2":
            raise ConfigError(f"refiner 'refiner_pvt_in4' has the backbone pvt_v2_b2 and no other, not {self.backbone}")


@dataclass(frozen=True)
class ModelConfig(_Json):
    """The structure of a BiRefNet. The defaults are the published network with a Swin-L backbone.

    Attributes:
        backbone: name of the encoder's backbone, a key of `birefnet.backbones.BACKBONES`.
        scale_fusion: what is done with the maps of the image at half size: "cat" (channels double), "add", or "none"
            (the backbone runs once).
        context_levels: how many of the three shallower maps, from the deepest of them on, join the deepest map.
        squeeze: block that brings the deepest map with its context back to the map's width: "basic" or "residual" (a
            decoder block), "aspp" or "deformable" (an attention alone), or "none".
        squeeze_count: how many of these follow each other; more than one only without context.
        decoder_block: "basic", or "residual" with a 1x1 convolution around it.
        attention: what the decoder blocks look around with: "deformable" (modulated deformable convolutions, the
            published network), "aspp" (dilated convolutions, which export everywhere) or "none".
        decoder_channels: inner width of the decoder blocks and of the squeeze module, or "adaptive": a quarter of
            each block's input.
        attention_channels: width of each branch of the attention.
        inward: how the decoder sees the image (inward reference): "patches" (cut into cells as large as the map,
            nothing lost), "pixels" (the pixels that each place of the map covers, nothing lost and all in its place),
            "whole" (resized) or "none".
        inward_channels: inner width of the inward reference.
        side_supervision: whether three side predictions of the mask are trained too.
        outward: whether the decoder learns the image's gradient where the object is and attends by it (outward
            reference); its labels are made of the side predictions.
        gradient_channels: width of the gradient features of the outward reference.
        detail_channels: width of a block at stride 2 after the decoder's stages, 0 for none; the published networks
            have none.
        norm: normalisation of everything but the backbone: "batch", "group", which trains on single images too, or
            "none", which the reference resorts to when its batch size is 1.
        dropout: probability of zeroing an element of an attention's output in training.
        classes: categories of the auxiliary class head, 0 for none; the reference has 219, those of DIS5K
            (`birefnet.classes.DIS5K_CLASSES`).
        refiner: a second network for the mask, None for none.
        custom: which parts were built by the user's own code (set by `BiRefNet`).

    Raises:
        ConfigError: a value or a combination that cannot be built; the message says what fits.
    """

    backbone: str = "swin_v1_l"
    scale_fusion: str = "cat"
    context_levels: int = 3
    squeeze: str = "basic"
    squeeze_count: int = 1
    decoder_block: str = "basic"
    attention: str = "deformable"
    decoder_channels: int | str = 64
    attention_channels: int = 256
    inward: str = "patches"
    inward_channels: int = 64
    side_supervision: bool = True
    outward: bool = True
    gradient_channels: int = 16
    detail_channels: int = 0
    norm: str = "batch"
    dropout: float = 0.5
    classes: int = 0
    refiner: RefinerConfig | None = None
    custom: tuple[str, ...] = ()

    @classmethod
    def from_reference(cls, options: Mapping[str, Any]) -> Self:
        """Build from the option names of the reference's `Config`, such as {"bb": "swin_v1_t", "dec_att": "ASPP"}.

        Options that are missing have the reference's defaults.

        Raises:
            ConfigError: an option is unknown or does not shape the network, or a value is.
        """
        fields: dict[str, Any] = {}
        for option, value in options.items():
            if option not in _REFERENCE_OPTIONS:
                raise unknown_name("reference option", option, _REFERENCE_OPTIONS)
            fields |= _REFERENCE_OPTIONS[option](value)
        whole = not fields.pop("inward_split", True)
        if not fields.pop("inward_at_all", True):
            fields["inward"] = "none"
        elif whole:
            fields["inward"] = "whole"
        if fields.pop("class_head", False):
            fields["classes"] = REFERENCE_CLASSES
        if not fields.get("side_supervision", True):
            fields.setdefault("outward", False)
        if not fields.pop("progressive", True):
            fields["scale"] = 1
        refiner: dict[str, Any] = {name: fields.pop(name) for name in ("kind", "scale", "iterations") if name in fields}
        if refiner.get("kind"):
            if refiner["kind"] == "refiner":  # which shares the choice of the backbone there
                refiner["backbone"] = fields.get("backbone", cls.backbone)
            fields["refiner"] = RefinerConfig(**refiner)
        return cls(**fields)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping of field names to JSON values; missing fields keep their defaults.

        A refiner may be given by its kind alone.

        Raises:
            ConfigError: a field is unknown, or a value or combination is impossible.
        """
        refiner = values.get("refiner")
        if isinstance(refiner, str):
            refiner = {"kind": refiner}
        if isinstance(refiner, Mapping):
            values = {**values, "refiner": RefinerConfig.from_dict(refiner)}
        return super().from_dict(values)

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str):
            raise ConfigError(f"ModelConfig.backbone must be a name, not {self.backbone!r}")
        for name, known in (
            ("scale_fusion", SCALE_FUSIONS),
            ("squeeze", SQUEEZES),
            ("decoder_block", DECODER_BLOCKS),
            ("attention", ATTENTIONS),
            ("inward", INWARDS),
            ("norm", NORMS),
        ):
            _check_name(name, getattr(self, name), known)
        for name in ("side_supervision", "outward"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"ModelConfig.{name} must be true or false, not {getattr(self, name)!r}")
        self._check_whole("context_levels", 0, 3)
        self._check_whole("squeeze_count", 1, MAX_REPEATS)
        self._check_whole("classes", 0, MAX_CHANNELS)
        self._check_whole("detail_channels", 0, MAX_CHANNELS)
        for name in ("attention_channels", "inward_channels", "gradient_channels"):
            self._check_whole(name, 1, MAX_CHANNELS)
        if self.decoder_channels != ADAPTIVE:
            self._check_whole("decoder_channels", 1, MAX_CHANNELS, f" or {ADAPTIVE!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"ModelConfig.dropout must be from 0 to below 1, not {self.dropout!r}")
        if self.refiner is not None and not isinstance(self.refiner, RefinerConfig):
            raise ConfigError(f"ModelConfig.refiner must be a RefinerConfig or None, not {self.refiner!r}")
        if not isinstance(self.custom, tuple):
            raise ConfigError(f"ModelConfig.custom must be a tuple of names, not {self.custom!r}")
        for part in self.custom:
            _check_name("custom part", part, PARTS)
        self._check_combination()

    def _check_whole(self, name: str, least: int, most: int, also: str = "") -> None:
        value = getattr(self, name)
        if not _is_whole(value) or not least <= value <= most:
            raise ConfigError(f"ModelConfig.{name} must be a whole number from {least} to {most}{also}, not {value!r}")

    def _check_combination(self) -> None:
        if self.squeeze == "none" and self.context_levels:
            raise ConfigError(
                f"squeeze 'none' leaves nothing to join {self.context_levels} context levels with: "
                "set context_levels=0, or choose a squeeze block"
            )
        if self.squeeze_count > 1 and (self.context_levels or self.squeeze == "none"):
            raise ConfigError(
                f"squeeze_count {self.squeeze_count} needs a squeeze block and context_levels=0, because each "
                "repeat takes the width that the first one does"
            )
        if self.outward and not self.side_supervision:
            raise ConfigError(
                "outward=True needs side_supervision=True, because its labels are made of the side predictions; "
                "set outward=False as well"
            )
        if self.norm == "group" and self.attention != "none" and self.attention_channels < 2:
            raise ConfigError("norm 'group' cannot normalise a single channel: set attention_channels to 2 or more")


# How the reference's configuration names the choices of the fields above.
_REFERENCE_BLOCKS = {"BasicDecBlk": "basic", "ResBlk": "residual"}
_REFERENCE_ATTENTIONS = {"ASPP": "aspp", "ASPPDeformable": "deformable"}
_REFERENCE_WIDTHS = {"fixed": "fixed", "adap": ADAPTIVE}
_REFERENCE_REFINERS = {
    "RefUNet": "refunet",
    "Refiner": "refiner",
    "RefinerPVTInChannels4": "refiner_pvt_in4",
    "itself": "itself",
}


def _look_up(option: str, value: object, table: Mapping[str, str]) -> str:
    """Translate a choice; the reference writes an empty text for none."""
    if value == "" or value is None:
        return "none"
    if value not in table:
        raise unknown_name(option, value, table)
    return table[str(value)]


def _squeeze_from(value: object) -> dict[str, Any]:
    """Split "ResBlk_x4" into its kind and count."""
    kind, _, count = str(value or "").partition("_x")
    if count and not count.isdecimal():
        raise ConfigError(f"squeeze_block {value!r}: write a block and a count, such as ResBlk_x4")
    return {
        "squeeze": _look_up("squeeze_block", kind, _REFERENCE_BLOCKS | _REFERENCE_ATTENTIONS),
        "squeeze_count": int(count or 1),
    }


def _switch(field: str) -> Callable[[Any], dict[str, Any]]:
    """Make the translation of an option that is on or off."""

    def translate(value: object) -> dict[str, Any]:
        if value not in (True, False):
            raise ConfigError(
                f"{field.replace('_', ' ')}: must be True or False in the reference's options, not {value!r}"
            )
        return {field: bool(value)}

    return translate


def _norm_from(batch_size: object) -> dict[str, Any]:
    """Batch norm, which gives way to identity where the reference trains on single images."""
    if not _is_whole(batch_size) or batch_size < 1:  # type: ignore[operator]
        raise ConfigError(f"batch_size must be a whole number from 1 on, not {batch_size!r}")
    return {"norm": "none" if batch_size == 1 else "batch"}


_REFERENCE_OPTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "bb": lambda value: {"backbone": value},
    "backbone": lambda value: {"backbone": value},
    "mul_scl_ipt": lambda value: {"scale_fusion": _look_up("mul_scl_ipt", value, {"cat": "cat", "add": "add"})},
    "cxt_num": lambda value: {"context_levels": value},
    "squeeze_block": _squeeze_from,
    "dec_blk": lambda value: {"decoder_block": _look_up("dec_blk", value, _REFERENCE_BLOCKS)},
    "dec_att": lambda value: {"attention": _look_up("dec_att", value, _REFERENCE_ATTENTIONS)},
    "dec_channels_inter": lambda value: (
        {"decoder_channels": ADAPTIVE} if _look_up("dec_channels_inter", value, _REFERENCE_WIDTHS) == ADAPTIVE else {}
    ),
    "dec_ipt": _switch("inward_at_all"),
    "dec_ipt_split": _switch("inward_split"),
    "ms_supervision": _switch("side_supervision"),
    "out_ref": _switch("outward"),
    "auxiliary_classification": _switch("class_head"),
    "batch_size": _norm_from,
    "refine": lambda value: {"kind": _look_up("refine", value, _REFERENCE_REFINERS) if value else None},
    "scale": lambda value: {"scale": value},
    "progressive_ref": _switch("progressive"),
    "refine_iteration": lambda value: {"iterations": value},
}


def in_proportion(size: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Sides with about as many pixels as a size has, in other proportions: multiples of 32, (height, width).

    Args:
        size: (height, width).
        aspect: width over height; beyond `MAX_ASPECT` to one, either way, the sides are those of that.
    """
    aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
    side = math.sqrt(size[0] * size[1])
    height, width = (min(max(32, 32 * round(s / 32)), MAX_SIDE) for s in (side / aspect**0.5, side * aspect**0.5))
    return height, width


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
        mirror: whether the photo's mirror image is looked at as well and the two joined (`imaging.postprocess.join`):
            twice the time, for weights that were chosen with it.
        balance: how far the colours of the mirror image go towards those of a grey world, from 0 (as they are) to 1:
            see `birefnet.imaging.preprocess.grey_world`. What only a cast of colour makes look like an object fades
            then, as the two looks do not see the same colours.
        crf: how far the network's logits may be moved so that pixels which look alike and lie near each other agree, at
            one and a half times its input's sides; 0 for not at all. Gaps and tufts that the network doubted are mended
            then, and the outline is smoothed (`birefnet.imaging.decide`); what is decided loses its specks and is
            enlarged to the photo by its logits: see `without_scraps` and `restore` of `birefnet.imaging.postprocess`.
        keep_aspect: whether a photo keeps its proportions: it is then stretched to sides in these with about as
            many pixels as `size` has: see `size_of`.
    """

    size: tuple[int, int] = (1024, 1024)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = "pil_bilinear"
    mirror: bool = False
    balance: float = 0.0
    crf: float = 0.0
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        if not _is_tuple(self.size, 2) or not all(
            _is_whole(s) and 32 <= s <= MAX_SIDE and s % 32 == 0 for s in self.size
        ):
            raise ConfigError(f"InputSpec.size must be two multiples of 32, from 32 to {MAX_SIDE}, not {self.size!r}")
        if not all(_is_tuple(values, 3) and all(map(_is_number, values)) for values in (self.mean, self.std)):
            raise ConfigError("InputSpec.mean and std must hold three numbers each")
        if min(self.std) <= 0:
            raise ConfigError("InputSpec.std must be above 0")
        _check_name("resize policy", self.resize, RESIZES)
        if not _is_number(self.balance) or not 0 <= self.balance <= 1:
            raise ConfigError(f"InputSpec.balance must be a number from 0 to 1, not {self.balance!r}")
        if not _is_number(self.crf) or not 0 <= self.crf <= MAX_CRF:
            raise ConfigError(f"InputSpec.crf must be a number from 0 to {MAX_CRF}, not {self.crf!r}")
        for name in ("mirror", "keep_aspect"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"InputSpec.{name} must be true or false, not {getattr(self, name)!r}")

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the input that a photo of `height` x `width` is stretched to, multiples of 32."""
        return in_proportion(self.size, width / height) if self.keep_aspect else self.size
