"""Modulated deformable convolution in plain torch: sample rows of a table, then one matrix product."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Columns are made for a chunk of output pixels at a time, of about this many elements, so that they are still in the
# cache when the matrix product reads them; 16 MB of float32, 1,337 pixels for 64 channels and a 7x7 kernel.
_CHUNK_ELEMENTS = 2**22
# Fewer pixels than this would starve the matrix product.
_CHUNK_MIN_PIXELS = 256

# Zero pixels around the sampled map. A position further out is moved to the outer edge of this border, where all four
# pixels around it are zero: the value and its derivatives vanish there without a mask.
_BORDER = 2


def deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
    """Convolve at displaced positions with a factor for each tap (deformable convolution, version 2), stride 1.

    Every tap reads the map bilinearly at its place in the kernel plus its offset; pixels outside the map are zero.
    The value is scaled by the tap's modulation and meets the kernel as in an ordinary convolution.
    Follows Dai et al. 2017 (arXiv 1703.06211) and Zhu et al. 2019 (arXiv 1811.11168).

    Memory stays bounded in both directions: the sampled columns exist for one chunk of pixels at a time, and the
    backward pass samples them again instead of keeping them. It cannot be differentiated twice.
    Positions are computed in float32 or better, whatever the type of the inputs.

    Args:
        x: The map, (B, C, H, W).
        offset: Displacements in pixels, (B, 2 * kh * kw, Ho, Wo): y and x of the first tap, of the second, and so on.
        modulation: Factor of each tap, already activated, (B, kh * kw, Ho, Wo).
        weight: The kernel, (O, C, kh, kw), of the same type as ``x``. Under autocast both are converted.
        padding: Zero pixels around the map, on each side.

    Returns:
        (B, O, Ho, Wo) in channels-last memory, where Ho = H + 2 * padding - kh + 1 and Wo likewise.
    """
    device_type = x.device.type
    # The first question is for the meta device, on which shapes are worked out and asking the second is an error.
    available = torch.amp.is_autocast_available(device_type)
    if available and torch.is_autocast_enabled(device_type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        x, weight = x.to(dtype), weight.to(dtype)
    taps = weight.shape[2] * weight.shape[3]
    out_size = _sizes(x, weight, padding).out_size
    assert min(out_size) > 0, "the kernel is larger than the padded map"
    assert offset.shape == (x.shape[0], 2 * taps, *out_size), offset.shape
    assert modulation.shape == (x.shape[0], taps, *out_size), modulation.shape
    inputs = (x, offset, modulation, weight)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        output: Tensor = _DeformConv2d.apply(*inputs, padding)  # type: ignore[no-untyped-call]
        return output
    return _convolve(*inputs, padding)


class ModulatedDeformConv2d(nn.Module):
    """Deformable convolution that predicts its own offsets and modulation; it keeps the map's size and has no bias.

    The two predicting convolutions start at zero, so that training starts from an ordinary convolution: no offset,
    and a modulation of 2 * sigmoid(0) = 1. Offsets are not limited.
    From Dai et al. 2017 (arXiv 1703.06211) and Zhu et al. 2019 (arXiv 1811.11168).

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        kernel_size: Height and width of the kernel, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        assert kernel_size % 2 == 1, kernel_size
        self.padding = kernel_size // 2
        taps = kernel_size**2
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel_size, padding=self.padding)
        self.modulation_conv = nn.Conv2d(in_channels, taps, kernel_size, padding=self.padding)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all offsets to zero and modulations to one, and draw the kernel as ``nn.Conv2d`` does."""
        for conv in (self.offset_conv, self.modulation_conv):
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.  (B, C, H, W) -> (B, O, H, W)."""
        offset = self.offset_conv(x)
        modulation = 2 * torch.sigmoid(self.modulation_conv(x))
        return deform_conv2d(x, offset, modulation, self.weight, padding=self.padding)


class _Sizes(NamedTuple):
    """Sizes of one convolution, each (height, width)."""

    map_size: tuple[int, int]
    kernel_size: tuple[int, int]
    out_size: tuple[int, int]
    table_size: tuple[int, int]
    padding: int


class _Taps(NamedTuple):
    """Where the taps of one chunk sample, each (pixels, taps)."""

    corner: Tensor  # int32, the table's row for the upper left of the four pixels around the position
    down: Tensor  # how far below that pixel the position lies, in [0, 1)
    right: Tensor  # how far to the right of it, in [0, 1)
    modulation: Tensor


def _sizes(x: Tensor, weight: Tensor, padding: int) -> _Sizes:
    (height, width), (kh, kw) = x.shape[2:], weight.shape[2:]
    return _Sizes(
        map_size=(height, width),
        kernel_size=(kh, kw),
        out_size=(height + 2 * padding - kh + 1, width + 2 * padding - kw + 1),
        table_size=(height + 2 * _BORDER, width + 2 * _BORDER),
        padding=padding,
    )


