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

LIGHT = ["swin_v1_t", "pvt_v2_b0", "vgg16bn", "resnet50", "dino_v3_s", "mobilenet_v4_s", "resnet_mini"]


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


def compiled_and_plain(lines: list[str], backbone: str = "dino_v3_s", **options: Any) -> tuple[TrainStep, BiRefNet]:
    torch._dynamo.reset()
    plain = build(backbone=backbone)
    step = TrainStep(copy.deepcopy(plain))
    assert compile_or_not(step, lines.append, **options) is step
    return step, plain


def check_alike(step: TrainStep, plain: BiRefNet, size: int = 64) -> None:
    """Outputs, gradients and running statistics."""
    images = torch.randn(2, 3, size, size)
    torch.manual_seed(3)
    found = step(images).logits
    torch.manual_seed(3)
    expected = TrainStep(plain)(images).logits
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    expected.square().mean().backward()
    for own, other in zip(step.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [
        ("dino_v3_s", 12),
        pytest.param("swin_v1_t", 12, marks=pytest.mark.long),
        pytest.param("pvt_v2_b0", 8, marks=pytest.mark.long),
    ],
)
def test_compiling_gives_the_same(backbone: str, blocks: int) -> None:
    lines: list[str] = []
    step, plain = compiled_and_plain(lines, backbone, backend="aot_eager", gain=0.0)
    for _ in range(2):
        check_alike(step, plain)
    assert len(lines) == 2
    assert "compiling the backbone for 2 photos of 64 x 64" in lines[0]
    assert f"{2 * blocks} of a step's {2 * blocks} block runs" in lines[1]  # the backbone runs at two sizes
    with torch.no_grad():
        step(torch.randn(2, 3, 96, 96))
    assert len(lines) == 2


def test_parts_that_are_no_quicker_run_as_they_are() -> None:
    lines: list[str] = []
    step, plain = compiled_and_plain(lines, backend="eager", gain=1e9)
    check_alike(step, plain)
    assert "0 of a step's 24 block runs" in lines[1]


def test_compiling_ends_when_the_time_is_up() -> None:
    lines: list[str] = []
    step, plain = compiled_and_plain(lines, backend="eager", limit=1e-6)
    for size in (64, 96):
        check_alike(step, plain, size)
    assert len(lines) == 2
    assert lines[1].endswith("the time for it is up")
    assert "step's 1 block runs" in lines[1]


def test_some_blocks_can_be_compiled_and_some_not() -> None:
    lines: list[str] = []
    step, plain = compiled_and_plain(lines, backend="aot_eager", gain=0.0)
    for number, block in enumerate(blocks_of(step.model).values()):
        if number % 3 == 0 and hasattr(block, "choice"):
            block.choice.compiler = copy.copy(block.choice.compiler)
            block.choice.compiler.gain = 1e9
    for _ in range(2):
        check_alike(step, plain)


@pytest.mark.parametrize("recompute", [True, False])
def test_recomputed_parts_and_batch_norm_are_not_compiled(recompute: bool) -> None:
    lines: list[str] = []
    model = build(backbone="dino_v3_s") if recompute else tiny_model().train()
    if recompute:
        checkpoint_activations(model)
    step = compile_or_not(TrainStep(model), lines.append, backend="eager")
    step(torch.randn(2, 3, 64, 64))
    assert len(lines) == 1
    assert "torch.compile is left out" in lines[0]


def test_what_does_not_compile_runs_all_the_same() -> None:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler found\nand a long story")

    lines: list[str] = []
    step, plain = compiled_and_plain(lines, backend=broken)
    for _ in range(2):
        check_alike(step, plain)
    assert len(lines) == 2
    assert "\n" not in lines[1]
    assert "no compiler found" in lines[1]


def test_a_wrong_image_is_no_fault_of_the_compiler() -> None:
    step, _ = compiled_and_plain([], backend="eager")
    with pytest.raises(InputError):
        step(torch.randn(2, 3, 60, 64))
