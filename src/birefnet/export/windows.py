"""Swin's windows in the form that exporters follow: tokens are gathered, sizes are simple expressions.

The arithmetic is that of `birefnet.backbones.swin_v1`. Padding, rolling and cutting into windows are one gather of
tokens, and all of it backwards is another: fewer copies for a runtime, and fewer views of unknown sizes for a tracer to
reason about. The rows and the columns of windows stay axes of their own for the same reason.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from birefnet.backbones.swin_v1 import SwinBlock, SwinStage, WindowAttention

# Added to what a softmax is not to see: its exponential is zero in every float format, and unlike infinity it survives
# the arithmetic of quantisation.
FORBIDDEN = -1e4


class Windows(NamedTuple):
    """Where the windows of a map take their tokens, and where the map finds them again.

    Attributes:
        tokens: for each place in each window the token that goes there, (rows, columns, side²); the number of tokens
            stands for padding.
        places: for each token its place, (H * W).
        mask: what is added to the scores, (rows, columns, 1, side², side²), None for windows that are not shifted.
    """

    tokens: Tensor
    places: Tensor
    mask: Tensor | None


class TraceableAttention(nn.Module):
    """A `WindowAttention` with its position bias looked up and its scale in the weights of the queries.

    Args:
        attention: what to do the same as.
    """

    bias: Tensor

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        channels = attention.proj.in_features
        self.head_channels = channels // self.heads
        with torch.no_grad():
            scale = torch.ones(3 * channels, dtype=attention.qkv.weight.dtype)
            scale[:channels] = self.head_channels**-0.5
            self.qkv = nn.Linear(channels, 3 * channels)
            self.qkv.weight.copy_(attention.qkv.weight * scale[:, None])
            self.qkv.bias.copy_(attention.qkv.bias * scale)
            self.register_buffer("bias", attention.position_bias().contiguous().clone())
        self.proj = attention.proj

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Attend within each window.  (B, tokens, C) -> the same."""
        batch, _, channels = x.shape
        rows, columns, area = windows.tokens.shape
        padded = torch.cat([x, x.new_zeros(batch, 1, channels)], dim=1)
        picked = padded.index_select(1, windows.tokens.flatten())
        qkv = self.qkv(picked).view(batch, rows, columns, area, 3, self.heads, self.head_channels)
        query, key, value = qkv.permute(4, 0, 1, 2, 5, 3, 6).unbind(0)
        scores = query @ key.transpose(-1, -2) + self.bias
        if windows.mask is not None:
            scores = scores + windows.mask
        attended = scores.softmax(dim=-1) @ value
        mixed = attended.transpose(3, 4).reshape(batch, rows * columns * area, channels)
        # The projection works on each token alone, so padding is dropped before it.
        projected: Tensor = self.proj(mixed.index_select(1, windows.places))
        return projected


class TraceableSwinBlock(nn.Module):
    """A `SwinBlock` at inference.

    Args:
        block: what to do the same as.
    """

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.shifted = block.shift > 0
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = TraceableAttention(block.attn)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Transform the tokens of maps.  (B, tokens, C) -> (B, tokens, C)."""
        x = x + self.attn(self.norm1(x), windows)
        transformed: Tensor = x + self.mlp(self.norm2(x))
        return transformed


class TraceableSwinStage(nn.Module):
    """A `SwinStage` at inference; what depends on the size is made once for all its blocks.

    Args:
        stage: what to do the same as.
    """

    def __init__(self, stage: SwinStage) -> None:
        super().__init__()
        self.window = stage.window
        blocks: Iterable[SwinBlock] = stage.blocks  # type: ignore[assignment]  # a list of any modules
        self.blocks = nn.ModuleList(TraceableSwinBlock(block) for block in blocks)
        self.downsample = stage.downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map at this resolution and what the next stage starts from, as `SwinStage` does."""
        height, width = x.shape[1:3]
        plain = windows_of(height, width, self.window, 0)
        shifted = windows_of(height, width, self.window, self.window // 2)
        tokens = x.flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens, shifted if block.shifted else plain)
        x = tokens.unflatten(1, (height, width))
        return x, x if self.downsample is None else self.downsample(x)


def windows_of(height: int, width: int, side: int, shift: int) -> Windows:
    """Divide the tokens of a map among windows, with the padding and rolling of `SwinBlock.attend`."""
    rows, columns = opaque((height + side - 1) // side), opaque((width + side - 1) // side)
    down, right = _rolled(rows, side, shift), _rolled(columns, side, shift)
    row, column = down[:, None, :, None], right[None, :, None, :]
    inside = (row < height) & (column < width)
    tokens = torch.where(inside, row * width + column, height * width).reshape(rows, columns, side * side)

    # Where a token stands in the rolled map.
    y = _wrapped(torch.arange(height) + (rows * side - shift), rows * side)
    x = _wrapped(torch.arange(width) + (columns * side - shift), columns * side)
    first = (y // side) * (columns * side * side) + (y % side) * side
    second = (x // side) * (side * side) + x % side
    places = (first[:, None] + second[None, :]).flatten()
    return Windows(tokens, places, _mask(rows, columns, side) if shift else None)


def opaque(size: int) -> int:
    """Give the same size; `torch.export` then takes it for one that only running the program tells.

    What it knows of a size it carries through every view of a tensor; with the count of windows, a rounded quotient,
    that took minutes. A tracer of TorchScript, which knows nothing of sizes, has to see where they come from.
    """
    if not torch.compiler.is_exporting():
        return size
    hidden: int = torch.scalar_tensor(size, dtype=torch.int64).item()  # type: ignore[assignment]  # of its type
    torch._check(hidden >= 1)
    return hidden


def _rolled(count: int, side: int, shift: int) -> Tensor:
    """What position of the padded map each place of each window holds, along one axis.  -> (count, side)."""
    return _wrapped(torch.arange(count * side) + shift, count * side).view(count, side)


def _wrapped(position: Tensor, size: int) -> Tensor:
    """Take positions below twice the size back to below it; a remainder by an unknown size has no ONNX translation."""
    return torch.where(position >= size, position - size, position)


def _mask(rows: int, columns: int, side: int) -> Tensor:
    """What to add to scores so that parts of a shifted window that do not touch in the image ignore each other.

    -> (rows, columns, 1, side², side²) float32: 0 where attention is allowed, `FORBIDDEN` elsewhere.
    """

    def parts(count: int) -> Tensor:
        """Which part of the cut a place lies in: 1 beyond the cut through the last window.  -> (count, side)."""
        return (torch.arange(count * side) >= count * side - side // 2).long().view(count, side)

    down, right = parts(rows), parts(columns)
    region = (2 * down[:, None, :, None] + right[None, :, None, :]).reshape(rows, columns, 1, side * side)
    return FORBIDDEN * (region[..., :, None] != region[..., None, :]).float()
