"""The loss of the class head, which names the photo's category beside its mask."""

from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.functional import full_precision

UNKNOWN_CLASS = -1
"""Index of a photo whose category is not known."""


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy over the photos whose category is known; 0 where none is.

    Args:
        logits: one value for each category (B, classes).
        classes: index of the photo's category (B,), int64; `UNKNOWN_CLASS` for none.
    """
    known = (classes != UNKNOWN_CLASS).sum()
    losses = F.cross_entropy(full_precision(logits), classes, ignore_index=UNKNOWN_CLASS, reduction="sum")
    return losses / known.clamp(min=1)
