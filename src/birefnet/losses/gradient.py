"""The loss of the decoder's gradient branch, which learns where the image has edges worth keeping."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.functional import full_precision


def gradient_loss(predictions: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Sum over the stages of the cross entropy between predicted and true gradients, both through a sigmoid.

    Args:
        predictions: logits (B, 1, h, w) of each stage.
        labels: raw gradient labels (B, 1, H, W) of each stage.
    """
    losses = []
    for prediction, label in zip(predictions, labels, strict=True):
        # align_corners=True: as the published weights were trained.
        logits = F.interpolate(full_precision(prediction), label.shape[-2:], mode="bilinear", align_corners=True)
        losses.append(F.binary_cross_entropy_with_logits(logits, full_precision(label).sigmoid()))
    return torch.stack(losses).sum()
