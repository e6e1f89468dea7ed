"""How long a training takes, told beforehand."""

from dataclasses import replace

import pytest
import torch

from birefnet.data.augment import NONE
from birefnet.data.batches import DataRecipe
from birefnet.losses import LossRecipe
from birefnet.training.recipe import Recipe
from birefnet.training.timing import Probe, estimate_time, measure_step
from support import TINY

CPU = torch.device("cpu")


def recipe(size: str = "96") -> Recipe:
    data = DataRecipe(sizes=size, augmentation=NONE)
    return Recipe(model=TINY, samples=800, data=data, loss=LossRecipe("DIS5K"))


def test_time_goes_by_the_work() -> None:
    one = recipe(size="64:0.75,128:0.25")
    probe = measure_step(one, CPU)
    assert (probe.height, probe.width, probe.batch) == (128, 128, 8)
    assert 0 < probe.seconds < 60
    small, large = estimate_time(one, replace(probe, seconds=1.0), 800)
    assert large.images_per_second == pytest.approx(8)
    assert large.seconds == pytest.approx(200 / 8)
    assert small.images_per_second == pytest.approx(4 * 8, rel=0.05)
    shared = estimate_time(one, replace(probe, seconds=1.0), 800, world=2)
    assert shared[1].seconds == pytest.approx(large.seconds / 2)


def test_time_of_sizes_that_are_drawn() -> None:
    one = recipe()
    one = replace(one, data=replace(one.data, dynamic=(64, 128)))
    (time,) = estimate_time(one, Probe(96, 96, 8, 10**6, 1.0), 800)
    assert (time.stage.height, time.stage.width) == (96, 96)
