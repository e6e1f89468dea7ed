"""The inference form of the decoder: what is linear is joined, and nothing is made at full size but the mask.

In the plain form a lateral 1x1 convolution follows the resizing of the half-scale map, and the deeper stage's output is
resized beside it. A 1x1 convolution and bilinear resizing change places, and the half-scale map has the size
of the deeper stage's output, so one resizing of their sum serves both. At full size the plain form holds 96 or 192
channels of the resized map and 64 of the inward reference; but from the last decoder block on everything is linear, so
here the final 1x1 convolution is part of the block's last convolution, a single channel is resized, and the inward
reference is one 5x5 convolution of the image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.inference.linear import linear
from birefnet.inference.memory import elements_on, row_chunks
from birefnet.inference.resizing import resize_rows
from birefnet.model.decoder import Decoder, DecoderStage
from birefnet.modules.decoder_blocks import DecoderBlock
from birefnet.modules.gradient import OutwardReference
from birefnet.modules.lateral import LateralBlock
from birefnet.modules.patches import InwardReference
from birefnet.modules.resize import resize, size_of

# Elements of a strip of a block's input: 4 MB of bfloat16.
_STRIP = 2**21
# Side of the blocks of pixels that the last look at the image works in.
_BLOCK = 4


class ScaledMap(NamedTuple):
    """A map of the encoder before its scales are joined: `full`, and `half`, of half the size, or None."""

    full: Tensor
    half: Tensor | None


def can_join(decoder: nn.Module) -> bool:
    """Whether a decoder is ours throughout, so that `InferenceDecoder` can take its place."""
    if type(decoder) is not Decoder or decoder.neck is not None or decoder.detail is not None:
        return False
    return all(
        stage.lateral is None or type(stage.lateral) is LateralBlock
        for stage in decoder.stages
        if isinstance(stage, DecoderStage)
    )


class InferenceDecoder(nn.Module):
    """The four stages and the last look at the image.

    Args:
        decoder: one that `can_join` accepts, in evaluation mode, batch norms folded.
        fusion: how the encoder joins its scales: "cat", "add" or "none".
    """

    def __init__(self, decoder: Decoder, fusion: str) -> None:
        super().__init__()
        stages = [_Stage(stage, fusion) for stage in decoder.stages if isinstance(stage, DecoderStage)]
        self.stages = nn.ModuleList(stages)
        self.head = _LastLook(decoder)
        self.head.merge_into(stages[-1])

    def forward(self, maps: list[ScaledMap], view: Tensor, image: Tensor) -> Tensor:
        """Decode the encoder's maps, shallow to deep.

        view (B, 3, H, W) of the maps' type, image the same in float32 -> float32 logits (B, 1, H, W).
        """
        x: Tensor | None = None
        for stage, skip in zip(self.stages, maps[::-1], strict=True):
            x = stage(x, skip, view)
        assert x is not None
        logits: Tensor = self.head(x, image)
        return logits


class _Lateral(nn.Module):
    """A lateral block of both scales: what it makes of the full map, and of the half map before resizing."""

    def __init__(self, lateral: LateralBlock, fusion: str) -> None:
        super().__init__()
        weight = lateral.conv.weight.detach().flatten(1)
        full, half = weight.chunk(2, dim=1) if fusion == "cat" else (weight, weight)
        self.full_weight = nn.Parameter(full.contiguous(), requires_grad=False)
        self.half_weight = nn.Parameter(half.contiguous(), requires_grad=False)
        bias = lateral.conv.bias
        assert bias is not None
        # The bias goes through the resizing, which keeps what is the same everywhere.
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)

    def below(self, deeper: Tensor, half: Tensor | None) -> Tensor:
        """What is to be resized: the deeper map and the half map's part.  (B, C, h, w) -> (B, h, w, C)."""
        x = deeper.permute(0, 2, 3, 1)
        if half is None:
            return x + self.bias
        # A map with an odd side is half a pixel larger than the deeper one.
        half = resize(half, size_of(deeper))
        return x + linear(half.permute(0, 2, 3, 1), self.half_weight, self.bias)

    def rows(self, below: Tensor, full: Tensor, first: int, last: int, out: Tensor) -> None:
        """Fill rows `first` to `last` of the stage's input.

        below (B, h, w, C), full (B, H, W, C'), out (B, last - first, W, C).
        """
        enlarged = resize_rows(below, (full.shape[1], full.shape[2]), first, last)
        torch.add(enlarged, linear(full[:, first:last], self.full_weight), out=out)


