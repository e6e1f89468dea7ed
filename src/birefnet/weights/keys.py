"""Clear names in memory, the reference's names on disk: a bijection between state-dict keys.

It is applied only where a file is read or written, so every published checkpoint loads strictly and everything saved
here opens in the reference implementation and in the tools around it. The reference's names are facts read off its
state dicts; the parity tests hold the full lists.

A table maps prefixes of dotted keys, the first that fits counts; "{}" stands for a number that both sides share.
"""

import re
from dataclasses import dataclass

from birefnet.config import ModelConfig

Pairs = tuple[tuple[str, str], ...]
"""(our prefix, the reference's prefix)."""


def _below(ours: str, theirs: str, pairs: Pairs) -> Pairs:
    """Put a table below a prefix on each side."""
    return tuple((ours + a, theirs + b) for a, b in pairs)


# Swin carries the names of Microsoft's implementation there, PVTv2 those of its authors.
_SWIN_V1: Pairs = (
    ("stages.{}.", "layers.{}."),
    ("patch_embed.", "patch_embed."),
    ("output_norms.{}.", "norm{}."),
)
_PVT_V2: Pairs = tuple(
    pair
    for i in range(4)
    for pair in (
        (f"stages.{i}.patch_embed.", f"patch_embed{i + 1}."),
        (f"stages.{i}.blocks.{{}}.mlp.dwconv.", f"block{i + 1}.{{}}.mlp.dwconv.dwconv."),
        (f"stages.{i}.blocks.{{}}.", f"block{i + 1}.{{}}."),
        (f"stages.{i}.norm.", f"norm{i + 1}."),
    )
)
# Layers of the original's one list, cut where a map is taken.
_VGG: Pairs = tuple((f"stages.{i}.", f"conv{i + 1}.") for i in range(4))
_BOTTLENECK: Pairs = (
    *((f"norm{i}.", f"bn{i}.") for i in (1, 2, 3)),
    ("shortcut.", "downsample."),
    ("", ""),
)
_RESNET: Pairs = (
    *_below("stages.0.{}.", "conv1.4.{}.", _BOTTLENECK),
    *(pair for i in (1, 2, 3) for pair in _below(f"stages.{i}.{{}}.", f"conv{i + 1}.{{}}.", _BOTTLENECK)),
    ("stem.", "conv1."),
)
_DINO_V3: Pairs = (
    ("register_tokens", "model.reg_token"),
    ("patch_embed.", "model.patch_embed.proj."),
    ("blocks.{}.layer_scale1", "model.blocks.{}.gamma_1"),
    ("blocks.{}.layer_scale2", "model.blocks.{}.gamma_2"),
    ("blocks.{}.mlp.gate.", "model.blocks.{}.mlp.fc1_g."),
    ("blocks.{}.mlp.value.", "model.blocks.{}.mlp.fc1_x."),
    ("", "model."),
)
# A backbone that the reference lacks, or of the user's own: the names are those in memory.
_SAME: Pairs = (("", ""),)
_BACKBONES: dict[str, Pairs] = {
    "swin_v1": _SWIN_V1,
    "pvt_v2": _PVT_V2,
    "vgg": _VGG,
    "resnet50": _RESNET,
    "dino_v3": _DINO_V3,
}
"""By the start of a backbone's name."""

_DEFORMABLE_BRANCH: Pairs = (
    ("conv.offset_conv.", "atrous_conv.offset_conv."),
    ("conv.modulation_conv.", "atrous_conv.modulator_conv."),
    ("conv.weight", "atrous_conv.regular_conv.weight"),
    ("norm.", "bn."),
)
_DILATED_BRANCH: Pairs = (("conv.", "atrous_conv."), ("norm.", "bn."))
_BRANCHES: dict[str, tuple[Pairs, tuple[str, ...]]] = {
    "deformable": (_DEFORMABLE_BRANCH, ("aspp1.", *(f"aspp_deforms.{i}." for i in range(3)))),
    "aspp": (_DILATED_BRANCH, ("aspp1.", "aspp2.", "aspp3.", "aspp4.")),
}


def _attention(kind: str) -> Pairs:
    if kind not in _BRANCHES:
        return ()
    branch, names = _BRANCHES[kind]
    return (
        *(pair for i, name in enumerate(names) for pair in _below(f"branches.{i}.", name, branch)),
        ("pool.conv.", "global_avg_pool.1."),
        ("pool.norm.", "global_avg_pool.2."),
        ("project.", "conv1."),
        ("norm.", "bn1."),
    )


def _decoder_block(attention: str) -> Pairs:
    return (
        ("conv_in.", "conv_in."),
        ("norm_in.", "bn_in."),
        *_below("attention.", "dec_att.", _attention(attention)),
        ("conv_out.", "conv_out."),
        ("norm_out.", "bn_out."),
        ("shortcut.", "conv_resi."),
        *_SAME,
    )


