"""Losses as pure functions of tensors, (B, 1, H, W) -> scalar.

Each takes an optional `valid` of the same shape in [0, 1]: how far a pixel counts. Where it is 0, neither the
prediction nor the truth changes the loss.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2
_SSIM_RADIUS = 5
_SSIM_SIGMA = 1.5

# Far below one pixel, so no loss with anything to compare changes, and 0 / 0 becomes 1: a perfect match.
_IOU_EPSILON = 1e-6


def binary_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy of logits against a truth in [0, 1], soft values included."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(losses, valid)


def iou_loss(probabilities: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the images of 1 - IoU, with soft intersection and union.

    An image without foreground in truth and prediction matches perfectly (loss 0), so the loss is never NaN.
    The reference sums over the batch, which makes this term's weight depend on the batch size.
    """
    if valid is not None:
        probabilities, target = probabilities * valid, target * valid
    intersection = (probabilities * target).flatten(1).sum(1)
    union = probabilities.flatten(1).sum(1) + target.flatten(1).sum(1) - intersection
    return (1 - (intersection + _IOU_EPSILON) / (union + _IOU_EPSILON)).mean()


def ssim_loss(probabilities: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Structural dissimilarity, seen through Gaussian windows of 11 pixels, sigma 1.5, zero padding.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004. The loss is
    1 - (1 + SSIM) / 2, in [0, 1].
    """
    if valid is not None:
        # Both become 0 where nothing is known, so windows that reach over the edge see no difference there.
        probabilities, target = probabilities * valid, target * valid
    mean_p, mean_pp, mean_pt = _window_means(probabilities, probabilities**2, probabilities * target)
    mean_t, mean_tt = _window_means(target, target**2)
    variances = (mean_pp - mean_p**2) + (mean_tt - mean_t**2)
    covariance = mean_pt - mean_p * mean_t
    luminance = (2 * mean_p * mean_t + _SSIM_C1) / (mean_p**2 + mean_t**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)
    return 1 - (1 + _mean(luminance * structure, valid)) / 2


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over all pixels of the batch that count; 0 where none does."""
    if valid is None:
        return values.mean()
    return (values * valid).sum() / valid.sum().clamp(min=1)


def _window_means(*maps: Tensor) -> tuple[Tensor, ...]:
    blurred: Tensor = _GaussianWindow.apply(torch.stack(maps))  # type: ignore[no-untyped-call]
    return blurred.unbind()


def _gaussian_taps() -> list[float]:
    """Weights of the window along one side, from the centre outward; they sum to 1 with both sides."""
    distances = torch.arange(_SSIM_RADIUS + 1, dtype=torch.float64)
    taps = torch.exp(-(distances**2) / (2 * _SSIM_SIGMA**2))
    taps /= taps[0] + 2 * taps[1:].sum()
    return [float(tap) for tap in taps]


_TAPS = _gaussian_taps()


def _blur_rows(maps: Tensor) -> Tensor:
    """Blur along the second-last dimension, with zeros beyond the borders."""
    blurred = maps * _TAPS[0]
    for distance, tap in enumerate(_TAPS[1 : maps.shape[-2]], start=1):
        blurred[..., distance:, :].add_(maps[..., :-distance, :], alpha=tap)
        blurred[..., :-distance, :].add_(maps[..., distance:, :], alpha=tap)
    return blurred


class _GaussianWindow(torch.autograd.Function):
    """Weighted mean of the 11 x 11 pixels around each pixel, one side after the other.

    Sums of shifted maps, in place: several times faster on a CPU than a depthwise convolution. A symmetric
    window with zero padding is its own adjoint, so backward is the same blur.
    """

    @staticmethod
    def forward(_ctx: object, maps: Tensor) -> Tensor:
        rows = _blur_rows(maps)
        return _blur_rows(rows.transpose(-1, -2)).transpose(-1, -2)

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        blurred: Tensor = _GaussianWindow.apply(gradient)  # type: ignore[no-untyped-call]
        return blurred