class _Stage(nn.Module):
    """One stage, as `DecoderStage` without what only training reads.

    What goes into the block is made and read a strip of rows at a time, where a convolution is the first to read it.
    """

    def __init__(self, stage: DecoderStage, fusion: str) -> None:
        super().__init__()
        self.lateral = _Lateral(stage.lateral, fusion) if isinstance(stage.lateral, LateralBlock) else None
        self.inward = stage.inward
        self.block = stage.block
        self.outward = None if stage.outward is None else _Outward(stage.outward)

    def forward(self, deeper: Tensor | None, skip: ScaledMap, image: Tensor) -> Tensor:
        """Decode one level.  (B, C, h, w) or None, maps, (B, 3, H, W) -> (B, C, H', W')."""
        size = size_of(skip.full)
        shown = None if self.inward is None else show_patches(self.inward, image, size).permute(0, 2, 3, 1)
        full = skip.full.permute(0, 2, 3, 1)
        below = None
        if self.lateral is not None:
            assert deeper is not None
            below = self.lateral.below(deeper, skip.half)
        block = self.block
        if type(block) is DecoderBlock and block.shortcut is None:
            inner = torch.cat(
                [F.conv2d(part, block.conv_in.weight, padding=(0, 1)) for part in self._strips(below, full, shown, 1)],
                dim=2,
            )
            del below, shown, full
            assert block.conv_in.bias is not None
            inner += block.conv_in.bias[:, None, None]
            inner = F.relu(block.norm_in(inner), inplace=True)
            x: Tensor = block.norm_out(block.conv_out(block.attention(inner)))
        else:
            x = block(next(self._strips(below, full, shown, 0)))
        if self.outward is not None:
            x = self.outward(x)
        return x

    def _strips(self, below: Tensor | None, full: Tensor, shown: Tensor | None, halo: int) -> Iterator[Tensor]:
        """Make the block's input in strips of rows with a halo to each side, zero outside of the map.

        below (B, h, w, C), full (B, H, W, C') and shown (B, H, W, C'') -> (B, C + C'', rows + 2 halo, W) each. Without
        a halo it is all of it at once.
        """
        batch, height, width, channels = full.shape
        channels = channels if below is None else below.shape[3]
        total = channels + (0 if shown is None else shown.shape[3])
        for part in (
            row_chunks(height, batch * width * total, elements_on(full.device, _STRIP)) if halo else (slice(0, height),)
        ):
            first, last = max(part.start - halo, 0), min(part.stop + halo, height)
            above = first - (part.start - halo)
            strip = full.new_empty(batch, part.stop - part.start + 2 * halo, width, total)
            strip[:, :above] = 0
            strip[:, above + last - first :] = 0
            inside = strip[:, above : above + last - first]
            if below is None:
                inside[..., :channels] = full[:, first:last]
            else:
                assert self.lateral is not None
                self.lateral.rows(below, full, first, last, inside[..., :channels])
            if shown is not None:
                inside[..., channels:] = shown[:, first:last]
            yield strip.permute(0, 3, 1, 2)


