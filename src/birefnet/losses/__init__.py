"""What training minimises: pixel losses on every mask, and those of the gradient branch and the class head."""

from birefnet.losses.category import UNKNOWN_CLASS, class_loss
from birefnet.losses.gradient import gradient_loss
from birefnet.losses.pixel import PixelWeights, Resolution, pixel_losses
from birefnet.losses.recipes import LOSS_RECIPES, LateTuning, LossRecipe, get_loss_recipe, weights_at
from birefnet.losses.training import Supervised, training_losses

__all__ = [
    "LOSS_RECIPES",
    "UNKNOWN_CLASS",
    "LateTuning",
    "LossRecipe",
    "PixelWeights",
    "Resolution",
    "Supervised",
    "class_loss",
    "get_loss_recipe",
    "gradient_loss",
    "pixel_losses",
    "training_losses",
    "weights_at",
]
