"""What memory a training takes, told beforehand, against what it takes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from birefnet.config import ModelConfig
from birefnet.data.augment import MODERATE, NONE
from birefnet.data.batches import DataRecipe
from birefnet.errors import ConfigError, InputError
from birefnet.losses import LossRecipe, training_losses
from birefnet.model import BiRefNet
from birefnet.training.fake_step import Ledger
from birefnet.training.lora import LoraRecipe
from birefnet.training.memory import Machine, Memory, bytes_of, cache_bytes, estimate_memory
from birefnet.training.optimizer import OptimizerRecipe
from birefnet.training.parallel import TrainStep
from birefnet.training.recipe import MemoryRecipe, Recipe
from birefnet.training.trial import empty_network
from support import TINY

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "training.py"


def recipe(model: ModelConfig = TINY, size: str = "96", batch: int = 8) -> Recipe:
    data = DataRecipe(batch=batch, sizes=size, augmentation=NONE)
    return Recipe(model=model, samples=800, data=data, loss=LossRecipe("DIS5K"), optimizer=OptimizerRecipe(ema=0.9))


@pytest.fixture(scope="module")
def plain() -> Memory:
    return estimate_memory(recipe())


@pytest.mark.parametrize("attention", ["aspp", "deformable"])
def test_working_memory_is_that_of_a_real_step(attention: str) -> None:
    model = BiRefNet(replace(TINY, attention=attention)).train().to(memory_format=torch.channels_last)
    network = TrainStep(model)
    one = recipe(model.config, "128", 4)
    with Ledger() as ledger:
        ledger.restart(0)
        for _ in range(2):
            images = torch.empty(4, 3, 128, 128).contiguous(memory_format=torch.channels_last).normal_()
            target = torch.rand(4, 1, 128, 128)
            loss = _loss(network, images, target, one)
            loss.backward()
            model.zero_grad()
            del images, target, loss
    weights = bytes_of([*model.parameters(), *model.buffers()])
    memory = estimate_memory(one)
    assert memory.weights == weights
    assert memory.working == pytest.approx(ledger.peak, rel=0.03)


def _loss(network: TrainStep, images: Tensor, target: Tensor, one: Recipe) -> Tensor:
    terms = training_losses(
        network(images), target, one.loss, classes=torch.zeros(4, dtype=torch.int64), valid=torch.ones_like(target)
    )
    return torch.stack(list(terms.values())).sum()


def test_parts_add_up(plain: Memory) -> None:
    weights = sum(parameter.numel() * 4 for parameter in empty_network(recipe()).parameters())
    assert plain.moments == 2 * weights
    assert weights < plain.average <= plain.weights
    parts = (plain.program, plain.weights, plain.moments, plain.average, plain.working, plain.slack)
    assert plain.needed == plain.resident == sum(parts)
    assert estimate_memory(recipe()).needed == pytest.approx(plain.needed, rel=1e-3)


def test_networks_of_shapes_take_no_memory() -> None:
    model = empty_network(recipe(ModelConfig()))
    assert sum(parameter.numel() for parameter in model.parameters()) > 200e6
    assert all(parameter.is_meta for parameter in model.parameters())
    real = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers() if not buffer.is_meta)
    assert real == 0


@pytest.mark.parametrize(
    "change",
    [
        {"memory": MemoryRecipe(checkpoint=True)},
        {"memory": MemoryRecipe(accumulate=4)},
        {"precision": "bfloat16"},
        {"freeze": ("backbone", "norm")},
    ],
    ids=str,
)
def test_savings_save(plain: Memory, change: dict[str, object]) -> None:
    saved = estimate_memory(replace(recipe(), **change))  # type: ignore[arg-type]
    assert saved.working < 0.9 * plain.working
    assert saved.needed < plain.needed


def test_what_is_frozen_has_no_moments(plain: Memory) -> None:
    pytest.importorskip("peft")
    frozen = estimate_memory(replace(recipe(), freeze=("backbone",)))
    adapted = estimate_memory(replace(recipe(), lora=LoraRecipe(rank=2)))
    assert frozen.moments < adapted.moments < plain.moments
    assert frozen.weights == plain.weights < adapted.weights


def test_several_processes_share(plain: Memory) -> None:
    ddp = estimate_memory(recipe(), Machine(world=2))
    fsdp = estimate_memory(recipe(), Machine(world=2, strategy="fsdp"))
    assert ddp.weights == plain.weights
    assert ddp.working < plain.working
    assert fsdp.weights == plain.weights // 2
    assert fsdp.moments == plain.moments // 2
    with pytest.raises(ConfigError, match="8 cannot be shared by 3"):
        estimate_memory(recipe(), Machine(world=3))


def test_the_largest_size_decides(plain: Memory) -> None:
    stages = estimate_memory(recipe(size="64:0.5,96:0.2,32:0.3"))
    drawn = recipe()
    drawn = replace(drawn, data=replace(drawn.data, sizes="32", dynamic=(32, 96)))
    assert stages.needed == pytest.approx(plain.needed, rel=1e-3)
    assert estimate_memory(drawn).needed == pytest.approx(plain.needed, rel=1e-3)


def test_a_gpu_holds_tensors_alone(plain: Memory) -> None:
    memory = estimate_memory(recipe(), Machine("cuda"))
    assert memory.program == 0
    assert memory.weights == plain.weights


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="single image"):
        estimate_memory(recipe(batch=1))


def test_photos_on_the_disk() -> None:
    data = DataRecipe(sizes="64:0.5,128x64:0.5", augmentation=MODERATE)
    assert cache_bytes(data, 10) == 10 * 4 * (80 * 80 + 160 * 80)
    assert cache_bytes(replace(data, dynamic=(64, 128)), 10) == 0
    memory = estimate_memory(recipe(size="64"), photos=1000)
    assert memory.photos == memory.resident - memory.needed == 1000 * 4 * 64 * 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        ["nano", {"data.sizes": "160", "data.batch": 16}],
        ["dis5k", {"model.backbone": "pvt_v2_b0", "data.sizes": "128", "data.batch": 4}],
        pytest.param(
            ["dis5k", {"model.backbone": "swin_v1_t", "data.sizes": "224", "data.batch": 2, "memory.checkpoint": True}],
            marks=pytest.mark.long,
        ),
    ],
    ids=["nano", "pvt", "swin"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="holes are those of glibc's heap")
def test_peak_memory_of_real_training(order: list[object]) -> None:
    process = subprocess.run(
        [sys.executable, BENCHMARK, "steps", json.dumps([*order, 3, "cpu"])], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    # docs/benchmarks.md has the figures of one machine, within a tenth; others have other libraries and heaps.
    assert result["estimate"] == pytest.approx(result["peak"], rel=0.3)