def _position_type(x: Tensor, offset: Tensor) -> torch.dtype:
    """Choose the type of positions: half precision could not tell the pixels of a large map apart."""
    return torch.promote_types(torch.promote_types(x.dtype, offset.dtype), torch.float32)


def _chunks(pixels: int, columns: int) -> Iterator[slice]:
    """Cut the output pixels into chunks that suit rows of so many ``columns``."""
    size = max(_CHUNK_ELEMENTS // columns, _CHUNK_MIN_PIXELS)
    for start in range(0, pixels, size):
        yield slice(start, min(start + size, pixels))


def _to_table(image: Tensor) -> Tensor:
    """Lay a map out as rows of channels, with a border of zeros.  (C, H, W) -> (rows, C)."""
    channels, height, width = image.shape
    table = image.new_zeros(height + 2 * _BORDER, width + 2 * _BORDER, channels)
    table[_BORDER:-_BORDER, _BORDER:-_BORDER] = image.permute(1, 2, 0)
    return table.flatten(0, 1)


def _from_table(table: Tensor, sizes: _Sizes) -> Tensor:
    """Take a map out of its table.  (rows, C) -> (C, H, W)."""
    padded = table.view(*sizes.table_size, -1)
    return padded[_BORDER:-_BORDER, _BORDER:-_BORDER].permute(2, 0, 1)


def _to_map(pixels: Tensor, sizes: _Sizes) -> Tensor:
    """Arrange output pixels as a map in channels-last memory.  (B, Ho * Wo, O) -> (B, O, Ho, Wo)."""
    return pixels.view(pixels.shape[0], *sizes.out_size, pixels.shape[2]).permute(0, 3, 1, 2)


def _locate(offset: Tensor, modulation: Tensor, part: slice, sizes: _Sizes, dtype: torch.dtype) -> _Taps:
    """Find where the taps of one chunk sample.

    Args:
        offset: Of the whole map, (2 * taps, pixels).
        modulation: Of the whole map, (taps, pixels).
        part: The chunk's pixels.
        sizes: Sizes of the convolution.
        dtype: Type to compute positions in.
    """
    # Pixel by pixel from here on, as a matrix product wants all taps of a pixel side by side.
    contiguous = torch.contiguous_format
    offset = offset[:, part].t().to(dtype, memory_format=contiguous).view(part.stop - part.start, -1, 2)
    modulation = modulation[:, part].t().to(dtype, memory_format=contiguous)

    pixel = torch.arange(part.start, part.stop, device=offset.device)[:, None]
    tap = torch.arange(offset.shape[1], device=offset.device)
    out_width, kernel_width = sizes.out_size[1], sizes.kernel_size[1]
    axes = (
        (sizes.map_size[0], pixel // out_width, tap // kernel_width),
        (sizes.map_size[1], pixel % out_width, tap % kernel_width),
    )
    whole, fraction = [], []
    for axis, (size, place, step) in enumerate(axes):
        position = offset[..., axis] + (place + (_BORDER - sizes.padding)).to(dtype)
        position += step.to(dtype)
        position.clamp_(0, size + _BORDER)
        whole.append(position.to(torch.int32))  # the floor, as no position is negative
        fraction.append(position.frac_())

    rows_down = sizes.table_size[1]
    corner = whole[0].mul_(rows_down).add_(whole[1])
    # For NaN alone, which clamping keeps and no integer can hold: NaN shall come out, not an index error.
    corner.clamp_(0, sizes.table_size[0] * rows_down - rows_down - 2)
    return _Taps(corner, fraction[0], fraction[1], modulation)


def _bags(taps: _Taps, sizes: _Sizes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """List the four table rows each tap reads and their weights, modulation included; both (pixels * taps, 4)."""
    down, corner = sizes.table_size[1], taps.corner
    indices = torch.stack((corner, corner + 1, corner + down, corner + down + 1), dim=-1)
    lower = taps.modulation * taps.down
    upper = taps.modulation - lower
    upper_right, lower_right = upper * taps.right, lower * taps.right
    weights = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), dim=-1)
    return indices.view(-1, 4), weights.view(-1, 4).to(dtype)


def _convolve(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:
    sizes, dtype = _sizes(x, weight, padding), _position_type(x, offset)
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)
    offset, modulation = offset.flatten(2), modulation.flatten(2)
    output = x.new_empty(x.shape[0], offset.shape[2], weight.shape[0])
    for item, image in enumerate(x):
        table = _to_table(image)
        for part in _chunks(offset.shape[2], matrix.shape[0]):
            taps = _locate(offset[item], modulation[item], part, sizes, dtype)
            indices, weights = _bags(taps, sizes, x.dtype)
            columns = F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)
            output[item, part] = columns.view(-1, matrix.shape[0]) @ matrix
    return _to_map(output, sizes)


