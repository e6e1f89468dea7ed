"""Pyramid Vision Transformer v2 (Wang et al., CVM 2022, arXiv 2106.13797): attention to a spatially reduced map."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid, run_stages
from birefnet.modules.drop_path import DropPath

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)


def to_tokens(x: Tensor) -> Tensor:
    """Flatten a map.  (B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_tokens`.  (B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


class OverlappingPatchEmbedding(nn.Module):
    """Embed overlapping patches by a strided convolution (section 3.2).  (B, C, H, W) -> (B, tokens, width)."""

    def __init__(self, in_channels: int, width: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return the normalised tokens and the height and width of their grid."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), x.shape[2], x.shape[3]


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by a strided convolution."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels) if reduction > 1 else None

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attend from every token to the reduced map.  (B, H * W, C) -> (B, H * W, C)."""
        batch, count, channels = tokens.shape
        source = tokens
        if self.sr is not None and self.norm is not None:
            source = self.norm(to_tokens(self.sr(to_map(tokens, height, width))))
        query: Tensor = self.q(tokens).view(batch, count, self.heads, -1).transpose(1, 2)
        key, value = self.kv(source).view(batch, source.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, count, channels))
        return projected


class ConvolutionalMlp(nn.Module):
    """An MLP with a depthwise 3x3 convolution before its activation, which carries the position (section 3.3)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Transform the tokens of a map.  (B, H * W, C) -> (B, H * W, C)."""
        hidden = self.dwconv(to_map(self.fc1(tokens), height, width))
        projected: Tensor = self.fc2(F.gelu(to_tokens(hidden)))
        return projected


class PvtBlock(nn.Module):
    """Reduced attention and a convolutional MLP, each pre-normalised and residual."""

    def __init__(self, channels: int, heads: int, reduction: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = ConvolutionalMlp(channels, ratio * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Transform the tokens of a map.  (B, H * W, C) -> (B, H * W, C)."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), height, width))
        transformed: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens), height, width))
        return transformed


class PvtStage(nn.Module):
    """A patch embedding, blocks at its resolution, and a layer norm whose output is the stage's map."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        heads: int,
        reduction: int,
        ratio: int,
        drop_paths: list[float],
        *,
        first: bool,
    ) -> None:
        super().__init__()
        kernel_size, stride = (7, 4) if first else (3, 2)
        self.patch_embed = OverlappingPatchEmbedding(in_channels, channels, kernel_size, stride)
        self.blocks = nn.ModuleList(PvtBlock(channels, heads, reduction, ratio, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a map.  (B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        tokens, height, width = self.patch_embed(x)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return to_map(self.norm(tokens), height, width)


class PvtV2(Backbone):
    """PVTv2 without a classifier.

    Args:
        widths: channels of the four stages.
        depths: blocks per stage.
        ratios: expansion of the MLP per stage.
        drop_path: stochastic depth of the last block; earlier blocks get a linear share.
        in_channels: channels of the image.
    """

    min_side = 4 * REDUCTIONS[0]  # the first stage's keys come from patches of 8 x 8 tokens, of 4 x 4 pixels each

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        widths: tuple[int, int, int, int] = (64, 128, 320, 512),
        ratios: tuple[int, int, int, int] = (8, 8, 4, 4),
        drop_path: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels = widths
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.stages = nn.ModuleList(
            PvtStage(inputs, widths[i], HEADS[i], REDUCTIONS[i], ratios[i], rate.tolist(), first=i == 0)
            for i, (inputs, rate) in enumerate(zip((in_channels, *widths[:-1]), rates, strict=True))
        )
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            # Fan-out of one group: PyTorch's own initialiser ignores groups, which starves depthwise layers.
            fan_out = module.weight[:, 0].numel() // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image of any size.  (B, in_channels, H, W) -> four maps at strides 4, 8, 16, 32."""
        return run_stages(self.stages, image)


pvt_v2_b0 = partial(PvtV2, depths=(2, 2, 2, 2), widths=(32, 64, 160, 256))
pvt_v2_b1 = partial(PvtV2, depths=(2, 2, 2, 2))
pvt_v2_b2 = partial(PvtV2, depths=(3, 4, 6, 3))
pvt_v2_b5 = partial(PvtV2, depths=(3, 6, 40, 3), ratios=(4, 4, 4, 4))