def show_patches(inward: InwardReference, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Show the image at the size of a map, in channels-last memory."""
    view = inward.view(image, size).contiguous(memory_format=torch.channels_last)
    reference: Tensor = inward.conv_out(inward.conv_in(view))
    return reference


class _Outward(nn.Module):
    """The attention of an outward reference."""

    def __init__(self, outward: OutwardReference) -> None:
        super().__init__()
        self.conv, self.norm, self.attention = outward.conv, outward.norm, outward.attention

    def forward(self, x: Tensor) -> Tensor:
        """Attend by the gradient features.  (B, C, H, W) -> the same."""
        features = F.relu(self.norm(self.conv(x)), inplace=True)
        attended: Tensor = x * self.attention(features).sigmoid()
        return attended


class _LastLook(nn.Module):
    """The final 1x1 convolution of the resized map and of the image at full size."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        head, inward = decoder.head, decoder.inward
        weight = head.weight.detach().flatten(1)
        assert head.bias is not None
        bias = head.bias.detach()
        width = weight.shape[1] - (0 if inward is None else inward.conv_out.out_channels)
        self.map_weight = nn.Parameter(weight[:, :width].contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.image = None if inward is None else ImageFilter(inward, weight[:, width:])
        self.merged = False

    def merge_into(self, stage: _Stage) -> None:
        """Make this convolution a part of the last stage's, where nothing lies between them."""
        block = stage.block
        plain = stage.outward is None and type(block) is DecoderBlock and type(block.norm_out) is nn.Identity
        if not plain:
            return
        assert isinstance(block, DecoderBlock)
        for conv in (block.conv_out, block.shortcut):
            if conv is None:
                continue
            conv.weight = nn.Parameter(torch.einsum("oc,cihw->oihw", self.map_weight, conv.weight), requires_grad=False)
            assert conv.bias is not None
            conv.bias = nn.Parameter(self.map_weight @ conv.bias, requires_grad=False)
            conv.out_channels = len(self.map_weight)
        self.merged = True

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Predict the mask.  (B, C, h, w), (B, 3, H, W) -> float32 logits (B, 1, H, W)."""
        if not self.merged:
            x = linear(x.permute(0, 2, 3, 1), self.map_weight).permute(0, 3, 1, 2)
        precise = torch.promote_types(x.dtype, torch.float32)
        logits = resize(x.to(precise).contiguous(), size_of(image)) + self.bias.to(precise)
        if self.image is not None:
            logits += self.image(image).to(precise)
        return logits


class ImageFilter(nn.Module):
    """What the inward reference at stride 1 adds to the logits, as one 5x5 convolution of the image.

    Two 3x3 convolutions and a 1x1 one follow each other without anything between them, except that the second meets
    zeros outside of the image where the merged one meets what the first would give there. So what the ring of pixels
    around the image contributes is taken off at the image's border.

    Three channels to one leave most of a processor's vector units idle, so blocks of 4x4 pixels are the channels of a
    3x3 convolution in which the 5x5 one is spread out.

    Args:
        inward: the reference.
        share: its share of the final 1x1 convolution, (1, C).
    """

    def __init__(self, inward: InwardReference, share: Tensor) -> None:
        super().__init__()
        first, second = inward.conv_in, inward.conv_out
        assert first.bias is not None
        assert second.bias is not None
        # In float64: products of products, rounded once.
        outer = torch.einsum("oc,cmhw->omhw", share.double(), second.weight.detach().double())
        inner, inner_bias = first.weight.detach().double(), first.bias.detach().double()
        merged = F.conv_transpose2d(outer, inner)  # all products whose steps add up to the same
        bias = share.double() @ second.bias.detach().double() + outer.sum(dim=(2, 3)) @ inner_bias
        for name, value in (
            ("blocks", spread(merged[0], _BLOCK)),
            ("bias", bias),
            ("outer", outer),
            ("inner", inner),
            ("inner_bias", inner_bias),
        ):
            self.register_buffer(name, value.to(share.dtype))
        self.blocks: Tensor
        self.bias: Tensor
        self.outer: Tensor
        self.inner: Tensor
        self.inner_bias: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Filter an image.  (B, 3, H, W) -> (B, 1, H, W)."""
        batch, channels, height, width = image.shape
        rows, columns = height // _BLOCK, width // _BLOCK
        # (B, rows, columns, 3 * block * block), a view
        blocks = image.view(batch, channels, rows, _BLOCK, columns, _BLOCK).permute(0, 2, 4, 1, 3, 5)
        logits = image.new_empty(batch, rows, _BLOCK, columns, _BLOCK)
        for part in row_chunks(rows, batch * columns * channels * _BLOCK**2, elements_on(image.device, _STRIP)):
            first, last = max(part.start - 1, 0), min(part.stop + 1, rows)
            edges = (0, 0, 1, 1, first - part.start + 1, part.stop + 1 - last)
            strip = F.pad(blocks[:, first:last].flatten(3), edges).permute(0, 3, 1, 2)
            filtered = F.conv2d(strip, self.blocks).unflatten(1, (_BLOCK, _BLOCK))
            logits[:, part] = filtered.permute(0, 3, 1, 4, 2)
        logits = logits.view(batch, 1, height, width) + self.bias
        self._take_off_ring(logits, image)
        return logits

    def _take_off_ring(self, logits: Tensor, image: Tensor) -> None:
        """Subtract what the first convolution would give just outside of the image; corners belong to the rows."""
        above, below, before, after = (
            F.conv2d(F.pad(strip, edges), self.inner, self.inner_bias)
            for strip, edges in (
                (image[:, :, :1], (2, 2, 2, 0)),
                (image[:, :, -1:], (2, 2, 0, 2)),
                (image[:, :, :, :1], (2, 0, 1, 1)),
                (image[:, :, :, -1:], (0, 2, 1, 1)),
            )
        )
        logits[:, :, :1] -= F.conv2d(above, self.outer[:, :, :1])
        logits[:, :, -1:] -= F.conv2d(below, self.outer[:, :, -1:])
        logits[:, :, :, :1] -= F.conv2d(before, self.outer[:, :, :, :1], padding=(1, 0))
        logits[:, :, :, -1:] -= F.conv2d(after, self.outer[:, :, :, -1:], padding=(1, 0))


def spread(kernel: Tensor, block: int) -> Tensor:
    """Spread a kernel of one output over blocks of pixels, so that a 3x3 convolution of blocks does the same.

    (C, k, k) with k at most 2 * block + 1 -> (block * block, C * block * block, 3, 3). Pixel (i, j) of channel c
    of a block is channel (c * block + i) * block + j of the input, that of the result channel i * block + j.
    """
    channels, size = kernel.shape[0], kernel.shape[2]
    spread_out = kernel.new_zeros(block, block, channels, block, block, 3, 3)
    for i in range(block):
        for j in range(block):
            for dy in range(size):
                for dx in range(size):
                    row, column = i + dy - size // 2 + block, j + dx - size // 2 + block
                    place = (row % block, column % block, row // block, column // block)
                    spread_out[i, j, :, place[0], place[1], place[2], place[3]] = kernel[:, dy, dx]
    return spread_out.reshape(block * block, channels * block * block, 3, 3)
