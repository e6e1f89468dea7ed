"""What would make a training fit."""

import pytest

from birefnet.data.augment import NONE
from birefnet.data.batches import DataRecipe
from birefnet.losses import LossRecipe
from birefnet.training.fitting import largest_batch, savings
from birefnet.training.memory import Machine, estimate_memory
from birefnet.training.recipe import Recipe
from support import TINY


def recipe(size: str = "96", batch: int = 8) -> Recipe:
    data = DataRecipe(batch=batch, sizes=size, augmentation=NONE)
    return Recipe(model=TINY, samples=800, data=data, loss=LossRecipe("DIS5K"))


def test_the_largest_batch_fits() -> None:
    plain = estimate_memory(recipe())
    available = plain.needed + 200_000_000
    batch = largest_batch(recipe(), Machine(), plain, available)
    assert batch > 8
    there = estimate_memory(recipe(batch=batch)).needed
    assert 0.85 * available < there < 1.1 * available
    assert largest_batch(recipe(), Machine(), plain, 100_000_000) == 0


@pytest.mark.slow
def test_savings_are_found_for_what_does_not_fit() -> None:
    found = savings(recipe(size="128"), Machine(), 640_000_000)
    settings = [saving.settings for saving in found]
    assert settings[:3] == [("precision=bfloat16",), ("memory.checkpoint=true",), ("memory.accumulate=4",)]
    assert settings[-1] == ("precision=bfloat16", "memory.checkpoint=true", "memory.accumulate=4")
    assert all(saving.batch % 4 == 0 for saving in found if "memory.accumulate=4" in saving.settings)
    assert max(saving.batch for saving in found) > 0
