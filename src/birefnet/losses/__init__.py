"""What training minimises: pixel losses on every output, and the loss of the gradient branch."""

from birefnet.losses.gradient import gradient_loss
from birefnet.losses.pixel import PixelWeights, pixel_losses

__all__ = ["PixelWeights", "gradient_loss", "pixel_losses"]
