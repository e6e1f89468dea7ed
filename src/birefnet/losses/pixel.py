"""The weighted pixel losses over the network's outputs."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from birefnet.errors import ConfigError, InputError
from birefnet.losses.functional import (
    binary_cross_entropy,
    contour_loss,
    full_precision,
    iou_loss,
    mae_loss,
    mse_loss,
    patch_iou_loss,
    ssim_loss,
    structure_loss,
    threshold_regulariser,
)

Resolution = Literal["output", "target"]


@dataclass(frozen=True)
class PixelWeights:
    """Weight of each pixel loss; the defaults are those of the published training on DIS5K.

    Where the reference once used a term that is off today, its scale is told.

    Attributes:
        bce: binary cross entropy.
        iou: one minus the intersection over union.
        ssim: structural dissimilarity.
        mae: mean absolute difference.
        mse: mean squared difference; 30 in the reference.
        patch_iou: `iou` in windows of 64 x 64 pixels; 0.5 in the reference.
        regulariser: pull towards 0 and 1, whatever the truth; 100 in the reference.
        contour: active contours; 5 in the reference.
        structure: cross entropy and IoU weighted near edges; 5 in the reference.

    Raises:
        ConfigError: a weight is negative or no finite number.
    """

    bce: float = 30.0
    iou: float = 0.5
    ssim: float = 10.0
    mae: float = 0.0
    mse: float = 0.0
    patch_iou: float = 0.0
    regulariser: float = 0.0
    contour: float = 0.0
    structure: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_weight(f"the weight of the {field.name} loss", getattr(self, field.name))


def check_weight(what: str, value: object) -> None:
    """Refuse what cannot be a weight or a factor of one.

    Raises:
        ConfigError: the value is negative or no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{what} must be a number of 0 or more, not {value!r}")


def pixel_losses(
    outputs: Sequence[Tensor],
    target: Tensor,
    weights: PixelWeights,
    valid: Tensor | None = None,
    compare_at: Resolution = "output",
    *,
    reference_defects: bool = False,
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
        reference_defects: compute `iou`, `patch_iou` and `structure` as the reference does, errors included; see
            `birefnet.losses.functional`.

    Returns:
        The weighted terms by the names of their weights. The loss is their sum.

    Raises:
        InputError: the truth has another shape than (B, 1, H, W), or is not of floating point.
    """
    sums: dict[str, Tensor] = {}
    for output in outputs:
        _check(output, target, valid)
        logits = full_precision(output)
        truth, counts = target, valid
        if logits.shape[-2:] != target.shape[-2:]:
            if compare_at == "target":
                # align_corners=True: as the published weights were trained.
                logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=True)
            else:
                truth, counts = _shrink(target, valid, (logits.shape[-2], logits.shape[-1]))
        truth = truth.to(logits.dtype)
        for name, term in _terms(logits, truth, weights, counts, reference_defects).items():
            sums[name] = sums[name] + term if name in sums else term
    return sums


def _terms(
    logits: Tensor, target: Tensor, weights: PixelWeights, valid: Tensor | None, reference_defects: bool
) -> dict[str, Tensor]:
    probabilities = logits.sigmoid()
    terms = {}
    if weights.bce:
        terms["bce"] = weights.bce * binary_cross_entropy(logits, target, valid)
    if weights.iou:
        terms["iou"] = weights.iou * iou_loss(probabilities, target, valid, reference_defects=reference_defects)
    if weights.ssim:
        terms["ssim"] = weights.ssim * ssim_loss(probabilities, target, valid)
    if weights.mae:
        terms["mae"] = weights.mae * mae_loss(probabilities, target, valid)
    if weights.mse:
        terms["mse"] = weights.mse * mse_loss(probabilities, target, valid)
    if weights.patch_iou:
        patches = patch_iou_loss(probabilities, target, valid, reference_defects=reference_defects)
        terms["patch_iou"] = weights.patch_iou * patches
    if weights.regulariser:
        terms["regulariser"] = weights.regulariser * threshold_regulariser(probabilities, valid)
    if weights.contour:
        terms["contour"] = weights.contour * contour_loss(probabilities, target, valid)
    if weights.structure:
        structure = structure_loss(logits, target, valid, reference_defects=reference_defects)
        terms["structure"] = weights.structure * structure
    return terms


def _check(output: Tensor, target: Tensor, valid: Tensor | None) -> None:
    """Refuse a truth that torch would stretch over the outputs without a word."""
    shape = tuple(target.shape)
    if len(shape) != 4 or shape[:2] != tuple(output.shape[:2]) or not target.is_floating_point():
        batch, channels = output.shape[:2]
        raise InputError(
            f"the truth must be floating point in [0, 1], ({batch}, {channels}, H, W) like the outputs, "
            f"not {shape} of {target.dtype}"
        )
    if valid is not None and valid.shape != target.shape:
        raise InputError(f"valid must have the truth's shape {shape}, not {tuple(valid.shape)}")


def _shrink(target: Tensor, valid: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Average the truth over the cells of a coarser grid, over the pixels that count where some do not."""
    if valid is None:
        return F.adaptive_avg_pool2d(target, size), None
    counts = F.adaptive_avg_pool2d(valid, size)
    return F.adaptive_avg_pool2d(target * valid, size) / counts.clamp(min=1e-6), counts
