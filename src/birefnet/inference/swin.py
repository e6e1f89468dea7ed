"""The inference form of a Swin Transformer: the same numbers from fewer passes over memory.

What `birefnet.backbones.swin_v1` does in separate copies (pad, roll, cut into windows, and all of it backwards) is one
gather of tokens here and one gather back. Attention masks are not made at all: shifted windows differ in where the cut
through them lies, which is one of four cases, so each block keeps four biases. Tokens go through in chunks, so that
what lies between two products stays in the cache and never takes fresh memory from the system.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones.base import Backbone, Pyramid
from birefnet.backbones.swin_v1 import PatchEmbedding, PatchMerging, SwinBlock, SwinStage, SwinTransformer, shift_mask
from birefnet.inference.linear import linear
from birefnet.inference.memory import SizeCache, elements_on, row_chunks

# Elements of a chunk of hidden features: 4 MB of bfloat16.
_HIDDEN = 2**21
# Tokens of a chunk at least: each product brings its matrix into an order of its own first.
_LEAST_TOKENS = 2048
# Attention scores held at a time: as many as stay in a core's cache.
_SCORES = 2**18


class Windows(NamedTuple):
    """Where the windows of a map take their tokens, and where the map finds them again.

    Attributes:
        tokens: for each place in each window the token that goes there; one past the last token stands for padding.
        places: for each token its place.
        runs: how many windows of each kind there are, in the order in which they come: those that no cut goes through,
            then those cut along a row, along a column, and along both.
    """

    tokens: Tensor
    places: Tensor
    runs: tuple[int, int, int, int]


def windows_of(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Windows:
    """Divide the tokens of maps among windows, with the padding and rolling of `SwinBlock.attend`."""
    rows, columns = -(-height // window), -(-width // window)
    count = height * width

    # The rolled lines: place i holds what stood at i + shift.
    row, column = ((torch.arange(n * window, device=device) + shift) % (n * window) for n in (rows, columns))
    token = row[:, None] * width + column[None, :]
    token[(row >= height)[:, None] | (column >= width)[None, :]] = count  # padding
    cells = token.view(rows, window, columns, window).permute(0, 2, 1, 3).reshape(rows * columns, window * window)

    cut_row = torch.zeros(rows, columns, dtype=torch.long, device=device)
    cut_column = torch.zeros_like(cut_row)
    if shift:
        cut_row[-1], cut_column[:, -1] = 1, 2
    kind = (cut_row + cut_column).flatten()
    order = torch.argsort(kind, stable=True)
    runs = torch.bincount(kind, minlength=4)
    cells, kinds = cells[order], kind[order]

    # Images side by side within each kind, so that a run of windows has one bias.
    offsets = torch.arange(batch, device=device)[:, None, None] * (count + 1)
    tokens = torch.cat([(cells[kinds == k][None] + offsets).flatten() for k in range(4)])
    places = torch.empty(batch * (count + 1), dtype=torch.long, device=device)
    places[tokens] = torch.arange(len(tokens), device=device)
    places = places.view(batch, count + 1)[:, :count].flatten()
    a, b, c, d = (batch * int(n) for n in runs)
    return Windows(tokens, places, (a, b, c, d))


class InferenceAttention(nn.Module):
    """Attention of many windows, a run of the same kind at a time."""

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        attn = block.attn
        self.heads = attn.heads
        self.area = block.window**2
        self.shifted = block.shift > 0
        bias = attn.position_bias().detach()  # (heads, N, N)
        if self.shifted:
            # Two windows each way: the last row and the last column of windows are cut, the first are whole.
            side = 2 * block.window
            allowed = shift_mask(side, side, block.window, bias.device)
            whole, column, row, both = (bias.masked_fill(~mask, float("-inf")) for mask in allowed)
            biases = torch.stack([whole, row, column, both])
        else:
            biases = bias[None]
        self.register_buffer("biases", biases, persistent=False)
        self.biases: Tensor
        channels = attn.qkv.in_features
        scale = (channels // self.heads) ** -0.5
        # Queries come scaled out of their product, instead of their scores.
        factor = torch.ones(3 * channels, dtype=attn.qkv.weight.dtype, device=attn.qkv.weight.device)
        factor[:channels] = scale
        self.qkv_weight = nn.Parameter(attn.qkv.weight * factor[:, None], requires_grad=False)
        self.qkv_bias = nn.Parameter(attn.qkv.bias * factor, requires_grad=False)
        self.proj_weight = nn.Parameter(attn.proj.weight.detach(), requires_grad=False)
        self.proj_bias = nn.Parameter(attn.proj.bias.detach(), requires_grad=False)

    def forward(self, tokens: Tensor, windows: Windows) -> Tensor:
        """Attend within windows.

        tokens (T, C) with rows of zeros for padding -> (places, C), in the order of the windows.
        """
        channels = tokens.shape[1]
        attended = tokens.new_empty(len(windows.tokens), channels)
        # As many windows at a time as the chunks of the MLP have tokens.
        most = max(elements_on(tokens.device, _HIDDEN) // (4 * channels), _LEAST_TOKENS)
        step = max(most // self.area, 1)
        first = 0
        for kind, count in enumerate(windows.runs):
            bias = self.biases[kind if self.shifted else 0]
            for start in range(first, first + count, step):
                part = slice(start * self.area, min(start + step, first + count) * self.area)
                picked = tokens.index_select(0, windows.tokens[part])
                qkv = linear(picked, self.qkv_weight, self.qkv_bias)
                mixed = self._mix(qkv.view(-1, self.area, 3, self.heads, channels // self.heads), bias)
                attended[part] = linear(mixed, self.proj_weight, self.proj_bias)
            first += count
        return attended

    def _mix(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Mix the values of each window by its scores.  (windows, N, 3, heads, D) -> (windows * N, heads * D)."""
        count, area, _, heads, width = qkv.shape
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if qkv.dtype != torch.bfloat16 or qkv.device.type != "cpu":
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None], scale=1.0)
            return mixed.transpose(1, 2).reshape(count * area, heads * width)
        # bfloat16 on a CPU: plain products of a few windows at a time are quicker than the fused kernel, and softmax in
        # float32 is twice as quick as in bfloat16.
        mixed = qkv.new_empty(count, area, heads, width)
        step = max(_SCORES // (heads * area * area), 1)
        for start in range(0, count, step):
            part = slice(start, start + step)
            q, k, v = (x[part].reshape(-1, area, width) for x in (query, key, value))
            scores = torch.bmm(q, k.transpose(1, 2)).float()
            scores.view(-1, heads, area, area).add_(bias)
            weights = scores.softmax(-1).to(qkv.dtype)
            mixed[part] = torch.bmm(weights, v).view(-1, heads, area, width).transpose(1, 2)
        return mixed.view(count * area, heads * width)


class InferenceBlock(nn.Module):
    """A Swin block that changes its tokens in place."""

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = InferenceAttention(block)
        self.shifted = block.shift > 0

    def forward(self, x: Tensor, windows: Windows) -> None:
        """Transform the tokens of maps.  x (B, T, C), changed in place."""
        batch, count, channels = x.shape
        normed = x.new_zeros(batch, count + 1, channels)  # the last one of each image stands for padding
        normed[:, :count] = self.norm1(x)
        attended = self.attention(normed.view(-1, channels), windows)
        rows = x.view(-1, channels)
        for part in row_chunks(len(rows), self.mlp.fc1.out_features, elements_on(x.device, _HIDDEN), _LEAST_TOKENS):
            chunk = rows[part]
            chunk += attended.index_select(0, windows.places[part])
            hidden = F.gelu(linear(self.norm2(chunk), self.mlp.fc1.weight, self.mlp.fc1.bias))
            chunk += linear(hidden, self.mlp.fc2.weight, self.mlp.fc2.bias)


class InferenceMerging(nn.Module):
    """Patch merging of tokens."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.norm, self.reduction = merging.norm, merging.reduction

    def forward(self, x: Tensor) -> Tensor:
        """Halve maps.  (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        corners = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        merged = x.new_empty(batch, height // 2, width // 2, 2 * channels)
        step = max(elements_on(x.device, _HIDDEN) // (2 * width * channels * batch), 1)
        for top in range(0, height // 2, step):
            part = corners[:, top : top + step]
            rows = self.norm(part.reshape(*part.shape[:3], 4 * channels))
            merged[:, top : top + step] = linear(rows, self.reduction.weight)
        return merged


class InferenceEmbedding(nn.Module):
    """Patch embedding as a product, without a convolution's change of layout."""

    def __init__(self, embedding: PatchEmbedding) -> None:
        super().__init__()
        self.norm = embedding.norm
        self.weight = nn.Parameter(embedding.proj.weight.detach().flatten(1), requires_grad=False)
        self.bias = nn.Parameter(embedding.proj.bias.detach(), requires_grad=False)  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        """Embed.  (B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), C)."""
        image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
        batch, channels, height, width = image.shape
        patches = image.reshape(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 1, 3, 5)
        embedded = image.new_empty(batch, height // 4, width // 4, len(self.weight))
        step = max(elements_on(image.device, _HIDDEN) // (width // 4 * 48 * batch), 1)
        for top in range(0, height // 4, step):
            part = patches[:, top : top + step]
            embedded[:, top : top + step] = self.norm(linear(part.flatten(3), self.weight, self.bias))
        return embedded


class InferenceStage(nn.Module):
    """Blocks at one resolution and, unless it is the last stage, the merging that leads to the next."""

    def __init__(self, stage: SwinStage) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InferenceBlock(block) for block in stage.blocks if isinstance(block, SwinBlock))
        self.merging = None if stage.downsample is None else InferenceMerging(stage.downsample)

    def forward(self, x: Tensor, whole: Windows, shifted: Windows) -> tuple[Tensor, Tensor]:
        """Return the map at this resolution, changed in place, and what the next stage starts from.

        (B, H, W, C) -> (B, H, W, C) and (B, H/2, W/2, 2C), or the same map twice in the last stage.
        """
        tokens = x.view(x.shape[0], -1, x.shape[3])
        for block in self.blocks:
            block(tokens, shifted if block.shifted else whole)
        return x, x if self.merging is None else self.merging(x)


class InferenceSwin(Backbone):
    """A Swin Transformer that gives the same maps.

    Args:
        backbone: in evaluation mode; its layers are used, not copied.
    """

    def __init__(self, backbone: SwinTransformer) -> None:
        super().__init__()
        self.channels = backbone.channels
        stages = [stage for stage in backbone.stages if isinstance(stage, SwinStage)]
        self.window = stages[0].window
        self.embedding = InferenceEmbedding(backbone.patch_embed)
        self.stages = nn.ModuleList(InferenceStage(stage) for stage in stages)
        self.norms = backbone.output_norms
        self._windows: SizeCache[Windows] = SizeCache()

    def forward(self, image: Tensor) -> Pyramid:
        """Encode an image of any size, as `SwinTransformer` does; the maps lie in channels-last memory."""
        x = self.embedding(image)
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            batch, height, width, _ = x.shape
            windows = [self._windows_of(batch, height, width, shift, x.device) for shift in (0, self.window // 2)]
            out, x = stage(x, windows[0], windows[1])
            maps.append(norm(out).permute(0, 3, 1, 2))
        x1, x2, x3, x4 = maps
        return x1, x2, x3, x4

    def _windows_of(self, batch: int, height: int, width: int, shift: int, device: torch.device) -> Windows:
        key = (batch, height, width, shift, device)
        return self._windows.get(key, lambda: windows_of(batch, height, width, self.window, shift, device))
