"""Which network does a state dict belong to? Its keys and shapes tell."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.config import ADAPTIVE, ModelConfig, RefinerConfig
from birefnet.errors import ConfigError, WeightsError
from birefnet.weights.files import shown
from birefnet.weights.keys import KeyMap
from birefnet.weights.pretrained import identify_backbone

Shapes = Mapping[str, tuple[int, ...]]

_BLOCKS = tuple(f"decoder.decoder_block{level}." for level in (4, 3, 2, 1))

# Where the attention of blocks stands: one place would do, if no file lacked any.
_ATTENTIONS = tuple(f"{block}dec_att." for block in (*_BLOCKS, "squeeze_module.0."))

# Keys that every backbone of a family has on disk, so that only few have to be built to be compared.
_MARKERS = {
    "swin_v1": "layers.",
    "pvt_v2": "patch_embed1.",
    "vgg": "conv1.",
    "resnet50": "conv1.4.",
    "dino_v3": "model.",
}

# So that a file with a few keys missing is still recognised and its gaps can be named.
_LEAST_SHARE = 0.5


def infer_config(path: Path, tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, tuple[str, ...]]:
    """Find the configuration of a state dict that comes without one.

    Args:
        path: the file, for the messages.
        tensors: the state dict with the reference's key names, without wrapper prefixes.

    Returns:
        The configuration, and lines for a person: what was told, and what had to be assumed.

    Raises:
        WeightsError: the keys belong to no network that can be built here.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    backbone = _backbone(shapes, "bb.")
    if backbone is None:
        raise WeightsError(f"{path}: not the weights of a BiRefNet: {_what_else(tensors)}")
    if "squeeze_module.conv_in.weight" in shapes:  # without the number that the network's own has
        raise WeightsError(f"{path}: the weights of a refiner alone; give those of the whole network")
    try:
        config = _read(backbone, shapes)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    return config, tuple(f"{path}: {note}" for note in _notes(config))


def _what_else(tensors: Mapping[str, Tensor]) -> str:
    """Say what a state dict is that belongs to no network here, and what to do with it."""
    alone = identify_backbone({key.removeprefix("bb."): tensor for key, tensor in tensors.items()})
    if alone is not None:
        return f"they are of the backbone {alone} alone, for BiRefNet(backbone={alone!r}, pretrained_backbone=FILE)"
    first = shown(next(iter(tensors), "none"))
    return (
        f"its {len(tensors)} keys (such as {first}) fit none of the backbones {', '.join(BACKBONES)}; "
        "for a network with a backbone of your own pass config="
    )


def _read(backbone: str, shapes: Shapes) -> ModelConfig:
    defaults = ModelConfig(backbone=backbone)
    squeeze = _squeeze(shapes)
    pools = [f"{prefix}global_avg_pool.1.weight" for prefix in (*_ATTENTIONS, "squeeze_module.0.")]
    widths: dict[str, Any] = {
        "attention_channels": next((shapes[key][0] for key in pools if shapes.get(key)), None),
        "inward_channels": _size(shapes, "decoder.ipt_blk1.conv1.weight", 0),
        "gradient_channels": _size(shapes, "decoder.gdt_convs_4.0.weight", 0),
    }
    return dataclasses.replace(
        defaults,
        scale_fusion="cat" if _is_doubled(backbone, shapes) else "add",
        context_levels=_context(backbone, squeeze, shapes),
        squeeze=squeeze,
        squeeze_count=max(1, len({key.split(".")[1] for key in shapes if key.startswith("squeeze_module.")})),
        decoder_block="residual" if f"{_BLOCKS[0]}conv_resi.weight" in shapes else "basic",
        attention=next((kind for prefix in _ATTENTIONS if (kind := _attention(prefix, shapes)) != "none"), "none"),
        decoder_channels=_decoder_channels(shapes),
        inward=_inward(shapes),
        side_supervision="decoder.conv_ms_spvn_4.weight" in shapes,
        outward="decoder.gdt_convs_4.0.weight" in shapes,
        norm=_norm(shapes),
        detail_channels=_size(shapes, "decoder.detail.conv_in.weight", 0) or 0,
        classes=_size(shapes, "cls_head.0.weight", 0) or 0,
        refiner=_refiner(shapes),
        **{name: size for name, size in widths.items() if size is not None},
    )


def _notes(config: ModelConfig) -> list[str]:
    defaults = ModelConfig(backbone=config.backbone)
    names = [field.name for field in dataclasses.fields(config)]
    changed = [name for name in names if name != "refiner" and getattr(config, name) != getattr(defaults, name)]
    parts = [f"backbone {config.backbone}", *(f"{name} {getattr(config, name)}" for name in changed)]
    if config.refiner:
        parts.append(f"refiner {config.refiner.kind}")
    notes = [f"holds no configuration; its keys and shapes tell: {', '.join(parts)}"]
    if config.scale_fusion == "add":
        notes.append("scale_fusion 'add' is assumed, which the keys cannot tell from 'none'; pass config to say so")
    if config.refiner:
        scale, iterations = config.refiner.scale, config.refiner.iterations
        notes.append(f"a refiner of scale {scale} and {iterations} iterations is assumed; pass config to say otherwise")
    return notes


