"""Pretrained backbones: files that other projects publish, renamed to the keys of the backbones here, strictly.

timm's files are understood for every backbone that has any, and the files of the original authors of Swin (Microsoft)
and PVTv2. What a file holds beside the backbone is dropped by name: classifiers, the last norm before them, constants.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from birefnet.backbones import Backbone, build_backbone
from birefnet.config import ModelConfig, unknown_name
from birefnet.errors import WeightsError
from birefnet.weights.files import STATE_ENTRIES, read_tensors, shown
from birefnet.weights.keys import KeyMap, strip_wrappers

PRETRAINED: dict[str, str] = {
    "swin_v1_t": "timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_v1_s": "timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_v1_b": "timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k",
    "swin_v1_l": "timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k",
    "pvt_v2_b0": "timm/pvt_v2_b0.in1k",
    "pvt_v2_b1": "timm/pvt_v2_b1.in1k",
    "pvt_v2_b2": "timm/pvt_v2_b2.in1k",
    "pvt_v2_b5": "timm/pvt_v2_b5.in1k",
    "vgg16": "timm/vgg16.tv_in1k",
    "vgg16bn": "timm/vgg16_bn.tv_in1k",
    "resnet50": "timm/resnet50.tv2_in1k",
    "dino_v3_s": "timm/vit_small_patch16_dinov3.lvd1689m",
    "dino_v3_s_plus": "timm/vit_small_plus_patch16_dinov3.lvd1689m",
    "dino_v3_b": "timm/vit_base_patch16_dinov3.lvd1689m",
    "dino_v3_l": "timm/vit_large_patch16_dinov3.lvd1689m",
    "dino_v3_h_plus": "timm/vit_huge_plus_patch16_dinov3.lvd1689m",
    "dino_v3_7b": "timm/vit_7b_patch16_dinov3.lvd1689m",
}
"""Hub ids of pretrained backbones, each with a `model.safetensors`."""

DINO_V3_TERMS = (
    "the pretrained weights of DINOv3 are under the DINOv3 licence: read it where they are published before using them"
)

SHOWN = 4
"""How many keys an error names of each kind."""

Rules = tuple[tuple[str, str], ...]
"""Substitutions by regular expression, applied in this order, which turn our key into that of a file."""

# timm moved Swin's downsampling from the end of a stage to the start of the next one.
_SWIN_V1: Rules = (
    *((rf"^stages\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in range(3)),
    (r"^stages\.", "layers."),
)
_PVT_V2: Rules = (
    (r"^stages\.0\.patch_embed\.", "patch_embed."),
    (r"^stages\.(\d)\.patch_embed\.", r"stages.\1.downsample."),
)
_VGG: Rules = ((r"^stages\.\d\.", "features."),)
_RESNET: Rules = (
    (r"^stem\.0\.", "conv1."),
    (r"^stem\.1\.", "bn1."),
    *((rf"^stages\.{i}\.", f"layer{i + 1}.") for i in range(4)),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.shortcut\.", ".downsample."),
)
_DINO_V3: Rules = (
    (r"^register_tokens$", "reg_token"),
    (r"^patch_embed\.", "patch_embed.proj."),
    (r"\.layer_scale(\d)$", r".gamma_\1"),
    (r"\.mlp\.gate\.", ".mlp.fc1_g."),
    (r"\.mlp\.value\.", ".mlp.fc1_x."),
)


@dataclass(frozen=True)
class _Family:
    """What is known about the files of a family of backbones.

    Attributes:
        timm: our keys to timm's; torchvision's files have the same names.
        dropped: keys of a file, timm's or the original, that the backbone has no use for.
        original: whether the original authors' names, which are those of the reference, are accepted too.
        optional: our keys that no pretrained file holds; they keep their start values.
    """

    timm: Rules
    dropped: str
    original: bool = False
    optional: str = "(?!)"


_FAMILIES: dict[str, _Family] = {
    "swin_v1": _Family(_SWIN_V1, r"(norm|head)\..*|.*\.attn_mask", original=True, optional=r"output_norms\..*"),
    "pvt_v2": _Family(_PVT_V2, r"head\..*", original=True),
    "vgg16": _Family(_VGG, r"(pre_logits|head|classifier)\..*"),
    "resnet50": _Family(_RESNET, r"fc\..*"),
    "dino_v3": _Family(_DINO_V3, r"(norm|head|rope)\..*|(.*\.)?periods"),
}

# Of a backbone's state dict: what follows from its structure, so that a file's is not taken, and what old files lack
# because torch came to count batches later.
_CONSTANT = "relative_position_index"
_COUNTER = "num_batches_tracked"


class _Match(NamedTuple):
    """A file's tensors under our keys, and in what it differs."""

    state: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)


def terms_of(name: str) -> tuple[str, ...]:
    """Lines on the terms of a backbone's pretrained weights, for a person; empty where they are the usual ones."""
    return (DINO_V3_TERMS,) if name.startswith("dino_v3") else ()


