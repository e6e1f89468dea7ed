import itertools

import pytest
import torch

from birefnet.backbones import BACKBONES
from birefnet.config import ModelConfig
from birefnet.errors import ConfigError
from birefnet.model import BiRefNet
from birefnet.training.optimizer import (
    OptimizerRecipe,
    backbone_layers,
    build_optimizer,
    ema_decay_at,
    rate_at,
    set_rate,
)
from support import TINY


def test_a_constant_rate() -> None:
    recipe = OptimizerRecipe(rate=0.5)
    assert {rate_at(recipe, step, 10) for step in range(10)} == {0.5}


def test_a_rate_that_rises_and_falls() -> None:
    recipe = OptimizerRecipe(rate=1.0, schedule="cosine", warm_up=0.1, final_rate=0.1)
    rates = [rate_at(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.55)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert 0.1 < rates[99] < 0.101


def test_the_average_is_short_at_first() -> None:
    recipe = OptimizerRecipe(ema=0.99)
    assert ema_decay_at(recipe, 0) == pytest.approx(0.1)
    assert ema_decay_at(recipe, 10_000) == 0.99


def test_norms_and_biases_are_not_decayed() -> None:
    model = BiRefNet(TINY)
    optimizer = build_optimizer(model, OptimizerRecipe(weight_decay=0.1))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decays[id(p)] == (0.1 if p.ndim > 1 else 0) for p in model.parameters())
    everything = build_optimizer(model, OptimizerRecipe(weight_decay=0.1, decay_all=True))
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]


def test_what_is_frozen_is_left_out() -> None:
    model = BiRefNet(TINY)
    model.encoder.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerRecipe())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.decoder.parameters()}
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        build_optimizer(model, OptimizerRecipe())


@pytest.mark.parametrize(
    ("name", "blocks"),
    # Stem or patch embedding, then every block, then what follows.
    [("swin_v1_t", 1 + 12 + 3 + 1), ("dino_v3_s", 2 + 12), ("resnet50", 1 + 16)],
)
def test_layers_are_numbered_from_the_shallow_end(name: str, blocks: int) -> None:
    model = BiRefNet(ModelConfig(backbone=name))
    layers = backbone_layers(model)
    assert layers.keys() == {f"encoder.backbone.{n}" for n, _ in model.encoder.backbone.named_parameters()}
    assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1))
    assert len(set(layers.values())) >= blocks
    order = list(layers.values())
    assert order[0] == 0
    assert max(order) == order[-1]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_block_is_one_layer(name: str) -> None:
    with torch.device("meta"):
        model = BiRefNet(ModelConfig(backbone=name))
    layers = backbone_layers(model)
    for owner in {key.rsplit(".", 1)[0] for key in layers}:
        found = {layer for key, layer in layers.items() if key.rsplit(".", 1)[0] == owner}
        assert len(found) == 1, owner


def test_rates_of_the_backbone() -> None:
    model = BiRefNet(TINY)
    optimizer = build_optimizer(model, OptimizerRecipe(backbone_rate=0.5, layer_decay=0.9))
    set_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    layers = backbone_layers(model)
    deepest = max(layers.values())
    for key, parameter in model.named_parameters():
        expected = 0.1 * 0.5 * 0.9 ** (deepest - layers[key]) if key in layers else 0.1
        assert rates[id(parameter)] == pytest.approx(expected), key


def test_a_backbone_of_rate_zero_does_not_move() -> None:
    model = BiRefNet(TINY)
    optimizer = build_optimizer(model, OptimizerRecipe(backbone_rate=0))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in model.encoder.backbone.parameters()}
