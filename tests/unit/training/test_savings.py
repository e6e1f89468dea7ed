"""Recomputed activations, frozen parts and torch.compile: the same gradients, with less."""

import copy
from typing import Any

import pytest
import torch
from tests.support import TINY, tiny_model
from torch import Tensor, nn

from birefnet.backbones import BACKBONES
from birefnet.config import REFINERS, ModelConfig, RefinerConfig
from birefnet.errors import ConfigError, InputError
from birefnet.model import BiRefNet
from birefnet.training.blocks import blocks_of
from birefnet.training.parallel import TrainStep
from birefnet.training.savings import checkpoint_activations, compile_or_not, freeze

LIGHT = ["swin_v1_t", "pvt_v2_b0", "vgg16bn", "resnet50", "dino_v3_s", "mobilenet_v4_s"]


def build(**options: Any) -> BiRefNet:
    torch.manual_seed(0)
    config = ModelConfig.from_dict({**TINY.to_dict(), "dropout": 0.1, **options})
    return BiRefNet.from_config(config).train()


def gradients(model: BiRefNet, size: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(1)
    image = torch.randn(2, 3, size, size)
    out = model.forward_train(image)
    torch.stack(
        [logits.square().mean() for logits in (out.logits, *out.side_logits, *out.gradient_logits)]
    ).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backbone", LIGHT)
def test_recomputing_changes_no_bit(backbone: str) -> None:
    plain = build(backbone=backbone)
    saving = copy.deepcopy(plain)
    count = checkpoint_activations(saving)
    assert count == len(blocks_of(plain)) >= 8
    assert list(saving.state_dict()) == list(plain.state_dict())
    expected, found = gradients(plain), gradients(saving)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    for name, value in plain.state_dict().items():  # running statistics have seen the batch once
        assert torch.equal(saving.state_dict()[name], value), name


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(model: BiRefNet) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = model.forward_train(torch.randn(2, 3, 128, 128))
        del out
        return sum(sizes.values())

    plain = build()
    saving = copy.deepcopy(plain)
    checkpoint_activations(saving)
    assert kept(saving) < 0.5 * kept(plain)


def test_a_copy_of_a_saving_network_runs_itself() -> None:
    model = build()
    checkpoint_activations(model)
    checkpoint_activations(model)  # a second time changes nothing
    twin = copy.deepcopy(model)
    gradients(twin)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


@pytest.mark.parametrize("kind", REFINERS)
def test_refiners_have_parts_too(kind: str) -> None:
    refiner = RefinerConfig(kind=kind, backbone="mobilenet_v4_s") if kind == "refiner" else RefinerConfig(kind=kind)
    model = build(refiner=refiner.to_dict() if hasattr(refiner, "to_dict") else refiner)
    names = blocks_of(model)
    assert any(name.startswith("refinement") for name in names) == (kind != "itself")
    modules = dict(model.named_modules())
    assert all(modules[name] is part for name, part in names.items())


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "dino_v3_7b"])
def test_every_backbone_has_parts(name: str) -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config(ModelConfig.from_dict({**TINY.to_dict(), "backbone": name}))
    backbone = [part for part in blocks_of(model) if part.startswith("encoder.backbone")]
    assert len(backbone) >= 4
    assert "encoder.backbone" not in backbone


def test_a_frozen_backbone_stays_as_it_is() -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count = freeze(model, ["backbone"])
    assert count == sum(p.numel() for p in model.encoder.backbone.parameters())
    model.train()
    assert not model.encoder.backbone.training
    assert model.decoder.training
    gradients(model)
    for name, value in model.encoder.backbone.state_dict().items():
        assert torch.equal(value, before[f"encoder.backbone.{name}"]), name
    assert all(p.grad is None for p in model.encoder.backbone.parameters())


def test_frozen_batch_norm_normalises_by_what_it_knows() -> None:
    model = build()
    freeze(model, ["norm"])
    norms = [part for part in model.train().modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    found = gradients(model)
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)
    assert all(parameter.grad is None for norm in norms for parameter in norm.parameters())
    assert "encoder.backbone.stages.0.0.0.weight" in found
    model.forward_train(torch.randn(1, 3, 64, 64))  # a single image has no statistics to be afraid of


def test_a_part_is_frozen_by_its_path() -> None:
    model = build()
    freeze(model, ["encoder.backbone.stages.0", "decoder.stages.3"])
    found = gradients(model.train())
    assert not any(name.startswith(("encoder.backbone.stages.0.", "decoder.stages.3.")) for name in found)
    assert any(name.startswith("encoder.backbone.stages.1.") for name in found)


def test_wrong_names_are_listed_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"'backbon', 'decoder.stage.0'.*decoder.stages.0"):
        freeze(build(), ["backbon", "norm", "decoder.stage.0"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        freeze(build(), ["encoder", "decoder"])


@pytest.mark.slow
def test_compiling_gives_the_same_and_counts_the_batch_once() -> None:
    torch._dynamo.reset()
    lines: list[str] = []
    model, plain = tiny_model().train(), tiny_model().train()
    step = compile_or_not(TrainStep(model), lines.append, backend="eager")
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(3)
    found = step(images)
    torch.manual_seed(3)
    torch.testing.assert_close(found.logits, plain.forward_train(images).logits)
    assert not lines
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_what_does_not_compile_runs_all_the_same() -> None:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler found\nand a long story")

    torch._dynamo.reset()
    lines: list[str] = []
    model, plain = tiny_model().train(), tiny_model().train()
    step = compile_or_not(TrainStep(model), lines.append, backend=broken)
    images = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        torch.manual_seed(3)
        found = step(images)
        torch.manual_seed(3)
        assert torch.equal(found.logits, plain.forward_train(images).logits)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "no compiler found" in lines[0]
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_wrong_image_is_no_fault_of_the_compiler() -> None:
    torch._dynamo.reset()
    lines: list[str] = []
    step = compile_or_not(TrainStep(tiny_model().train()), lines.append, backend="eager")
    with pytest.raises(InputError):
        step(torch.randn(2, 3, 60, 64))
