"""How the published networks weigh their losses, by task, and how the weights change in the last epochs."""

import dataclasses
from dataclasses import dataclass, field

from birefnet.config import unknown_name
from birefnet.errors import ConfigError
from birefnet.losses.pixel import PixelWeights, check_weight

GRADIENT_LABELS = ("laplacian", "edges")


@dataclass(frozen=True)
class LateTuning:
    """What becomes of the pixel weights in the last epochs.

    Attributes:
        epochs: how many of the last epochs are meant; 0 for none.
        bce: what the weight of this term is multiplied by in each of them, once more every epoch.
        iou: as `bce`.
        ssim: as `bce`.
        mae: as `bce`.
        mse: as `bce`.

    Raises:
        ConfigError: a value is negative or no number of its kind.
    """

    epochs: int = 0
    bce: float = 1.0
    iou: float = 1.0
    ssim: float = 1.0
    mae: float = 1.0
    mse: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 0:
            raise ConfigError(f"the epochs of late tuning must be a whole number of 0 or more, not {self.epochs!r}")
        for name, factor in self.factors.items():
            check_weight(f"the factor of {name} in late tuning", factor)

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each term that has one, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "epochs"}


@dataclass(frozen=True)
class LossRecipe:
    """How the losses of a training run are weighed.

    Attributes:
        task: what it is for.
        pixel: weights of the pixel losses, of each of the network's outputs alike.
        gradient: weight of the loss of the gradient branch.
        gradient_label: what that branch learns, "laplacian" as published, or "edges", see
            `birefnet.losses.gradient.edge_label`.
        category: weight of the class head's cross entropy.
        late: how `pixel` changes in the last epochs; see `weights_at`.

    Raises:
        ConfigError: a weight is negative or no finite number, or there is no such label.
    """

    task: str
    pixel: PixelWeights = field(default_factory=PixelWeights)
    gradient: float = 1.0
    gradient_label: str = "laplacian"
    category: float = 5.0
    late: LateTuning = LateTuning()

    def __post_init__(self) -> None:
        for name in ("gradient", "category"):
            check_weight(f"the weight of the {name} loss", getattr(self, name))
        if self.gradient_label not in GRADIENT_LABELS:
            raise unknown_name("gradient label", self.gradient_label, GRADIENT_LABELS)


# For binary truth. The cross entropy goes at once, IoU and the difference fade, and SSIM is left.
_BINARY = LateTuning(20, bce=0.0, iou=0.5, mae=0.9)

LOSS_RECIPES = {
    recipe.task: recipe
    for recipe in (
        LossRecipe("DIS5K", late=dataclasses.replace(_BINARY, epochs=40)),
        LossRecipe("COD", late=_BINARY),
        LossRecipe("HRSOD", late=_BINARY),
        LossRecipe("General", PixelWeights(mae=100.0), late=_BINARY),
        LossRecipe("General-2K", PixelWeights(mae=100.0), late=_BINARY),
        # For soft truth: without IoU, and cross entropy stays to the end.
        LossRecipe("Matting", PixelWeights(iou=0.0, mae=100.0), late=LateTuning(10, ssim=0.9, mse=0.9)),
    )
}
"""Task, by the reference's name -> weights of its published training."""


def get_loss_recipe(task: str) -> LossRecipe:
    """Look the weights of a task up.

    Raises:
        ConfigError: there is no such task; the message lists them.
    """
    if task not in LOSS_RECIPES:
        raise unknown_name("task", task, LOSS_RECIPES)
    return LOSS_RECIPES[task]


def weights_at(recipe: LossRecipe | str, epoch: int, epochs: int) -> PixelWeights:
    """Weights of the pixel losses in an epoch, the same whether the run was stopped before or not.

    In each of the last `recipe.late.epochs` the weights are multiplied by the recipe's factors once more. Of a run that
    has no more epochs than that, every epoch is a late one, and the first is multiplied once.

    Args:
        recipe: the weights, or the name of a task in `LOSS_RECIPES`.
        epoch: which epoch, counted from 1.
        epochs: how many the whole run has.

    Raises:
        ConfigError: there is no such task or epoch.
    """
    if isinstance(recipe, str):
        recipe = get_loss_recipe(recipe)
    if not 1 <= epoch <= epochs:
        raise ConfigError(f"epochs are counted from 1 to {epochs}, the length of the run: there is no epoch {epoch}")
    times = epoch - max(0, epochs - recipe.late.epochs)
    if times <= 0:
        return recipe.pixel
    changed = {name: getattr(recipe.pixel, name) * factor**times for name, factor in recipe.late.factors.items()}
    return dataclasses.replace(recipe.pixel, **changed)