def convert_backbone(name: str, tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Rename the tensors of a pretrained file to the keys of `build_backbone(name)`.

    Whose names the file uses is told by its keys. The result holds every learned tensor except Swin's output norms,
    which pretrained classifiers lack, and no constants.

    Args:
        name: a backbone of `PRETRAINED`.
        tensors: what the file holds.
        source: the file, for the message.

    Raises:
        ConfigError: no pretrained files are known for this name; the message lists those that are.
        WeightsError: the file does not fit the backbone to the last key.
    """
    if name not in PRETRAINED:
        raise unknown_name("pretrained backbone", name, PRETRAINED)
    match = _match(name, tensors)
    if match.fits:
        return match.state
    parts = [
        f"{len(keys)} {what} ({', '.join(map(shown, keys[:SHOWN]))}{', ...' if len(keys) > SHOWN else ''})"
        for what, keys in (
            ("missing", match.missing),
            ("unexpected", match.unexpected),
            ("of another shape or type", match.mismatched),
        )
        if keys
    ]
    owner = identify_backbone(tensors)
    if owner is not None:
        parts.append(f"these are the weights of {owner}")
    elif any(key.startswith("decoder.") for key in tensors):
        parts.append("these are the weights of a whole network, which birefnet.load_model reads")
    raise WeightsError(f"{source}: does not fit the backbone {name}: {'; '.join(parts)}")


def identify_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the backbone whose pretrained file this is, None for other files."""
    return next((name for name in PRETRAINED if _match(name, tensors).fits), None)


def load_backbone(backbone: Backbone, name: str, path: str | Path) -> list[str]:
    """Load a pretrained file strictly into a backbone, which keeps its types and device.

    Args:
        backbone: what `build_backbone(name)` returned, or a backbone of the user's own.
        name: what it is called.
        path: a `.safetensors` or `.pth` file of timm, of the original authors, or of the backbone's own state dict.

    Returns:
        The keys that the file does not hold, and that keep their start values: Swin's output norms.

    Raises:
        WeightsError: the file cannot be read or does not fit; the backbone is then unchanged.
    """
    path = Path(path)
    tensors, _ = read_tensors(path, entries=STATE_ENTRIES)
    tensors = {strip_wrappers(key): tensor for key, tensor in tensors.items()}
    own = {key: tensor.shape for key, tensor in backbone.state_dict().items()}
    if {key: tensor.shape for key, tensor in tensors.items()} == own:
        backbone.load_state_dict(tensors)
        return []
    if name not in PRETRAINED:
        raise WeightsError(
            f"{path}: is not the backbone's own state dict, and for backbone {name} no other files are known: save it "
            "by torch.save(backbone.state_dict(), ...)"
        )
    result = backbone.load_state_dict(convert_backbone(name, tensors, path), strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
    return [key for key in result.missing_keys if not key.endswith(_CONSTANT)]


def _match(name: str, tensors: Mapping[str, Tensor]) -> _Match:
    """Compare a file with a backbone, under the names that fit it best."""
    expected = _expected(name)
    family = next(family for prefix, family in _FAMILIES.items() if name.startswith(prefix))
    naming = max(_namings(name, family, expected), key=lambda names: len(names.values() & tensors.keys()))
    state: dict[str, Tensor] = {}
    missing, mismatched = [], []
    for key, like in expected.items():
        theirs = naming[key]
        tensor = tensors.get(theirs)
        if key.endswith(_CONSTANT):
            continue
        if tensor is None and key.endswith(_COUNTER):
            state[key] = torch.zeros((), dtype=like.dtype)
        elif tensor is None:
            if not re.fullmatch(family.optional, key):
                missing.append(theirs)
        elif tensor.shape != like.shape:
            mismatched.append(f"{theirs} {list(tensor.shape)} instead of {list(like.shape)}")
        elif tensor.is_floating_point() != like.is_floating_point():
            mismatched.append(f"{theirs} {tensor.dtype} instead of {like.dtype}")
        else:
            state[key] = tensor
    known = set(naming.values())
    unexpected = [key for key in tensors if key not in known and not re.fullmatch(family.dropped, key)]
    return _Match(state, missing, unexpected, mismatched)


@cache
def _expected(name: str) -> dict[str, Tensor]:
    """State dict of a backbone, in shapes alone."""
    with torch.device("meta"):
        return build_backbone(name).state_dict()


def _namings(name: str, family: _Family, expected: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """All the ways in which files name our keys."""
    namings = [{key: _renamed(key, family.timm) for key in expected}]
    if family.original:
        keys = KeyMap(ModelConfig(backbone=name))
        reference = {key: keys.to_reference(f"encoder.backbone.{key}") or "" for key in expected}
        namings.append({key: theirs.removeprefix("bb.") for key, theirs in reference.items()})
    return namings


def _renamed(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
