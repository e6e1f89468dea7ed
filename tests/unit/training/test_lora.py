"""Low-rank adapters: what trains, and that what is saved is a plain network with the same predictions."""

import warnings
from pathlib import Path

import pytest
import torch
from tests.support import TINY
from torch import Tensor

from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError
from birefnet.model import BiRefNet, load_model
from birefnet.training.lora import LoraRecipe, add_lora, merged_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that peft imports
    pytest.importorskip("peft")

TINY_PVT = ModelConfig(
    backbone="pvt_v2_b0", attention="aspp", decoder_channels=8, attention_channels=8, inward_channels=4
)


def build(config: ModelConfig) -> BiRefNet:
    torch.manual_seed(0)
    return BiRefNet.from_config(config, InputSpec(size=(64, 64)))


def train(model: BiRefNet, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for step in range(steps):
        torch.manual_seed(step)
        model.forward_train(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def state_of(model: BiRefNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("config", [TINY, TINY_PVT], ids=["convolutions", "linear layers"])
def test_merged_weights_are_a_plain_network_with_the_same_predictions(config: ModelConfig, tmp_path: Path) -> None:
    plain = build(config)
    names = list(plain.state_dict())
    model = build(config)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model.eval()(image)
        count = add_lora(model, LoraRecipe(rank=4, alpha=8))
        torch.testing.assert_close(model(image), before)
    assert count.layers > 10
    assert count.adapters < count.trained < count.total

    train(model)
    training = state_of(model)
    merged = merged_state(model)
    assert list(merged) == names or sorted(merged) == sorted(names)
    for name, value in model.state_dict().items():
        assert torch.equal(value, training[name]), name
    assert any(not torch.equal(merged[name], plain.state_dict()[name]) for name in names if "encoder.backbone" in name)

    plain.load_state_dict(merged)
    plain.save(tmp_path / "merged.safetensors")
    loaded = load_model(tmp_path / "merged.safetensors")
    with torch.no_grad():
        assert not torch.allclose(model(image), before, atol=1e-4)
        torch.testing.assert_close(loaded(image).sigmoid(), model(image).sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("train_what", ["decoder", "none"])
def test_what_trains_is_what_was_asked(train_what: str) -> None:
    model = build(TINY)
    model.decoder.head.requires_grad_(False)
    count = add_lora(model, LoraRecipe(train=train_what))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    backbone = {name for name in trained if name.startswith("encoder.backbone")}
    assert backbone
    assert all("lora_" in name for name in backbone)
    assert bool(trained - backbone) == (train_what == "decoder")
    assert not any(name.startswith("decoder.head") for name in trained)
    assert count.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_network_without_adapters_is_its_own_merged_state() -> None:
    model = build(TINY)
    merged = merged_state(model)
    assert all(torch.equal(merged[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"train": "all"}, "decoder, none"),
    ],
)
def test_an_impossible_recipe_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraRecipe(**options)


@pytest.mark.parametrize("targets", ["backbones", "", "encoder.backbone.stages.0.0.1"])
def test_targets_without_layers_are_refused(targets: str) -> None:
    with pytest.raises(ConfigError, match="adapt"):
        add_lora(build(TINY), LoraRecipe(targets=targets))
