"""All that a training step minimises, from what the network gives and what is known about the photos."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from birefnet.errors import InputError
from birefnet.losses.category import class_loss
from birefnet.losses.gradient import edge_label, gradient_loss
from birefnet.losses.pixel import PixelWeights, Resolution, pixel_losses
from birefnet.losses.recipes import LossRecipe, get_loss_recipe


class Supervised(Protocol):
    """What a network gives to be supervised: `birefnet.model.TrainOutput`, or one of your own.

    Attributes:
        logits: the mask, (B, 1, H, W).
        side_logits: coarser masks on the way, (B, 1, h, w) each.
        earlier_logits: masks before a refiner.
        gradient_logits: predictions of the gradient map, (B, 1, h, w) each.
        gradient_labels: what these are trained towards, (B, 1, H, W) each, before a sigmoid.
        class_logits: the categories of the photos, (B, classes), or None without a class head.
    """

    @property
    def logits(self) -> Tensor: ...  # noqa: D102 - described above

    @property
    def side_logits(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def earlier_logits(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def gradient_logits(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def gradient_labels(self) -> Sequence[Tensor]: ...  # noqa: D102

    @property
    def class_logits(self) -> Tensor | None: ...  # noqa: D102


def training_losses(
    output: Supervised,
    truth: Tensor,
    recipe: LossRecipe | str,
    *,
    weights: PixelWeights | None = None,
    classes: Tensor | None = None,
    image: Tensor | None = None,
    valid: Tensor | None = None,
    compare_at: Resolution = "target",
    reference_defects: bool = False,
) -> dict[str, Tensor]:
    """Weigh everything that a training step minimises.

    Args:
        output: what the network gave.
        truth: masks (B, 1, H, W) in [0, 1].
        recipe: the weights, or the name of a task in `LOSS_RECIPES`.
        weights: those of this epoch, from `weights_at`; None for the recipe's own.
        classes: indices of the photos' categories (B,), int64, -1 where none is known; needed with a class head.
        image: what the network saw (B, 3, H, W); needed where the recipe's gradient label is "edges".
        valid: how far each pixel of the truth counts (B, 1, H, W); None means fully.
        compare_at: the resolution at which coarse masks are compared; see `pixel_losses`. "target" is the reference's.
        reference_defects: reproduce the reference's errors; see `pixel_losses`.

    Returns:
        The weighted terms by name: those of `PixelWeights`, summed over all masks, and "gradient" and "category" where
        the network has these branches. A term of weight 0 is not computed. The loss is the sum of all.

    Raises:
        ConfigError: there is no such task.
        InputError: the truth does not fit the masks, or the categories or the image are missing.
    """
    if isinstance(recipe, str):
        recipe = get_loss_recipe(recipe)
    masks = (*output.side_logits, *output.earlier_logits, output.logits)
    terms = pixel_losses(masks, truth, weights or recipe.pixel, valid, compare_at, reference_defects=reference_defects)
    if output.gradient_logits and recipe.gradient:
        terms["gradient"] = recipe.gradient * _gradient_term(output, truth, recipe, image)
    if output.class_logits is not None and recipe.category:
        if classes is None:
            raise InputError("the network has a class head: pass the photos' classes, or give category weight 0")
        terms["category"] = recipe.category * class_loss(output.class_logits, classes)
    return terms


def _gradient_term(output: Supervised, truth: Tensor, recipe: LossRecipe, image: Tensor | None) -> Tensor:
    if recipe.gradient_label == "laplacian":
        return gradient_loss(output.gradient_logits, output.gradient_labels)
    if image is None:
        raise InputError("the gradient branch is to learn edges: pass the image, or take the label laplacian")
    label = edge_label(image, truth)
    return gradient_loss(output.gradient_logits, [label] * len(output.gradient_logits), shares=True)