class _DeformConv2d(torch.autograd.Function):
    """The convolution with a backward pass that keeps the inputs alone and goes chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, offset, modulation, weight)
        ctx.padding = padding
        return _convolve(x, offset, modulation, weight, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # Every product below has chosen its type already, also when backward is called under autocast.
        with torch.autocast(grad_output.device.type, enabled=False):
            x, offset, modulation, weight = ctx.saved_tensors
            need_x = ctx.needs_input_grad[0]
            return *_gradients(grad_output, x, offset, modulation, weight, ctx.padding, need_x), None


def _gradients(
    grad_output: Tensor, x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int, need_x: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Differentiate by map, offset, modulation and kernel; sums over many pixels are kept in float32 or better."""
    sizes, dtype = _sizes(x, weight, padding), _position_type(x, offset)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    grad_matrix = torch.zeros_like(matrix, dtype=dtype)
    grad_rows = grad_output.flatten(2).transpose(1, 2)
    offset, modulation = offset.flatten(2), modulation.flatten(2)
    # Pixels before channels, as they are computed: channels-last memory once they are turned.
    grad_x = torch.empty_like(x, memory_format=torch.channels_last) if need_x else None
    grad_offset = offset.new_empty(offset.transpose(1, 2).shape)
    grad_modulation = modulation.new_empty(modulation.transpose(1, 2).shape)

    for item, image in enumerate(x):
        table = _to_table(image)
        grad_table = torch.zeros_like(table, dtype=dtype)
        for part in _chunks(offset.shape[2], matrix.shape[1]):
            taps = _locate(offset[item], modulation[item], part, sizes, dtype)
            indices, weights = _bags(taps, sizes, x.dtype)
            with torch.enable_grad():
                weights.requires_grad_()
                columns = F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)
            rows = grad_rows[item, part]
            grad_columns = (rows @ matrix).view_as(columns)
            (grad_weights,) = torch.autograd.grad(columns, weights, grad_columns)
            grad_matrix += rows.t() @ columns.detach().view(-1, matrix.shape[1])
            grad_offset[item, part], grad_modulation[item, part] = _tap_gradients(grad_weights.to(dtype), taps)
            if need_x:
                _scatter(grad_table, indices, weights.detach(), grad_columns)
        if grad_x is not None:
            grad_x[item] = _from_table(grad_table, sizes)

    return (
        grad_x,
        _to_map(grad_offset, sizes),
        _to_map(grad_modulation, sizes),
        grad_matrix.view(-1, *sizes.kernel_size, x.shape[1]).permute(0, 3, 1, 2).to(weight.dtype),
    )


def _tap_gradients(grad_weights: Tensor, taps: _Taps) -> tuple[Tensor, Tensor]:
    """Turn gradients of the bags' weights into those of offset (pixels, 2 * taps) and modulation (pixels, taps).

    The gradient of a bag's weight is the product of the pixel it weighs and the column's gradient. So interpolating
    the four gives the modulation's gradient, and the slopes of that interpolation the offset's.
    """
    upper_left, upper_right, lower_left, lower_right = grad_weights.view(*taps.corner.shape, 4).unbind(-1)
    upper_slope, lower_slope = upper_right - upper_left, lower_right - lower_left
    upper = torch.addcmul(upper_left, taps.right, upper_slope)
    slope_down = torch.addcmul(lower_left, taps.right, lower_slope) - upper
    slope_right = torch.lerp(upper_slope, lower_slope, taps.down)
    slopes = torch.stack((slope_down, slope_right), dim=-1) * taps.modulation[..., None]
    return slopes.flatten(1), torch.addcmul(upper, taps.down, slope_down)


def _scatter(target: Tensor, indices: Tensor, weights: Tensor, rows: Tensor) -> None:
    """Add each of the ``rows`` to the four target rows its bag read, with the same weights.

    That is bags again, after sorting: one for each target row, of all rows that go there.  Faster than adding row by
    row, nothing weighted is stored, and the order of the sum does not depend on the threads.
    """
    destination, order = torch.sort(indices.flatten(), stable=True)
    first, last = int(destination[0]), int(destination[-1])
    targets = torch.arange(first, last + 1, dtype=destination.dtype, device=destination.device)
    starts = torch.searchsorted(destination, targets)
    target[first : last + 1] += F.embedding_bag(
        order // 4, rows, starts, mode="sum", per_sample_weights=weights.flatten()[order]
    )
