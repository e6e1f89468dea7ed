"""The inference form of the pyramid of deformable convolutions, a strip of rows at a time.

The plain form makes, for the whole map, the offsets of each branch (147 channels for the 7x7 kernel), each branch's
output (256 channels) and all of them side by side (1280). Here a strip of rows goes through all of it before the next
one begins: one small and one large convolution predict what the branches of the small kernels and of the 7x7 kernel
need, the places of all taps are worked out together, and each piece of the branches' outputs meets its share of the
joining 1x1 convolution while it is in the cache. The mean of the whole map is the same for each pixel, so what becomes
of it joins the bias.
"""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.inference.folding import ChannelBias
from birefnet.inference.linear import linear
from birefnet.inference.memory import SizeCache
from birefnet.modules.aspp import Aspp
from birefnet.modules.deform_conv import ModulatedDeformConv2d

# Pixels of a strip, for which the places of the taps are worked out at once.
_STRIP_PIXELS = 8192
# Elements of sampled columns held at a time: 8 MB of bfloat16.
_COLUMNS = 2**22
_LEAST_PIXELS = 256


class PlainBranch(NamedTuple):
    """A deformable convolution and what folding leaves of the norm after it."""

    conv: ModulatedDeformConv2d
    bias: Tensor


def is_plain(aspp: Aspp) -> bool:
    """Whether a pyramid has deformable convolutions and no norms left but what folding leaves of them."""
    norms = [aspp.norm, *(branch.norm for branch in (*aspp.branches, aspp.pool))]
    return all(isinstance(branch.conv, ModulatedDeformConv2d) for branch in aspp.branches) and all(
        isinstance(norm, nn.Identity | ChannelBias) for norm in norms
    )


def branches_of(aspp: Aspp) -> list[PlainBranch]:
    """The branches of a pyramid that `is_plain` accepts."""
    branches = []
    for branch in aspp.branches:
        conv, norm = branch.conv, branch.norm
        assert isinstance(conv, ModulatedDeformConv2d)
        bias = (
            norm.bias.detach().flatten() if isinstance(norm, ChannelBias) else conv.weight.new_zeros(len(conv.weight))
        )
        branches.append(PlainBranch(conv, bias))
    return branches


class _Taps(NamedTuple):
    """Four pixels for each tap of a strip: rows of the padded map (pixels, taps, 4), and their weights."""

    indices: Tensor
    weights: Tensor


