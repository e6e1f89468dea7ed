"""The weighted pixel losses over the network's outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from birefnet.losses.functional import binary_cross_entropy, iou_loss, ssim_loss

Resolution = Literal["output", "target"]


@dataclass(frozen=True)
class PixelWeights:
    """Weight of each pixel loss; the defaults are those of the published training on DIS5K."""

    bce: float = 30.0
    iou: float = 0.5
    ssim: float = 10.0


def pixel_losses(
    outputs: Sequence[Tensor],
    target: Tensor,
    weights: PixelWeights,
    valid: Tensor | None = None,
    compare_at: Resolution = "output",
) -> dict[str, Tensor]:
    """Compare each output with the truth and sum the terms over the outputs.

    An output smaller than the truth can be compared at two resolutions. "output" shrinks the truth to the
    output (each value the share of foreground in its cell): a small part of the cost, and a coarse stage is not
    asked for detail it cannot hold. "target" enlarges the output to the truth, as the published training does.

    Args:
        outputs: logits (B, 1, h, w), at full or lower resolution.
        target: truth (B, 1, H, W) in [0, 1].
        weights: weight of each term; a term of weight 0 is not computed.
        valid: how far each pixel of the truth counts (B, 1, H, W); None means fully.
        compare_at: the resolution at which smaller outputs are compared.

    Returns:
        The weighted terms by name: "bce", "iou", "ssim". The loss is their sum.
    """
    sums: dict[str, Tensor] = {}
    for output in outputs:
        # Half-precision logits would make the sums over thousands of pixels coarse.
        logits = output.float()
        truth, counts = target, valid
        if logits.shape[-2:] != target.shape[-2:]:
            if compare_at == "target":
                # align_corners=True: as the published weights were trained.
                logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=True)
            else:
                truth, counts = _shrink(target, valid, (logits.shape[-2], logits.shape[-1]))
        for name, term in _terms(logits, truth, weights, counts).items():
            sums[name] = sums[name] + term if name in sums else term
    return sums


def _terms(logits: Tensor, target: Tensor, weights: PixelWeights, valid: Tensor | None) -> dict[str, Tensor]:
    probabilities = logits.sigmoid()
    terms = {}
    if weights.bce:
        terms["bce"] = weights.bce * binary_cross_entropy(logits, target, valid)
    if weights.iou:
        terms["iou"] = weights.iou * iou_loss(probabilities, target, valid)
    if weights.ssim:
        terms["ssim"] = weights.ssim * ssim_loss(probabilities, target, valid)
    return terms


def _shrink(target: Tensor, valid: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Average the truth over the cells of a coarser grid, over the pixels that count where some do not."""
    if valid is None:
        return F.adaptive_avg_pool2d(target, size), None
    counts = F.adaptive_avg_pool2d(valid, size)
    return F.adaptive_avg_pool2d(target * valid, size) / counts.clamp(min=1e-6), counts
