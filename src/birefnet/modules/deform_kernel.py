"""The Triton kernel of the modulated deformable convolution; needs triton, so import it only after looking for it.

An implicit matrix product: a program makes a block of output pixels by a block of output channels, and goes over the
taps and, inside of each, over blocks of input channels. It gathers the four pixels around every position, weighs them
and multiplies what it has with the kernel's rows at once, so that no columns are ever stored. Indirect reads of a block
hit the same small patch of the map again and again, which the first-level cache holds.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
import triton.testing
from torch import Tensor

LARGEST_SIDE = 2**20
"""Longest side of a map in pixels: offsets beyond are cut to this, which is outside of every map."""

# Milliseconds each configuration is warmed up and measured for, a fifth of Triton's own choice: the first call at a new
# shape waits for it, and the differences looked for are not of percents.
_TUNE_WARMUP_MS, _TUNE_MS = 5, 20

# Largest tile of results, in elements, that float32 without tensor cores finds registers for.
_EXACT_TILE = 64 * 128


def _convolve(
    x: tl.tensor,
    offset: tl.tensor,
    modulation: tl.tensor,
    matrix: tl.tensor,
    output: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    out_channels: tl.tensor,
    kernel_height: tl.tensor,
    kernel_width: tl.tensor,
    padding: tl.tensor,
    x_item: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    offset_item: tl.tensor,
    offset_tap: tl.tensor,
    offset_row: tl.tensor,
    offset_column: tl.tensor,
    modulation_item: tl.tensor,
    modulation_tap: tl.tensor,
    modulation_row: tl.tensor,
    modulation_column: tl.tensor,
    magnitude: tl.tensor,  # noqa: ARG001 - the autotuner's alone
    farthest: tl.constexpr,
    precision: tl.constexpr,
    tile_height: tl.constexpr,
    tile_width: tl.constexpr,
    out_block: tl.constexpr,
    channel_block: tl.constexpr,
) -> None:
    """Make one tile of pixels by one block of channels; sizes in pixels, strides in elements.

    `x` has its channels side by side, `matrix` is (taps * channels, out_channels) and `output` (B, Ho, Wo, O), both
    contiguous. For another `magnitude` the autotuner chooses anew.
    """
    pixels: tl.constexpr = tile_height * tile_width
    out_blocks = tl.cdiv(out_channels, out_block)
    tiles_down, tiles_right = tl.cdiv(out_height, tile_height), tl.cdiv(out_width, tile_width)
    # Blocks of channels of the same pixels next to each other: they gather the same values.
    program = tl.program_id(0)
    tile = program // out_blocks
    item = (tile // (tiles_right * tiles_down)).to(tl.int64)
    pixel = tl.arange(0, pixels)
    row = tile // tiles_right % tiles_down * tile_height + pixel // tile_width
    column = tile % tiles_right * tile_width + pixel % tile_width
    exists = (row < out_height) & (column < out_width)
    out_channel = program % out_blocks * out_block + tl.arange(0, out_block)
    wanted = out_channel < out_channels
    within = tl.arange(0, channel_block)

    # In 64 bits, as a map may have more elements than 32 can count.
    x += item * x_item
    offset += item * offset_item + row.to(tl.int64) * offset_row + column.to(tl.int64) * offset_column
    modulation += item * modulation_item + row.to(tl.int64) * modulation_row + column.to(tl.int64) * modulation_column

    channel_blocks = tl.cdiv(channels, channel_block)
    total = tl.zeros((pixels, out_block), dtype=tl.float32)
    for step in range(kernel_height * kernel_width * channel_blocks):
        tap = step // channel_blocks
        channel = step % channel_blocks * channel_block + within
        known = channel < channels

        down = tl.load(offset + (2 * tap).to(tl.int64) * offset_tap, mask=exists, other=0.0).to(tl.float32)
        right = tl.load(offset + (2 * tap + 1).to(tl.int64) * offset_tap, mask=exists, other=0.0).to(tl.float32)
        factor = tl.load(modulation + tap.to(tl.int64) * modulation_tap, mask=exists, other=0.0).to(tl.float32)
        # What is not a number has no place to read, but comes out as such.
        lost = (down != down) | (right != right)
        factor = tl.where(lost, float("nan"), factor)
        down = tl.where(lost, 0.0, down)
        right = tl.where(lost, 0.0, right)
        down = tl.minimum(tl.maximum(down, -farthest), farthest)
        right = tl.minimum(tl.maximum(right, -farthest), farthest)

        # The whole pixels of an offset are added as integers: its fraction keeps all digits, wherever the pixel is.
        down_whole, right_whole = tl.floor(down), tl.floor(right)
        top = row - padding + tap // kernel_width + down_whole.to(tl.int32)
        left = column - padding + tap % kernel_width + right_whole.to(tl.int32)
        down -= down_whole
        right -= right_whole
        lower = factor * down
        upper = factor - lower
        upper_right, lower_right = upper * right, lower * right

        in_top, in_bottom = (top >= 0) & (top < height), (top >= -1) & (top < height - 1)
        in_left, in_right = (left >= 0) & (left < width), (left >= -1) & (left < width - 1)
        corner = x + (top.to(tl.int64) * x_row + left.to(tl.int64) * x_column)[:, None] + channel[None, :]
        known_row = known[None, :]
        value = tl.load(corner, mask=(in_top & in_left)[:, None] & known_row, other=0.0).to(tl.float32)
        value *= (upper - upper_right)[:, None]
        pixel_right = tl.load(corner + x_column, mask=(in_top & in_right)[:, None] & known_row, other=0.0)
        value += pixel_right.to(tl.float32) * upper_right[:, None]
        pixel_down = tl.load(corner + x_row, mask=(in_bottom & in_left)[:, None] & known_row, other=0.0)
        value += pixel_down.to(tl.float32) * (lower - lower_right)[:, None]
        diagonal = tl.load(corner + x_row + x_column, mask=(in_bottom & in_right)[:, None] & known_row, other=0.0)
        value += diagonal.to(tl.float32) * lower_right[:, None]

        rows = matrix + (tap * channels + channel)[:, None].to(tl.int64) * out_channels + out_channel[None, :]
        kernel = tl.load(rows, mask=known[:, None] & wanted[None, :], other=0.0)
        total = tl.dot(value.to(kernel.dtype), kernel, total, input_precision=precision)

    place = (item * out_height + row) * out_width + column
    target = output + place[:, None] * out_channels + out_channel[None, :]
    tl.store(target, total.to(output.dtype.element_ty), mask=exists[:, None] & wanted[None, :])


# Their values change from size to size, or between the taps of the branches, and a kernel compiled for each would win
# nothing: no address that is read in one go depends on them.
_UNSPECIAL = [
    *("height", "width", "out_height", "out_width", "kernel_height", "kernel_width", "padding", "magnitude"),
    *("offset_item", "offset_tap", "offset_row", "modulation_item", "modulation_tap", "modulation_row"),
]


def _configurations() -> list[Any]:
    """List tiles to try: more pixels share what is read of the kernel, fewer keep small maps on many processors.

    Compiled for compute capability 9.0, none of them spills registers in half precision; for 8.0, the first does.
    """
    names = ("tile_height", "tile_width", "out_block", "channel_block")
    return [
        triton.Config(dict(zip(names, blocks, strict=True)), num_warps=warps, num_stages=stages)
        for blocks, warps, stages in (
            ((8, 16, 256, 64), 8, 2),
            ((8, 16, 256, 32), 8, 2),
            ((8, 8, 256, 32), 8, 3),
            ((8, 8, 128, 32), 4, 2),
            ((4, 8, 128, 64), 4, 2),
            ((8, 8, 64, 32), 4, 2),
        )
    ]


def _fitting(configurations: list[Any], arguments: dict[str, Any], *, precision: str, **_: Any) -> list[Any]:
    """Leave out blocks of output channels that would be half empty, and tiles too large to compute exactly."""
    least = min(configuration.kwargs["out_block"] for configuration in configurations)
    most = max(triton.next_power_of_2(arguments["out_channels"]), least)

    def fits(blocks: dict[str, int]) -> bool:
        tile = blocks["tile_height"] * blocks["tile_width"] * blocks["out_block"]
        return blocks["out_block"] <= most and (precision != "ieee" or tile <= _EXACT_TILE)

    return [configuration for configuration in configurations if fits(configuration.kwargs)]


def _time(call: Any, quantiles: Any) -> Any:
    return triton.testing.do_bench(call, warmup=_TUNE_WARMUP_MS, rep=_TUNE_MS, quantiles=quantiles)


@cache
def _kernel() -> Any:
    """Give what launches the kernel: tuned on a GPU, with tiles of one kind where Triton's interpreter runs it."""
    jitted = triton.jit(_convolve, do_not_specialize=_UNSPECIAL)
    tuned = isinstance(jitted, triton.runtime.JITFunction)
    choices = _configurations()
    return triton.autotune(
        # The interpreter has nothing to time, and no blocks that are too small for it.
        choices if tuned else choices[-1:],
        key=["channels", "out_channels", "kernel_height", "kernel_width", "magnitude"],
        prune_configs_by={"early_config_prune": _fitting},
        do_bench=_time,
    )(jitted)