def _size(shapes: Shapes, key: str, axis: int) -> int | None:
    shape = shapes.get(key, ())
    return shape[axis] if len(shape) > axis else None


def _backbone(shapes: Shapes, prefix: str) -> str | None:
    """Name of the backbone whose keys stand below a prefix, None where no known one does."""
    found = {(key[len(prefix) :], shape) for key, shape in shapes.items() if key.startswith(prefix)}
    if not found:
        return None
    shares = {}
    for name in BACKBONES:
        marker = next((marker for family, marker in _MARKERS.items() if name.startswith(family)), "")
        if any(key.startswith(marker) for key, _ in found):
            known = _entries(name)
            shares[name] = len(known & found) / len({key for key, _ in known | found})
    best = max(shares, key=lambda name: shares[name], default="")
    return best if shares.get(best, 0) >= _LEAST_SHARE else None


@cache
def _entries(backbone: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Keys, as on disk below their prefix, and shapes of a backbone."""
    keys = KeyMap(ModelConfig(backbone=backbone))
    with torch.device("meta"):
        state = build_backbone(backbone).state_dict()
    names = {key: keys.to_reference(f"encoder.backbone.{key}") or "" for key in state}
    return frozenset((names[key].removeprefix("bb."), tuple(tensor.shape)) for key, tensor in state.items())


@cache
def _channels(backbone: str) -> tuple[int, int, int, int]:
    with torch.device("meta"):
        return build_backbone(backbone).channels


def _is_doubled(backbone: str, shapes: Shapes) -> bool:
    """Whether the decoder takes twice the backbone's channels."""
    width = _size(shapes, "decoder.pyramid_neck_x3.conv.weight", 1)
    if width is None:
        width = _size(shapes, "decoder.lateral_block4.conv.weight", 1)
    return width is None or width == 2 * _channels(backbone)[2]


def _attention(prefix: str, shapes: Shapes) -> str:
    if any(key.startswith(f"{prefix}aspp_deforms.") for key in shapes):
        return "deformable"
    return "aspp" if any(key.startswith(f"{prefix}aspp1.") for key in shapes) else "none"


def _squeeze(shapes: Shapes) -> str:
    prefix = "squeeze_module.0."
    if f"{prefix}conv_in.weight" in shapes:
        return "residual" if f"{prefix}conv_resi.weight" in shapes else "basic"
    return _attention(prefix, shapes)


def _context(backbone: str, squeeze: str, shapes: Shapes) -> int:
    """Number of context levels: what the squeeze module takes beside the deepest map."""
    first = {
        "none": "",
        "aspp": "squeeze_module.0.aspp1.atrous_conv.weight",
        "deformable": "squeeze_module.0.aspp1.atrous_conv.regular_conv.weight",
    }.get(squeeze, "squeeze_module.0.conv_in.weight")
    width = _size(shapes, first, 1)
    if width is None:
        return 0
    factor = 2 if _is_doubled(backbone, shapes) else 1
    channels = [factor * c for c in _channels(backbone)]
    sums = {sum(channels[3 - levels :]): levels for levels in range(4)}
    return sums.get(width, 3)


def _decoder_channels(shapes: Shapes) -> int | str:
    """Inner width of the decoder blocks: what most have, or a quarter of each one's input."""
    weights = [shape[:2] for block in _BLOCKS if len(shape := shapes.get(f"{block}conv_in.weight", ())) == 4]
    if not weights:
        return ModelConfig.decoder_channels
    width, count = Counter(inner for inner, _ in weights).most_common(1)[0]
    quarters = sum(inner == max(outer // 4, 1) for inner, outer in weights)
    return ADAPTIVE if quarters > count else width


def _inward(shapes: Shapes) -> str:
    width = _size(shapes, "decoder.ipt_blk5.conv1.weight", 1)
    if width is None:
        return "none"
    # "pixels" has the same tensors, but only networks of this package have it, whose files carry a configuration.
    return "whole" if width == 3 else "patches"


def _norm(shapes: Shapes) -> str:
    if f"{_BLOCKS[0]}bn_in.running_mean" in shapes:
        return "batch"
    return "group" if f"{_BLOCKS[0]}bn_in.weight" in shapes else "none"


def _refiner(shapes: Shapes) -> RefinerConfig | None:
    if any(key.startswith("stem_layer.") for key in shapes):
        return RefinerConfig(kind="itself")
    if not any(key.startswith("refiner.") for key in shapes):
        return None
    if "refiner.encoder_1.0.weight" in shapes:
        return RefinerConfig(kind="refunet")
    if "refiner.stem_layer.conv1.weight" not in shapes:
        return RefinerConfig(kind="refiner_pvt_in4")
    return RefinerConfig(kind="refiner", backbone=_backbone(shapes, "refiner.bb.") or RefinerConfig.backbone)