class DeformableAspp(nn.Module):
    """Parallel deformable convolutions and the mean of the map, joined by a 1x1 convolution.

    Args:
        aspp: one that `is_plain` accepts, in evaluation mode.
    """

    def __init__(self, aspp: Aspp) -> None:
        super().__init__()
        branches = branches_of(aspp)
        sizes = [branch.conv.weight.shape[2] for branch in branches]
        largest = max(sizes)
        # The convolutions' zeros around the map; sampling needs a border of two.
        self.border = max(largest // 2, 2)
        # Kernels that are smaller than the largest share a convolution that predicts for all of them.
        small = [i for i, size in enumerate(sizes) if size < largest]
        large = [i for i, size in enumerate(sizes) if size == largest]
        groups = [group for group in (small, large) if group]
        self.groups = nn.ModuleList(_Predictor([branches[i].conv for i in group]) for group in groups)
        order = [i for group in groups for i in group]
        self.branches = nn.ModuleList(_Product(branches[i]) for i in order)
        # Which of all taps are each branch's own.
        ends = list(accumulate(sizes[i] ** 2 for i in order))
        self.taps = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        widths = [len(branch.bias) for branch in branches]
        shares = aspp.project.weight.detach().flatten(1).split([*widths, aspp.pool.conv.out_channels], dim=1)
        self.register_buffer("join", torch.cat([shares[i] for i in order], dim=1).contiguous())
        self.register_buffer("pool_share", shares[-1].contiguous())
        bias = aspp.project.bias
        self.register_buffer("join_bias", shares[-1].new_zeros(len(shares[-1])) if bias is None else bias.detach())
        pool = aspp.pool.conv
        assert isinstance(pool, nn.Conv2d)
        self.pool = pool
        # Where each tap lies in its kernel, from the middle: rows of all taps, then columns.
        steps = [torch.arange(sizes[i]) - sizes[i] // 2 for i in order]
        rows = torch.cat([s.repeat_interleave(len(s)) for s in steps])
        columns = torch.cat([s.repeat(len(s)) for s in steps])
        self.register_buffer("steps", torch.stack([rows, columns]), persistent=False)
        self._bases: SizeCache[Tensor] = SizeCache()
        self.join: Tensor
        self.join_bias: Tensor
        self.pool_share: Tensor
        self.steps: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Look around.  (B, C, H, W) -> (B, out_channels, H, W) in channels-last memory."""
        batch, channels, height, width = x.shape
        edge = self.border
        output = x.new_empty(batch, height, width, len(self.join))
        padded = x.new_zeros(height + 2 * edge, width + 2 * edge, channels)
        rows = min(max(_STRIP_PIXELS // width, 1), height)
        for image, result in zip(x.permute(0, 2, 3, 1), output, strict=True):
            padded[edge:-edge, edge:-edge] = image
            bias = self._bias(image)
            for top in range(0, height, rows):
                self._strip(padded, top, result[top : top + rows], bias)
        return output.permute(0, 3, 1, 2)

    def _bias(self, image: Tensor) -> Tensor:
        """What the mean of a map (H, W, C) adds to each of its pixels, the joining convolution's bias included."""
        precise = torch.promote_types(image.dtype, torch.float32)
        # Row by row: a sum in another type first copies all it sums up.
        total = torch.stack([row.sum(0, dtype=precise) for row in image]).sum(0)
        mean = (total / (image.shape[0] * image.shape[1])).to(image.dtype)
        pooled = F.relu(F.linear(mean, self.pool.weight.flatten(1), self.pool.bias))
        return F.linear(pooled, self.pool_share, self.join_bias)

    def _strip(self, padded: Tensor, top: int, result: Tensor, bias: Tensor) -> None:
        """Work out rows of the result, from `top` on.  padded (H + 2 border, W + 2 border, C), result (h, W, O)."""
        sampled = self._sample(padded, top, result.shape[0], result.shape[1])
        table = padded.flatten(0, 1)
        target = result.flatten(0, 1)
        for start, end in self._chunks(len(target), table.shape[1]):
            part = slice(start, end)
            made = [
                branch(table, sampled.indices[part, taps], sampled.weights[part, taps])
                for branch, taps in zip(self.branches, self.taps, strict=True)
            ]
            target[part] = linear(torch.cat(made, dim=1), self.join, bias).relu_()

    def _chunks(self, pixels: int, channels: int) -> list[tuple[int, int]]:
        most = max(taps.stop - taps.start for taps in self.taps) * channels
        size = max(_COLUMNS // most, _LEAST_PIXELS)
        count = -(-pixels // size)
        edges = [round(pixels * i / count) for i in range(count + 1)]
        return list(pairwise(edges))

    def _sample(self, padded: Tensor, top: int, height: int, width: int) -> _Taps:
        """Find the four pixels that each tap of a strip reads."""
        edge, taps = self.border, self.steps.shape[1]
        dtype = torch.promote_types(padded.dtype, torch.float32)
        # Rows, columns and modulation of all taps, each tap's side by side.
        predicted = torch.empty(height * width, 3, taps, dtype=dtype, device=padded.device)
        first = 0
        for group in self.groups:
            found = group(padded, edge, top, height).flatten(0, 1)
            predicted[..., first : first + found.shape[2]] = found
            first += found.shape[2]
        position, modulation = predicted[:, :2], predicted[:, 2].sigmoid_().mul_(2)
        position += self._base(height, width, dtype, padded.device)
        position[:, 0] += top
        limit = position.new_tensor([padded.shape[0] - 2, padded.shape[1] - 2])[:, None]
        # Outside of the map the border is zero, as is what lies beyond.
        position.clamp_(position.new_zeros(1), limit)
        whole = position.to(torch.int32)
        position -= whole  # what is left is the fraction
        corner = whole[:, 0] * padded.shape[1] + whole[:, 1]
        # For NaN alone, which clamping keeps and no integer can hold: NaN shall come out, not an index error.
        corner.clamp_(0, (padded.shape[0] - 1) * padded.shape[1] - 2)
        down, right = position[:, 0], position[:, 1]
        lower = modulation * down
        upper = modulation - lower
        upper_right, lower_right = upper * right, lower * right
        weights = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), dim=-1)
        step = padded.shape[1]
        indices = torch.stack((corner, corner + 1, corner + step, corner + step + 1), dim=-1)
        return _Taps(indices, weights.to(padded.dtype))

    def _base(self, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Where the taps of a strip's pixels lie without offsets, if the strip were the first.  (pixels, 2, taps)."""

        def make() -> Tensor:
            rows = torch.arange(height, device=device).repeat_interleave(width)
            columns = torch.arange(width, device=device).repeat(height)
            return (torch.stack([rows, columns], dim=1)[..., None] + (self.steps + self.border)).to(dtype)

        return self._bases.get((height, width, dtype, device), make)


class _Product(nn.Module):
    """Samples the map and multiplies what it has with one branch's kernel."""

    def __init__(self, branch: PlainBranch) -> None:
        super().__init__()
        self.register_buffer("matrix", branch.conv.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("bias", branch.bias)
        self.matrix: Tensor
        self.bias: Tensor

    def forward(self, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Convolve some pixels.  table (rows, C), indices and weights (pixels, taps, 4) -> (pixels, O)."""
        rows, factors = indices.reshape(-1, 4), weights.reshape(-1, 4)
        columns = F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)
        return linear(columns.view(len(indices), -1), self.matrix, self.bias).relu_()


class _Predictor(nn.Module):
    """One convolution that predicts offsets and modulation for the taps of several deformable convolutions.

    Its channels are all rows, then all columns, then all modulations; smaller kernels lie in the middle of the largest.
    """

    def __init__(self, convs: list[ModulatedDeformConv2d]) -> None:
        super().__init__()
        self.taps = sum(conv.weight.shape[2] * conv.weight.shape[3] for conv in convs)
        size = max(conv.weight.shape[2] for conv in convs)
        weights, biases = [], []
        for conv in convs:
            edge = (size - conv.weight.shape[2]) // 2
            offset = F.pad(conv.offset_conv.weight.detach(), [edge] * 4)
            modulation = F.pad(conv.modulation_conv.weight.detach(), [edge] * 4)
            offset_bias, modulation_bias = conv.offset_conv.bias, conv.modulation_conv.bias
            assert offset_bias is not None
            assert modulation_bias is not None
            weights.append((offset[0::2], offset[1::2], modulation))
            biases.append((offset_bias.detach()[0::2], offset_bias.detach()[1::2], modulation_bias.detach()))
        kind = torch.channels_last
        weight = torch.cat([part for parts in zip(*weights, strict=True) for part in parts])
        self.weight = nn.Parameter(weight.contiguous(memory_format=kind), requires_grad=False)
        bias = torch.cat([part for parts in zip(*biases, strict=True) for part in parts])
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.size = size

    def forward(self, padded: Tensor, edge: int, top: int, height: int) -> Tensor:
        """Predict for rows of a map.  padded (H + 2 edge, W + 2 edge, C) -> (height, W, 3, taps)."""
        first, half = top + edge, self.size // 2
        view = padded[first - half : first + height + half, edge - half : padded.shape[1] - edge + half]
        predicted = F.conv2d(view.permute(2, 0, 1)[None], self.weight, self.bias)
        return predicted[0].permute(1, 2, 0).view(height, -1, 3, self.taps)
