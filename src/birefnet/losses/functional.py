"""Losses as pure functions of tensors, (B, 1, H, W) -> scalar.

Each takes an optional `valid` of the same shape in [0, 1]: how far a pixel counts. Where it is 0, neither the
prediction nor the truth changes the loss.

Where the reference implementation errs, `reference_defects=True` computes what it computes, for runs that are to be
comparable with it to the digit.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.gaussian import window_means

_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2

# Far below one pixel, so no loss with anything to compare changes, and 0 / 0 becomes 1: a perfect match.
_IOU_EPSILON = 1e-6

PATCH = 64
"""Side of the windows of the patch IoU, in pixels."""

# The square root has a finite slope at 0 with it.
_LENGTH_EPSILON = 1e-8

_STRUCTURE_RADIUS = 15
_STRUCTURE_EMPHASIS = 5


def full_precision(values: Tensor) -> Tensor:
    """Return float32, or float64 where it is given: sums over thousands of pixels are coarse in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def binary_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy of logits against a truth in [0, 1], soft values included.

    Computed from the logits, so a pixel that is surely wrong still has its full gradient. The reference takes
    probabilities, whose float32 is exactly 0 or 1 beyond logits of about 17, where its gradient vanishes.
    """
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(losses, valid)


def mae_loss(probabilities: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute difference (L1)."""
    return _mean((probabilities - target).abs(), valid)


