"""The loss of the class head, which names the photo's category beside its mask."""

from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.functional import full_precision

UNKNOWN_CLASS = -1
"""Index of a photo whose category is not known."""


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean over the photos of the cross entropy, 0 for those whose category is not known.

    All photos count in the mean, so that the loss of a batch is the mean of the losses of its parts.

    Args:
        logits: one value for each category (B, classes).
        classes: index of the photo's category (B,), int64; `UNKNOWN_CLASS` for none.
    """
    logits = full_precision(logits)
    return F.cross_entropy(logits, classes, ignore_index=UNKNOWN_CLASS, reduction="none").mean()
