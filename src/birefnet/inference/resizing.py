"""Bilinear resizing, align_corners=True, in forms that the plain operator does not have: of some rows, and twice."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def interpolation(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of bilinear resizing along one axis, align_corners=True.  -> (target, source)."""
    place = torch.arange(target, dtype=torch.float64, device=device)
    if target > 1:
        place *= (source - 1) / (target - 1)
    columns = torch.arange(source, dtype=torch.float64, device=device)
    return (1 - (place[:, None] - columns).abs()).clamp_(min=0).to(dtype)


def resize_twice(x: Tensor, between: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize a map to a size and that to another.  (B, C, H, W) -> (B, C, *size), channels last.

    As two products with small matrices, so that the map of the size between is never made: where it would be the
    largest, this is a hundredth of its work.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        interpolation(step, last, dtype, x.device) @ interpolation(first, step, dtype, x.device)
        for first, step, last in zip(x.shape[2:], between, size, strict=True)
    )
    pixels = x.permute(0, 2, 3, 1).to(dtype)
    batch, height, width, channels = pixels.shape
    short = (rows @ pixels.reshape(batch, height, width * channels)).view(batch * size[0], width, channels)
    return (columns @ short).view(batch, *size, channels).permute(0, 3, 1, 2).to(x.dtype)


@lru_cache(maxsize=64)
def neighbours(source: int, target: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which two values each place of a resized line lies between, and how far towards the second; (target,) each."""
    place = torch.arange(target, dtype=torch.float64, device=device) * ((source - 1) / max(target - 1, 1))
    before = place.long().clamp_(max=max(source - 2, 0))
    return before, (before + 1).clamp_(max=source - 1), (place - before).to(dtype)


def resize_rows(x: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Rows `first` to `last` of a map that is resized.  (B, h, w, C) -> (B, last - first, size[1], C)."""
    if tuple(x.shape[1:3]) == tuple(size):
        return x[:, first:last]
    above, below, down = (part[first:last] for part in neighbours(x.shape[1], size[0], x.dtype, x.device))
    left, right, along = neighbours(x.shape[2], size[1], x.dtype, x.device)
    rows = torch.lerp(x.index_select(1, above), x.index_select(1, below), down[:, None, None])
    return torch.lerp(rows.index_select(2, left), rows.index_select(2, right), along[:, None])