def mse_loss(probabilities: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared difference."""
    return _mean((probabilities - target) ** 2, valid)


def iou_loss(
    probabilities: Tensor, target: Tensor, valid: Tensor | None = None, *, reference_defects: bool = False
) -> Tensor:
    """Mean over the images of 1 - IoU, with soft intersection and union.

    An image without foreground in truth and prediction matches perfectly (loss 0), so the loss is never NaN.

    Args:
        probabilities: the prediction in [0, 1].
        target: the truth in [0, 1].
        valid: how far each pixel counts.
        reference_defects: sum over the batch, so that the term's weight depends on the batch size, and be NaN where
            truth and prediction are both empty.
    """
    probabilities, target = _known(probabilities, target, valid)
    intersection = (probabilities * target).flatten(1).sum(1)
    union = probabilities.flatten(1).sum(1) + target.flatten(1).sum(1) - intersection
    if reference_defects:
        return (1 - intersection / union).sum()
    return _iou_mean(intersection, union)


def patch_iou_loss(
    probabilities: Tensor, target: Tensor, valid: Tensor | None = None, *, reference_defects: bool = False
) -> Tensor:
    """Mean over the images and their windows of 64 x 64 pixels of 1 - IoU, so that small parts weigh as large ones.

    Windows do not overlap; those at the right and lower border are cut off there. A window without foreground in
    truth and prediction matches perfectly.

    Args:
        probabilities: the prediction in [0, 1].
        target: the truth in [0, 1].
        valid: how far each pixel counts.
        reference_defects: step through batch and channels instead of height and width, which looks at the upper left
            window alone for batches up to 64; and sum as the reference's `iou_loss` does.
    """
    probabilities, target = _known(probabilities, target, valid)
    if reference_defects:
        batch, channels = target.shape[:2]
        corners = [(top, left) for top in range(0, batch, PATCH) for left in range(0, channels, PATCH)]
        windows = [(..., slice(top, top + PATCH), slice(left, left + PATCH)) for top, left in corners]
        losses = [iou_loss(probabilities[cut], target[cut], reference_defects=True) for cut in windows]
        return torch.stack(losses).sum()
    intersection = _patch_sums(probabilities * target)
    union = _patch_sums(probabilities) + _patch_sums(target) - intersection
    return _iou_mean(intersection, union)


def ssim_loss(probabilities: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Structural dissimilarity, seen through Gaussian windows of 11 pixels, sigma 1.5, zero padding.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004. The loss is
    1 - (1 + SSIM) / 2, in [0, 1].
    """
    # Both become 0 where nothing is known, so windows that reach over the edge see no difference there.
    probabilities, target = _known(probabilities, target, valid)
    mean_p, mean_pp, mean_pt = window_means(probabilities, probabilities**2, probabilities * target)
    mean_t, mean_tt = window_means(target, target**2)
    variances = (mean_pp - mean_p**2) + (mean_tt - mean_t**2)
    covariance = mean_pt - mean_p * mean_t
    luminance = (2 * mean_p * mean_t + _SSIM_C1) / (mean_p**2 + mean_t**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)
    return 1 - (1 + _mean(luminance * structure, valid)) / 2


def threshold_regulariser(probabilities: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of 1 - (p² + (1 - p)²), which draws every pixel to 0 or 1: 0 for a binary mask, 0.5 for a grey one."""
    return _mean(1 - (probabilities**2 + (probabilities - 1) ** 2), valid)


def contour_loss(
    probabilities: Tensor, target: Tensor, valid: Tensor | None = None, *, length_weight: float = 10.0
) -> Tensor:
    """Length of the contour, and how much lies on its wrong side.

    Chen et al., "Learning active contour models for medical image segmentation", CVPR 2019, equations 11 and 12, with
    means in place of sums. As in the authors' code the two differences that make up the length at a pixel are taken
    one pixel apart from each other. A map with fewer than three rows or columns has no length.

    Args:
        probabilities: the prediction in [0, 1].
        target: the truth in [0, 1].
        valid: how far each pixel counts; a length counts as far as all the pixels it is taken from.
        length_weight: weight of the length beside the two regions.
    """
    downward = probabilities.diff(dim=-2)[..., 1:, :-2]
    rightward = probabilities.diff(dim=-1)[..., :-2, 1:]
    lengths = (downward**2 + rightward**2 + _LENGTH_EPSILON).sqrt()
    counts = None
    if valid is not None:
        counts = valid[..., 2:, :-2] * valid[..., 1:-1, :-2] * valid[..., :-2, 2:] * valid[..., :-2, 1:-1]
    inside = _mean(probabilities * (target - 1) ** 2, valid)
    outside = _mean((1 - probabilities) * target**2, valid)
    return length_weight * _mean(lengths, counts) + inside + outside


def structure_loss(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, reference_defects: bool = False
) -> Tensor:
    """Cross entropy plus 1 - IoU, both of pixels that weigh up to six times as much near the truth's edges.

    Wei et al., "F³Net: fusion, feedback and focus for salient object detection", AAAI 2020. A pixel weighs
    1 + 5 |m - t|, with the mean m of the truth over 31 x 31 pixels around it, zeros beyond the borders. Both parts are
    taken by image and then averaged; the IoU is smoothed by one pixel, so empty masks have one.

    Args:
        logits: the prediction, before a sigmoid.
        target: the truth in [0, 1].
        valid: how far each pixel counts.
        reference_defects: take the probabilities for logits, so that a second sigmoid keeps them within 0.5 and 0.73.
    """
    if reference_defects:
        logits = logits.sigmoid()
    known = target if valid is None else target * valid
    weights = 1 + _STRUCTURE_EMPHASIS * (_box_mean(known, _STRUCTURE_RADIUS) - known).abs()
    if valid is not None:
        weights = weights * valid
    entropies = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # Below 1 only where next to nothing is valid.
    entropy = (weights * entropies).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp(min=1)
    probabilities = logits.sigmoid()
    intersection = (weights * probabilities * target).flatten(1).sum(1)
    union = (weights * (probabilities + target)).flatten(1).sum(1) - intersection
    return (entropy + 1 - (intersection + 1) / (union + 1)).mean()


def _known(probabilities: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Set prediction and truth to 0 as far as pixels do not count."""
    if valid is None:
        return probabilities, target
    return probabilities * valid, target * valid


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the images of the mean over their pixels that count; 0 for an image where none does.

    By image first, so that the loss of a batch is the mean of the losses of its parts, however it is parted among
    processes or accumulated steps.
    """
    if valid is None:
        return values.mean() if values.numel() else values.sum()
    counted = valid.flatten(1).sum(1).clamp(min=1)
    return ((values * valid).flatten(1).sum(1) / counted).mean()


def _iou_mean(intersection: Tensor, union: Tensor) -> Tensor:
    """Mean of 1 - IoU over all that was compared."""
    return (1 - (intersection + _IOU_EPSILON) / (union + _IOU_EPSILON)).mean()


def _patch_sums(values: Tensor) -> Tensor:
    """Sums over windows of `PATCH` pixels side by side.  (B, C, H, W) -> (B, C, rows, columns)."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (0, -width % PATCH, 0, -height % PATCH))
    batch, channels, height, width = padded.shape
    return padded.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH).sum((3, 5))


def _box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over a square around each pixel, zeros beyond the borders; one side after the other."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(values, (side, 1), stride=1, padding=(radius, 0))
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius))