def _decoder_stage(index: int, block: Pairs) -> Pairs:
    """Stage 0 is the deepest, which the reference calls 4; lateral blocks are named after the deeper stage there."""
    level = 4 - index
    return (
        *_below(f"stages.{index}.block.", f"decoder_block{level}.", block),
        (f"stages.{index}.inward.conv_in.", f"ipt_blk{level + 1}.conv1."),
        (f"stages.{index}.inward.conv_out.", f"ipt_blk{level + 1}.conv_out."),
        (f"stages.{index}.lateral.", f"lateral_block{level + 1}."),
        (f"stages.{index}.side_head.", f"conv_ms_spvn_{level}."),
        (f"stages.{index}.outward.conv.", f"gdt_convs_{level}.0."),
        (f"stages.{index}.outward.norm.", f"gdt_convs_{level}.1."),
        (f"stages.{index}.outward.prediction.", f"gdt_convs_pred_{level}.0."),
        (f"stages.{index}.outward.attention.", f"gdt_convs_attn_{level}.0."),
    )


def _decoder(block: Pairs) -> Pairs:
    return (
        *(pair for i in range(4) for pair in _decoder_stage(i, block)),
        *((f"neck.{i}.", f"pyramid_neck_x{i + 1}.") for i in range(4)),
        ("inward.conv_in.", "ipt_blk1.conv1."),
        ("inward.conv_out.", "ipt_blk1.conv_out."),
        ("head.", "conv_out1.0."),
        *_SAME,
    )


def _stem(norm: str) -> Pairs:
    # A layer norm stands between two changes of layout there.
    place = 1 if norm == "none" else 0
    return (
        ("conv_in.", "conv1."),
        ("norm_in.", f"norm1.{place}."),
        ("conv_out.", "conv2."),
        ("norm_out.", f"norm2.{place}."),
    )


# Its first encoder is conv, conv, norm; the others are pool, conv, norm: convolution and norm are at 1 and 2 in all.
_REFUNET: Pairs = (
    ("stem.", "encoder_1.0."),
    *(
        pair
        for i in range(4)
        for pair in (
            (f"encoders.{i}.conv.", f"encoder_{i + 1}.1."),
            (f"encoders.{i}.norm.", f"encoder_{i + 1}.2."),
            (f"decoders.{i}.conv.", f"decoder_{4 - i}.0."),
            (f"decoders.{i}.norm.", f"decoder_{4 - i}.1."),
        )
    ),
    ("bottom.conv.", "decoder_5.0."),
    ("bottom.norm.", "decoder_5.1."),
    ("head.", "conv_d0."),
)


def _pairs(config: ModelConfig) -> Pairs:
    block = _decoder_block(config.attention)
    squeeze = block if config.squeeze in ("basic", "residual") else _attention(config.squeeze) + _SAME
    return (
        *_below("encoder.backbone.", "bb.", _backbone(config.backbone)),
        *_below("encoder.squeeze.{}.", "squeeze_module.{}.", _SAME if "squeeze" in config.custom else squeeze),
        *_below("decoder.", "decoder.", _SAME if "decoder" in config.custom else _decoder(block)),
        ("class_head.", "cls_head.0."),
        *_refinement(config, block),
    )


def _backbone(name: str) -> Pairs:
    return next((pairs for family, pairs in _BACKBONES.items() if name.startswith(family)), _SAME)


def _refinement(config: ModelConfig, block: Pairs) -> Pairs:
    if config.refiner is None:
        return ()
    if config.refiner.kind == "itself":
        return _below("refinement.refiner.", "stem_layer.", _stem(config.norm))
    refiner = _REFUNET
    if config.refiner.kind != "refunet":
        refiner = (
            *_below("stem.", "stem_layer.", _stem(config.norm)),
            *_below("backbone.", "bb.", _backbone(config.refiner.backbone)),
            # Without the number that the network's own squeeze module has.
            *_below("squeeze.", "squeeze_module.", block),
            *_below("decoder.", "decoder.", _decoder(block)),
        )
    return _below("refinement.refiner.", "refiner.", refiner)


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    replacement: str

    @classmethod
    def make(cls, source: str, target: str) -> "_Rule":
        return cls(re.compile(re.escape(source).replace(r"\{\}", r"(\d+)")), target)

    def apply(self, key: str) -> str | None:
        match = self.pattern.match(key)
        if match is None:
            return None
        return self.replacement.format(*match.groups()) + key[match.end() :]


class KeyMap:
    """The bijection for one configuration.

    Both directions return None for a key that the table does not know, so that it can be reported as unexpected.
    """

    def __init__(self, config: ModelConfig) -> None:
        pairs = _pairs(config)
        self._to_reference = [_Rule.make(ours, theirs) for ours, theirs in pairs]
        self._from_reference = [_Rule.make(theirs, ours) for ours, theirs in pairs]

    def to_reference(self, key: str) -> str | None:
        """Name on disk of a key in memory."""
        return _first(self._to_reference, key)

    def from_reference(self, key: str) -> str | None:
        """Name in memory of a key on disk."""
        return _first(self._from_reference, key)


def _first(rules: list[_Rule], key: str) -> str | None:
    return next((new for rule in rules if (new := rule.apply(key)) is not None), None)


def strip_wrappers(key: str) -> str:
    """Remove the prefixes that distributed training and compilation leave, in any order and number."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key