def launch(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    matrix: Tensor,
    output: Tensor,
    *,
    kernel: tuple[int, int],
    padding: int,
) -> None:
    """Fill the output; all tensors lie on one device.

    Args:
        x: The map, (B, C, H, W), its channels side by side.
        offset: Displacements in pixels, (B, 2 * kh * kw, Ho, Wo), in any order in memory.
        modulation: Factor of each tap, (B, kh * kw, Ho, Wo), in any order in memory.
        matrix: The kernel with taps and input channels as its rows, (kh * kw * C, O), contiguous, of the type of `x`.
        output: Where the result goes, (B, O, Ho, Wo) in channels-last memory.
        kernel: Height and width of the kernel.
        padding: Zero pixels around the map, on each side.
    """
    batch, channels, height, width = x.shape
    out_channels, out_height, out_width = output.shape[1:]

    def programs(meta: dict[str, Any]) -> tuple[int]:
        down, right = triton.cdiv(out_height, meta["tile_height"]), triton.cdiv(out_width, meta["tile_width"])
        return (batch * down * right * triton.cdiv(out_channels, meta["out_block"]),)

    exact = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    _kernel()[programs](
        *(x, offset, modulation, matrix, output),
        *(height, width, channels, out_height, out_width, out_channels, *kernel, padding),
        *(x.stride(0), x.stride(2), x.stride(3)),
        *offset.stride(),
        *modulation.stride(),
        (batch * out_height * out_width).bit_length() // 2,
        farthest=LARGEST_SIDE,
        precision="ieee" if exact else "tf32",
        # Said, as its default differs between versions of Triton: a product and a sum round once.
        enable_fp_fusion=True,
    )
