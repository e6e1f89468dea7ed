"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104): a plain vision transformer, pretrained without labels.

All four maps have the same width and the same stride, and the network keeps this backbone as it was pretrained. The
pretrained weights come under the DINOv3 licence, not under that of this package.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid
from birefnet.backbones.swin_v1 import Mlp
from birefnet.errors import InputError

PATCH = 16
REGISTERS = 4
PREFIX = 1 + REGISTERS
"""Tokens before those of the patches: the class token and the registers."""

ROTARY_BASE = 100.0


class Rotation(NamedTuple):
    """Cosine and sine of the rotary angles, (tokens, head channels) each, float32."""

    cos: Tensor
    sin: Tensor


def rotary_angles(height: int, width: int, head_channels: int, device: torch.device) -> Tensor:
    """Angles of the axial rotary embedding of a grid of patches.  -> (height * width, head_channels) float32.

    Patch centres lie in [-1, 1] on each axis. The first quarter of channels turns by y, the second by x, each with
    periods that grow geometrically from 1 towards 100; the second half of channels repeats the first.
    """
    quarter = head_channels // 4
    # float32 whatever the network's type: half precision could not tell neighbouring patches apart.
    steps = torch.arange(quarter, dtype=torch.float32, device=device)
    periods = ROTARY_BASE ** (2 * steps / (head_channels // 2))

    def turns(size: int) -> Tensor:
        centres = 2 * (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size - 1
        return 2 * math.pi * centres[:, None] / periods

    down = turns(height)[:, None].expand(-1, width, -1)
    right = turns(width)[None].expand(height, -1, -1)
    return torch.cat([down, right, down, right], dim=-1).flatten(0, 1)


def rotation(height: int, width: int, head_channels: int, device: torch.device) -> Rotation:
    """Rotation of all tokens: the tokens before the patches have no place and are not turned."""
    angles = F.pad(rotary_angles(height, width, head_channels, device), (0, 0, PREFIX, 0))
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn pairs of channels, half a head apart, by their token's angles.  (B, heads, tokens, channels) -> the same."""
    first, second = x.chunk(2, dim=-1)
    return (x * turn.cos + torch.cat([-second, first], dim=-1) * turn.sin).to(x.dtype)


class SwiGlu(nn.Module):
    """An MLP whose hidden layer is gated (Shazeer 2020, arXiv 2002.05202).  (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, hidden)
        self.value = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gated layers."""
        projected: Tensor = self.fc2(F.silu(self.gate(x)) * self.value(x))
        return projected


class RotaryAttention(nn.Module):
    """Multi-head self-attention between all tokens, with rotary positions on queries and keys."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, turn: Rotation) -> Tensor:
        """Attend.  (B, tokens, C) -> (B, tokens, C)."""
        batch, count, channels = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(query, turn), rotate(key, turn), value)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, count, channels))
        return projected


class DinoBlock(nn.Module):
    """Attention and an MLP, each pre-normalised, scaled per channel and residual."""

    def __init__(self, channels: int, heads: int, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = RotaryAttention(channels, heads)
        self.layer_scale1 = nn.Parameter(torch.full((channels,), 1e-5))
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = SwiGlu(channels, hidden) if gated else Mlp(channels, hidden)
        self.layer_scale2 = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, tokens: Tensor, turn: Rotation) -> Tensor:
        """Transform tokens.  (B, tokens, C) -> (B, tokens, C)."""
        tokens = tokens + self.layer_scale1 * self.attn(self.norm1(tokens), turn)
        transformed: Tensor = tokens + self.layer_scale2 * self.mlp(self.norm2(tokens))
        return transformed


class DinoV3(Backbone):
    """A DINOv3 transformer without its last norm; its maps are the patch tokens after four of the blocks.

    Args:
        width: channels of all tokens and maps.
        heads: attention heads; a head's channels are a multiple of 4.
        hidden: width inside the MLPs.
        taps: blocks whose outputs are the maps, counted from 0; the last one is the last block there is.
        gated: use SwiGLU instead of the plain MLP.
    """

    strides = (PATCH, PATCH, PATCH, PATCH)
    min_side = PATCH
    frozen = True

    def __init__(
        self, width: int, heads: int, hidden: int, taps: tuple[int, int, int, int], *, gated: bool = False
    ) -> None:
        super().__init__()
        assert width % heads == 0, (width, heads)
        assert width // heads % 4 == 0, (width, heads)
        self.channels = (width, width, width, width)
        self.head_channels = width // heads
        self.taps = taps
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_tokens = nn.Parameter(torch.empty(1, REGISTERS, width))
        self.patch_embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(DinoBlock(width, heads, hidden, gated=gated) for _ in range(taps[-1] + 1))
        for token in (self.cls_token, self.register_tokens):
            nn.init.trunc_normal_(token, std=0.02)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image.  (B, 3, H, W) -> four maps (B, width, H / 16, W / 16), after ever more blocks.

        Raises:
            InputError: a side is no multiple of 16.
        """
        batch, _, *sides = image.shape
        if any(side % PATCH for side in sides):
            raise InputError(
                f"DINOv3 takes sides that are multiples of {PATCH}, not {sides[0]} x {sides[1]}: "
                "resize or pad the image first"
            )
        patches = self.patch_embed(image)
        height, width = patches.shape[2:]
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).expand(batch, -1, -1)
        tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
        turn = rotation(height, width, self.head_channels, image.device)
        maps = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, turn)
            if i in self.taps:
                maps.append(tokens[:, PREFIX:].transpose(1, 2).unflatten(2, (height, width)))
        x1, x2, x3, x4 = maps
        return x1, x2, x3, x4


dino_v3_s = partial(DinoV3, width=384, heads=6, hidden=1536, taps=(3, 5, 7, 11))
dino_v3_s_plus = partial(DinoV3, width=384, heads=6, hidden=1536, taps=(3, 5, 7, 11), gated=True)
dino_v3_b = partial(DinoV3, width=768, heads=12, hidden=3072, taps=(3, 5, 7, 11))
dino_v3_l = partial(DinoV3, width=1024, heads=16, hidden=4096, taps=(5, 11, 17, 23))
dino_v3_h_plus = partial(DinoV3, width=1280, heads=20, hidden=5120, taps=(7, 15, 23, 31), gated=True)
dino_v3_7b = partial(DinoV3, width=4096, heads=32, hidden=8192, taps=(9, 19, 29, 39), gated=True)
