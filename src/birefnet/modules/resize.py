"""The one resizing rule of the network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly.  (B, C, H, W) -> (B, C, *size).

    align_corners=True: the published weights were trained with it, everywhere in the network.
    """
    if x.shape[2:] == size:
        return x
    if x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        resized: Tensor = _Resize.apply(x, size)  # type: ignore[no-untyped-call]
        return resized
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of a map (B, C, H, W)."""
    return x.shape[2], x.shape[3]


class _Resize(torch.autograd.Function):
    """Bilinear resizing whose gradient is two matrix products, one a side.

    PyTorch's own gradient on CPUs leaves channels-last memory and adds up pixel by pixel: with small networks it took a
    quarter of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.size = size_of(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (height, width), (tall, wide) = ctx.size, size_of(gradient)
        rows = _weights(height, tall, gradient.dtype).T
        columns = _weights(width, wide, gradient.dtype)
        batch, channels = gradient.shape[:2]
        if channels == 1 or gradient.is_contiguous():
            return rows @ gradient.contiguous() @ columns, None
        pixels = gradient.permute(0, 2, 3, 1).reshape(batch, tall, wide * channels)
        pixels = (rows @ pixels).view(batch * height, wide, channels)
        return (columns.T @ pixels).view(batch, height, width, channels).permute(0, 3, 1, 2), None


def _weights(before: int, after: int, dtype: torch.dtype) -> Tensor:
    """How far each point of a resized line comes from each point of the line before: (after, before)."""
    exact = torch.promote_types(dtype, torch.float32)
    places = torch.arange(after, dtype=exact) * ((before - 1) / max(after - 1, 1))
    return (1 - (places[:, None] - torch.arange(before, dtype=exact)).abs()).clamp_min(0).to(dtype)
