"""Recipes by name: functions from what is at hand to a `Recipe`, to be read, changed and added to.

Those of the reference follow its published training (facts in its README and code; arXiv 2401.03407, section 4): AdamW
with a weight decay of 1e-2 on all weights, a constant rate times sqrt(batch / 4), bfloat16, backbones that start from
ImageNet. `finetune` and `nano` are this project's own; docs/log.md tells how their values were found.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from birefnet.config import ModelConfig, unknown_name
from birefnet.data.augment import GENTLE, MODERATE, REFERENCE
from birefnet.data.batches import DataRecipe
from birefnet.data.compose import Composition
from birefnet.losses import LOSS_RECIPES, LossRecipe, PixelWeights
from birefnet.training.optimizer import OptimizerRecipe
from birefnet.training.recipe import Recipe, ValidationRecipe

_BATCH = 8


@dataclass(frozen=True)
class Basis:
    """What a recipe is fitted to.

    Attributes:
        photos: how many there are to train on.
        model: the network, where it is given or weights to start from bring it; None for the recipe's own.
        size: (height, width) of the input that these weights were made for.
        batch: photos a step, where it is asked for.
        keep_aspect: whether these weights see photos in their proportions.
    """

    photos: int
    model: ModelConfig | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    keep_aspect: bool = False


def dis5k(basis: Basis) -> Recipe:
    """Thin and intricate objects: the reference's training on DIS5K, 500 epochs at 1024 x 1024."""
    return _published(basis, "dis5k", "DIS5K", epochs=500, rate=1e-4)


def cod(basis: Basis) -> Recipe:
    """Camouflaged objects: the reference's training on COD10K and CAMO, 150 epochs at 1024 x 1024."""
    return _published(basis, "cod", "COD", epochs=150)


def hrsod(basis: Basis) -> Recipe:
    """Salient objects in high resolution: the reference's training on HRSOD and others, 150 epochs at 1024 x 1024."""
    return _published(basis, "hrsod", "HRSOD", epochs=150)


def general(basis: Basis) -> Recipe:
    """Any photo: the reference's training on many sets at once, 200 epochs at 1024 x 1024."""
    return _published(basis, "general", "General", epochs=200)


def general_2k(basis: Basis) -> Recipe:
    """Any photo in 2K: the reference's training at 1440 x 2560 (height x width), 250 epochs."""
    return _published(basis, "general_2k", "General-2K", epochs=250, sizes="1440x2560")


def matting(basis: Basis) -> Recipe:
    """Soft edges such as hair: the reference's training on mattes, 150 epochs at 1024 x 1024."""
    recipe = _published(basis, "matting", "Matting", epochs=150)
    measures = ValidationRecipe(metric="MAE", measures=("MAE", "SAD", "matteMSE", "Grad", "Conn"), every=1)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, soft=True), validation=measures)


def _published(basis: Basis, name: str, task: str, *, epochs: float, rate: float = 1e-5, sizes: str = "1024") -> Recipe:
    batch = basis.batch or _BATCH
    return Recipe(
        name,
        basis.model or ModelConfig(),
        pretrained_backbone="hub" if basis.model is None else None,
        epochs=epochs,
        data=DataRecipe(batch=batch, sizes=sizes, augmentation=REFERENCE),
        loss=LOSS_RECIPES[task],
        optimizer=OptimizerRecipe(rate=rate * math.sqrt(batch / 4), decay_all=True),
        precision="bfloat16",
        validation=ValidationRecipe(every=5),
    )


_FINETUNE_LEAST, _FINETUNE_MOST = 1_500, 40_000


def finetune(basis: Basis) -> Recipe:
    """Own photos, 20 to 5,000 of them: a few thousand samples from trained weights, gently."""
    height, width = basis.size or (1024, 1024)
    samples = min(max(40 * basis.photos, _FINETUNE_LEAST), _FINETUNE_MOST)
    batch = basis.batch or min(8, basis.photos)
    return Recipe(
        "finetune",
        basis.model or ModelConfig(),
        epochs=max(1, round(samples / basis.photos)),
        data=DataRecipe(batch=batch, sizes=f"{height}x{width}", augmentation=GENTLE, keep_aspect=basis.keep_aspect),
        loss=LossRecipe("finetune", PixelWeights(iou=15.0)),
        compare_at="output",
        optimizer=OptimizerRecipe(rate=1e-4, schedule="cosine", warm_up=0.05, clip=100.0, ema=0.99),
        freeze=("norm",),
        # Weighted F asks for masks that are right all over, where the best F of all thresholds forgives grey ones.
        validation=ValidationRecipe(every=max(1, round(samples / basis.photos / 20)), metric="wF", patience=8),
    )


def nano(basis: Basis) -> Recipe:
    """The small network that is bundled, from random weights, on a CPU or GPU."""
    small = ModelConfig(
        backbone="resnet_mini",
        attention="aspp",
        inward="pixels",
        decoder_channels=32,
        attention_channels=32,
        inward_channels=8,
        gradient_channels=16,
        detail_channels=16,
        dropout=0.1,
    )
    return Recipe(
        "nano",
        basis.model or small,
        samples=360_000,
        data=DataRecipe(
            batch=basis.batch or 16,
            # Small photos first cost little and teach most.
            sizes="128:0.62,192:0.26,256:0.12",
            augmentation=MODERATE,
            composition=Composition(paste=0.05, structures=0.02),
            keep_aspect=True,
        ),
        # The published weight of the IoU leaves an undertrained network grey where it is unsure; about half the weight
        # of the cross entropy makes it decide.
        loss=LossRecipe("nano", PixelWeights(iou=15.0), gradient_label="edges"),
        compare_at="output",
        optimizer=OptimizerRecipe(rate=1e-3, schedule="cosine", warm_up=0.02, clip=100.0, ema=0.999),
        precision="bfloat16",
        validation=ValidationRecipe(every=10, truth_above=127),
    )


RECIPES: dict[str, Callable[[Basis], Recipe]] = {
    function.__name__: function for function in (dis5k, cod, hrsod, general, general_2k, matting, finetune, nano)
}
"""Name of a recipe -> the function that makes it."""


def make_recipe(name: str, basis: Basis) -> Recipe:
    """Make the recipe of a name for what is at hand.

    Raises:
        ConfigError: there is no such recipe; the message lists them.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name](basis)
