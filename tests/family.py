"""The options of the network, and combinations in which every two values of two options meet."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from birefnet.backbones import Backbone
from birefnet.backbones.base import Pyramid
from birefnet.backbones.dino_v3 import DinoV3
from birefnet.config import ModelConfig, RefinerConfig
from birefnet.errors import ConfigError


class TinyBackbone(Backbone):
    """Four strided convolutions."""

    channels = (8, 16, 24, 32)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, stride, stride) for a, b, stride in zip(widths, widths[1:], (4, 2, 2, 2), strict=False)
        )

    def forward(self, image: Tensor) -> Pyramid:
        x1 = self.convs[0](image).relu()
        x2 = self.convs[1](x1).relu()
        x3 = self.convs[2](x2).relu()
        return x1, x2, x3, self.convs[3](x3).relu()


def tiny_vit() -> DinoV3:
    return DinoV3(width=16, heads=2, hidden=32, taps=(0, 1, 2, 3), gated=True)


OPTIONS: dict[str, list[Any]] = {
    "backbone": [TinyBackbone, tiny_vit, "mobilenet_v4_s"],
    "scale_fusion": ["cat", "add", "none"],
    "context_levels": [0, 1, 2, 3],
    "squeeze": ["basic", "residual", "aspp", "deformable", "none"],
    "squeeze_count": [1, 2],
    "decoder_block": ["basic", "residual"],
    "attention": ["deformable", "aspp", "none"],
    "decoder_channels": [8, "adaptive"],
    "inward": ["patches", "pixels", "whole", "none"],
    "side_supervision": [True, False],
    "outward": [True, False],
    "detail_channels": [0, 8],
    "norm": ["batch", "group", "none"],
    "classes": [0, 3],
    "refiner": [
        None,
        RefinerConfig("refunet", scale=1),
        RefinerConfig("refunet", scale=2, iterations=2),
        RefinerConfig("itself", scale=2),
        RefinerConfig("itself", scale=1),
        RefinerConfig("refiner", scale=1, backbone="mobilenet_v4_s"),
    ],
}
WIDTHS = {"attention_channels": 8, "inward_channels": 4, "gradient_channels": 4}

Pair = tuple[tuple[str, int], tuple[str, int]]


def allowed(options: dict[str, Any]) -> bool:
    plain = {name: value for name, value in options.items() if name != "backbone"}
    try:
        ModelConfig(**plain)
    except ConfigError:
        return False
    return True


def pairs_of(choice: dict[str, int]) -> set[Pair]:
    return set(itertools.combinations(choice.items(), 2))


def covering_combinations() -> Iterator[dict[str, Any]]:
    """Allowed combinations in which every two values of two options that may meet do meet."""
    generator = random.Random(0)
    names = list(OPTIONS)
    wanted = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(OPTIONS[a]))
        for j in range(len(OPTIONS[b]))
    }

    def complete(fixed: dict[str, int]) -> dict[str, int] | None:
        for _ in range(200):
            choice = {name: fixed.get(name, generator.randrange(len(OPTIONS[name]))) for name in names}
            if allowed({name: OPTIONS[name][i] for name, i in choice.items()}):
                return choice
        return None

    while wanted:
        pair = min(wanted)
        candidates = [choice for _ in range(10) if (choice := complete(dict(pair))) is not None]
        if not candidates:
            wanted.discard(pair)  # these two never meet
            continue
        best = max(candidates, key=lambda choice: len(wanted & pairs_of(choice)))
        wanted -= pairs_of(best)
        yield {name: OPTIONS[name][i] for name, i in best.items()}


COMBINATIONS = list(covering_combinations())
