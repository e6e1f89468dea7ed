import dataclasses
import math

import pytest

from birefnet.errors import ConfigError
from birefnet.losses import LOSS_RECIPES, LateTuning, LossRecipe, PixelWeights, get_loss_recipe, weights_at

EPOCHS = {"DIS5K": 500, "COD": 150, "HRSOD": 150, "General": 200, "General-2K": 250, "Matting": 150}


def test_every_task_has_the_published_weights() -> None:
    segmentation = PixelWeights(bce=30, iou=0.5, ssim=10)
    general = PixelWeights(bce=30, iou=0.5, ssim=10, mae=100)
    assert {task: recipe.pixel for task, recipe in LOSS_RECIPES.items()} == {
        "DIS5K": segmentation,
        "COD": segmentation,
        "HRSOD": segmentation,
        "General": general,
        "General-2K": general,
        "Matting": PixelWeights(bce=30, iou=0, ssim=10, mae=100),
    }
    for task, recipe in LOSS_RECIPES.items():
        assert get_loss_recipe(task) is recipe
        assert (recipe.task, recipe.gradient, recipe.category) == (task, 1, 5)


@pytest.mark.parametrize(
    ("task", "epoch", "expected"),
    [
        ("DIS5K", 460, PixelWeights(30, 0.5, 10)),
        ("DIS5K", 461, PixelWeights(0, 0.25, 10)),
        ("DIS5K", 463, PixelWeights(0, 0.0625, 10)),
        ("COD", 130, PixelWeights(30, 0.5, 10)),
        ("COD", 131, PixelWeights(0, 0.25, 10)),
        ("General", 181, PixelWeights(0, 0.25, 10, 90)),
        ("General-2K", 232, PixelWeights(0, 0.125, 10, 81)),
        ("Matting", 140, PixelWeights(30, 0, 10, 100)),
        ("Matting", 141, PixelWeights(30, 0, 9, 100)),
        ("Matting", 150, PixelWeights(30, 0, 10 * 0.9**10, 100)),
    ],
)
def test_weights_of_single_epochs(task: str, epoch: int, expected: PixelWeights) -> None:
    weights = weights_at(task, epoch, EPOCHS[task])
    assert dataclasses.asdict(weights) == pytest.approx(dataclasses.asdict(expected))


def mutated(recipe: LossRecipe, epochs: int) -> list[dict[str, float]]:
    """Weights of each epoch of a run that is never stopped, changed in place as the reference does."""
    weights = dataclasses.asdict(recipe.pixel)
    history = []
    for epoch in range(1, epochs + 1):
        if epoch > epochs - recipe.late.epochs:
            for name, factor in recipe.late.factors.items():
                weights[name] *= factor
        history.append(dict(weights))
    return history


@pytest.mark.parametrize("epochs", [1, 7, 20, 41, 150])
@pytest.mark.parametrize("task", list(LOSS_RECIPES))
def test_weights_are_those_of_a_run_that_changes_them_in_place(task: str, epochs: int) -> None:
    for epoch, expected in enumerate(mutated(LOSS_RECIPES[task], epochs), start=1):
        assert dataclasses.asdict(weights_at(task, epoch, epochs)) == pytest.approx(expected)


def test_a_resumed_run_has_the_same_weights() -> None:
    before = dataclasses.replace(LOSS_RECIPES["General"])
    backwards = [weights_at("General", epoch, 200) for epoch in range(200, 0, -1)]
    assert backwards[::-1] == [weights_at("General", epoch, 200) for epoch in range(1, 201)]
    assert LOSS_RECIPES["General"] == before


def test_mse_fades_in_matting_where_it_is_on() -> None:
    recipe = dataclasses.replace(LOSS_RECIPES["Matting"], pixel=PixelWeights(mse=30))
    assert weights_at(recipe, 150, 150).mse == pytest.approx(30 * 0.9**10)


def test_without_late_tuning_nothing_changes() -> None:
    recipe = LossRecipe("mine", PixelWeights(structure=5))
    assert {weights_at(recipe, epoch, 9) for epoch in range(1, 10)} == {recipe.pixel}


@pytest.mark.parametrize(("epoch", "epochs"), [(0, 10), (-3, 10), (11, 10), (1, 0)])
def test_epochs_that_do_not_exist_are_refused(epoch: int, epochs: int) -> None:
    with pytest.raises(ConfigError, match=f"counted from 1 to {epochs}.*no epoch {epoch}"):
        weights_at("COD", epoch, epochs)


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task 'DIS-5K': did you mean 'DIS5K'"):
        weights_at("DIS-5K", 1, 2)


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="weight of the gradient loss must be a number of 0 or more, not -1"):
        LossRecipe("mine", gradient=-1)
    with pytest.raises(ConfigError, match="weight of the category loss must be a number of 0 or more, not nan"):
        LossRecipe("mine", category=math.nan)
    with pytest.raises(ConfigError, match="the factor of iou in late tuning must be a number of 0 or more, not inf"):
        LateTuning(3, iou=math.inf)
    for epochs in (-1, 2.5):
        with pytest.raises(
            ConfigError, match=f"epochs of late tuning must be a whole number of 0 or more, not {epochs}"
        ):
            LateTuning(epochs)  # type: ignore[arg-type]
