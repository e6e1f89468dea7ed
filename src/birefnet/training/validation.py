"""A quick look at how good a network is, at the size it sees photos at."""

import torch
from torch import Tensor, nn

from birefnet.data.augment import augment
from birefnet.data.cache import Pack

_BETA_SQUARED = 0.3


@torch.no_grad()
def validate(model: nn.Module, pack: Pack, size: int, device: torch.device, batch: int = 16) -> dict[str, float]:
    """Measure a network on a data set, unlabelled pixels aside.

    These figures follow a run; they are close to, but not, the field's measures at full resolution.

    Args:
        model: maps (B, 3, S, S) to logits; put into evaluation mode.
        pack: the photos and masks.
        size: side of the square to predict at.
        device: where the model is.
        batch: photos at once.

    Returns:
        "mae", "iou" (soft, mean over the photos) and "max_f" (F-measure, beta² 0.3, the best of 256 thresholds).
    """
    model.eval()
    errors, overlaps, curves = [], [], []
    for start in range(0, len(pack.names), batch):
        pixels = torch.from_numpy(pack.pixels[start : start + batch]).to(device)
        data = augment(pixels, size)
        images = data.images.contiguous(memory_format=torch.channels_last)
        # Unlabelled pixels become background in both: no error, no foreground.
        alpha = model(images).float().sigmoid() * data.valid
        counted = data.valid.flatten(1).sum(1).clamp(min=1)
        errors.append((alpha - data.target).abs().flatten(1).sum(1) / counted)
        shared = (alpha * data.target).flatten(1).sum(1)
        overlaps.append(shared / (alpha + data.target - alpha * data.target).flatten(1).sum(1).clamp(min=1e-6))
        curves.append(_f_curves(alpha, data.target > 0.5, data.valid > 0))
    return {
        "mae": float(torch.cat(errors).mean()),
        "iou": float(torch.cat(overlaps).mean()),
        "max_f": float(torch.cat(curves).mean(0).max()),
    }


def _f_curves(alpha: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """F-measure of each photo at the thresholds 255/255, 254/255, ..., 0: (B, 1, H, W) -> (B, 256)."""
    levels = (alpha * 255).round().long().flatten(1)
    count = len(levels)
    # One histogram for each photo and truth value.
    bins = (torch.arange(count, device=levels.device).view(-1, 1) * 2 + truth.flatten(1)) * 256 + levels
    weights = valid.flatten().float()
    histogram = torch.bincount(bins.flatten(), weights, minlength=count * 512).view(count, 2, 256)
    above = histogram.flip(-1).cumsum(-1)
    hits, found, wanted = above[:, 1], above.sum(1), above[:, 1, -1:]
    precision, recall = hits / found.clamp(min=1), hits / wanted.clamp(min=1)
    return (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall).clamp(min=1e-6)
