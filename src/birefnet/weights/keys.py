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
# The reference has no such backbone, so its names are our own.
_SAME: Pairs = (("", ""),)
_BACKBONES: dict[str, Pairs] = {"swin_v1": _SWIN_V1, "pvt_v2": _PVT_V2, "mobilenet_v4": _SAME}

_DEFORMABLE_BRANCH: Pairs = (
    ("conv.offset_conv.", "atrous_conv.offset_conv."),
    ("conv.modulation_conv.", "atrous_conv.modulator_conv."),
    ("conv.weight", "atrous_conv.regular_conv.weight"),
    ("norm.", "bn."),
)
_DILATED_BRANCH: Pairs = (("conv.", "atrous_conv."), ("norm.", "bn."))
_BRANCHES: dict[str, tuple[Pairs, tuple[str, ...]]] = {
    "deformable": (_DEFORMABLE_BRANCH, ("aspp1.", *(f"aspp_deforms.{i}." for i in range(3)))),
    "dilated": (_DILATED_BRANCH, ("aspp1.", "aspp2.", "aspp3.", "aspp4.")),
}


def _decoder_block(attention: str) -> Pairs:
    branch, names = _BRANCHES[attention]
    branches = tuple(pair for i, name in enumerate(names) for pair in _below(f"branches.{i}.", name, branch))
    pyramid: Pairs = (
        *branches,
        ("pool.conv.", "global_avg_pool.1."),
        ("pool.norm.", "global_avg_pool.2."),
        ("project.", "conv1."),
        ("norm.", "bn1."),
    )
    return (
        ("conv_in.", "conv_in."),
        ("norm_in.", "bn_in."),
        *_below("attention.", "dec_att.", pyramid),
        ("conv_out.", "conv_out."),
        ("norm_out.", "bn_out."),
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


def _pairs(family: str, attention: str) -> Pairs:
    block = _decoder_block(attention)
    decoder: Pairs = (
        *(pair for i in range(4) for pair in _decoder_stage(i, block)),
        ("inward.conv_in.", "ipt_blk1.conv1."),
        ("inward.conv_out.", "ipt_blk1.conv_out."),
        ("head.", "conv_out1.0."),
    )
    return (
        *_below("encoder.backbone.", "bb.", _BACKBONES[family]),
        *_below("encoder.squeeze.{}.", "squeeze_module.{}.", block),
        *_below("decoder.", "decoder.", decoder),
    )


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
        family = config.backbone.rpartition("_")[0]
        pairs = _pairs(family, config.attention)
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
