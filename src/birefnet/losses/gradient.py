"""The loss of the decoder's gradient branch, which learns where the image has edges worth keeping."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.functional import full_precision

_EDGES = 4.0
"""How many times as strong as the photo's mean an edge is that counts fully."""

_BEYOND = 32
"""How far around an object edges count, too: the photo's shorter side over this."""


def edge_label(image: Tensor, truth: Tensor) -> Tensor:
    """Tell where the edges of an image are, in and right around its objects: what a gradient prediction can learn.

    The published label is the Laplacian, with its sign, times the logits of a coarse mask. Over a cell of the maps that
    predict it it averages to nothing, so that a half everywhere is as good as any prediction (docs/log.md, 2026-11-28).
    The paper (section 3.3) speaks of a gradient map within a dilated mask; this is its strength, within the truth.

    Args:
        image: (B, 3, H, W), as the network sees it.
        truth: masks (B, 1, H, W) in [0, 1].

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    grey = full_precision(image).mean(dim=1, keepdim=True)
    # The same as kornia's Laplacian of 5 x 5 but for a factor, which goes when it is divided by its mean.
    strength = (F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="reflect"), 5, 1) - grey).abs()
    relative = strength / (_EDGES * strength.mean(dim=(1, 2, 3), keepdim=True) + 1e-4)
    reach = min(truth.shape[-2:]) // _BEYOND
    # One direction after the other, as pooling in large squares takes long.
    near = F.max_pool2d(truth, (2 * reach + 1, 1), 1, (reach, 0))
    near = F.max_pool2d(near, (1, 2 * reach + 1), 1, (0, reach))
    return relative.clamp(0, 1) * near


def gradient_loss(predictions: Sequence[Tensor], labels: Sequence[Tensor], *, shares: bool = False) -> Tensor:
    """Sum over the stages of the cross entropy between predicted and true gradients, both through a sigmoid.

    Args:
        predictions: logits (B, 1, h, w) of each stage.
        labels: raw gradient labels (B, 1, H, W) of each stage.
        shares: the labels are in [0, 1] already, as those of `edge_label`.
    """
    losses = []
    for prediction, label in zip(predictions, labels, strict=True):
        # align_corners=True: as the published weights were trained.
        logits = F.interpolate(full_precision(prediction), label.shape[-2:], mode="bilinear", align_corners=True)
        target = full_precision(label)
        losses.append(F.binary_cross_entropy_with_logits(logits, target if shares else target.sigmoid()))
    return torch.stack(losses).sum()
