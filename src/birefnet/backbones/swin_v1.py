"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030): attention in windows that shift by half a window.

Maps are kept channels-last, (B, H, W, C), inside: windows and linear layers need no other layout.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid
from birefnet.modules.drop_path import DropPath


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cut maps into square windows.  (B, H, W, C) -> (B * H/window * W/window, window * window, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def window_reverse(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows back together: the inverse of `window_partition`.  -> (B, height, width, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of window positions.  -> (window², window²) int64.

    The row is (dy + window - 1) * (2 * window - 1) + (dx + window - 1) with (dy, dx) = query minus key.
    """
    steps = torch.arange(window)
    position = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
    difference = position[:, :, None] - position[:, None, :] + window - 1
    return difference[0] * (2 * window - 1) + difference[1]


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Forbid attention between parts of a shifted window that do not touch in the image.

    The rolled map is cut at -window and at -window // 2 on both axes; only tokens of the same region may attend to
    each other.  -> (windows, window², window²) bool, True where attention is allowed; the sizes are padded sizes.
    """

    def regions(size: int) -> Tensor:
        steps = torch.arange(size, device=device)
        return (steps >= size - window).long() + (steps >= size - window // 2).long()

    region = 3 * regions(height)[:, None] + regions(width)[None, :]
    windows = window_partition(region[None, :, :, None], window).squeeze(-1)
    return windows[:, :, None] == windows[:, None, :]


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them.  (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the two layers."""
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return hidden


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position (section 3.2)."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self) -> Tensor:
        """Bias of every head for each pair of positions.  -> (heads, N, N)."""
        bias: Tensor = self.relative_position_bias_table[self.relative_position_index]
        return bias.permute(2, 0, 1)

    def forward(self, windows: Tensor, allowed: Tensor | None) -> Tensor:
        """Attend within each window.  (B * windows, N, C) -> the same; `allowed` is (windows, N, N) bool or None."""
        count, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(count, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.position_bias()
        if allowed is not None:
            masked = bias.masked_fill(~allowed[:, None], float("-inf"))
            # A repeat, not a broadcast: attention takes windows of all images as one batch.
            bias = masked.repeat(count // len(allowed), 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(count, tokens, channels))
        return projected


class SwinBlock(nn.Module):
    """Window attention and an MLP, each pre-normalised and residual; odd blocks shift the windows (equation 3)."""

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Transform a map.  (B, H, W, C) -> (B, H, W, C); `allowed` is the mask of shifted windows."""
        x = x + self.drop_path(self.attend(self.norm1(x), allowed))
        transformed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return transformed

    def attend(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Window attention of a map of any size, padded with zero tokens that are attended to like others."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(window_partition(x, self.window), allowed if self.shift else None)
        x = window_reverse(windows, self.window, padded_height, padded_width)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Halve a map by joining 2x2 neighbours and double its channels.  (B, H, W, C) -> (B, H/2, W/2, 2C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge, padding an odd side with zeros."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class PatchEmbedding(nn.Module):
    """Embed 4x4 patches linearly.  (B, 3, H, W) -> (B, ceil(H/4), ceil(W/4), C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Embed, padding to a multiple of 4 with zeros."""
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4))
        embedded: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return embedded


class SwinStage(nn.Module):
    """Blocks at one resolution and, unless it is the last stage, the merging that leads to the next."""

    def __init__(self, channels: int, heads: int, window: int, drop_paths: list[float], *, downsample: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, shifted=i % 2 == 1, drop_path=rate) for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map at this resolution and what the next stage starts from.

        (B, H, W, C) -> (B, H, W, C) and (B, H/2, W/2, 2C), or the same map twice in the last stage.
        """
        height, width = x.shape[1:3]
        # The mask depends on the size alone, so one serves all blocks of the stage.
        allowed = shift_mask(height + -height % self.window, width + -width % self.window, self.window, x.device)
        for block in self.blocks:
            x = block(x, allowed)
        return x, x if self.downsample is None else self.downsample(x)


class SwinTransformer(Backbone):
    """Swin Transformer v1 without a classifier; each returned map has a layer norm of its own.

    Args:
        width: channels of the first stage; doubled by each further one.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: side of the attention window in tokens.
        drop_path: stochastic depth of the last block; earlier blocks get a linear share.
    """

    def __init__(
        self,
        width: int,
        depths: tuple[int, int, int, int],
        heads: tuple[int, int, int, int],
        window: int,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.patch_embed = PatchEmbedding(width)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.stages = nn.ModuleList(
            SwinStage(channels, head, window, rate.tolist(), downsample=i < 3)
            for i, (channels, head, rate) in enumerate(zip(self.channels, heads, rates, strict=True))
        )
        # The next stage gets the map without this norm; pretrained classifiers hold no such layers.
        self.output_norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image of any size.  (B, 3, H, W) -> maps (B, width * 2^i, ceil(H / 2^(i + 2)), ...)."""
        x = self.patch_embed(image)
        maps = []
        for stage, norm in zip(self.stages, self.output_norms, strict=True):
            out, x = stage(x)
            maps.append(norm(out).permute(0, 3, 1, 2))
        x1, x2, x3, x4 = maps
        return x1, x2, x3, x4


swin_v1_t = partial(SwinTransformer, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
swin_v1_s = partial(SwinTransformer, width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), window=7)
swin_v1_b = partial(SwinTransformer, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
swin_v1_l = partial(SwinTransformer, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
