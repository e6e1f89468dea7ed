"""The reconstruction module: four stages from deep to shallow that look at the image and learn its gradient."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from birefnet.backbones import Pyramid
from birefnet.modules.gradient import OutwardReference
from birefnet.modules.lateral import LateralBlock
from birefnet.modules.patches import InwardReference
from birefnet.modules.resize import resize, size_of

BlockBuilder = Callable[[int, int], nn.Module]
"""Builds a decoder block from its input and output channels."""


class StageOutput(NamedTuple):
    """What a stage hands on, and what training supervises."""

    x: Tensor
    side_logits: Tensor | None
    gradient_logits: Tensor | None


class DecoderStage(nn.Module):
    """Join the deeper map with the encoder's, show it the image, decode it, and attend by its gradient features.

    Args:
        channels: channels of the encoder's map at this stage, and of the deeper stage's output.
        out_channels: channels of this stage's output.
        inward: the inward reference of this stage.
        inward_out_channels: channels of the inward reference.
        block: builder of the decoder block.
        gradient_channels: width of the gradient features, 0 for a stage without side outputs (the last one).
        has_deeper: whether a deeper stage's output arrives here.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        inward: InwardReference,
        inward_out_channels: int,
        block: BlockBuilder,
        *,
        gradient_channels: int,
        has_deeper: bool,
    ) -> None:
        super().__init__()
        self.lateral = LateralBlock(channels, channels) if has_deeper else None
        self.inward = inward
        self.block = block(channels + inward_out_channels, out_channels)
        self.side_head = nn.Conv2d(out_channels, 1, 1) if gradient_channels else None
        self.outward = OutwardReference(out_channels, gradient_channels) if gradient_channels else None

    def forward(self, deeper: Tensor | None, skip: Tensor, image: Tensor, *, supervise: bool) -> StageOutput:
        """Decode one level; side outputs are made only when `supervise`d.

        deeper (B, channels, h, w) or None, skip (B, channels, H', W'), image (B, 3, H, W)
        -> x (B, out_channels, H', W'), logits (B, 1, H', W').
        """
        x = skip
        if self.lateral is not None:
            assert deeper is not None
            x = resize(deeper, size_of(skip)) + self.lateral(skip)
        x = self.block(torch.cat([x, self.inward(image, size_of(x))], dim=1))
        side_logits = self.side_head(x) if supervise and self.side_head is not None else None
        if self.outward is None:
            return StageOutput(x, side_logits, None)
        x, features = self.outward(x)
        return StageOutput(x, side_logits, self.outward.prediction(features) if supervise else None)


class DecoderOutput(NamedTuple):
    """Logits of the mask and, when supervised, of the side outputs, deep to shallow."""

    logits: Tensor
    side_logits: tuple[Tensor, ...]
    gradient_logits: tuple[Tensor, ...]


class Decoder(nn.Module):
    """Four stages in a loop, then the image once more at full size and a 1x1 convolution to the mask.

    Args:
        channels: channels of the encoder's maps, shallow to deep.
        strides: strides of these maps.
        block: builder of the decoder blocks.
        inward_channels: inner width of the inward references.
        gradient_channels: width of the gradient features of the outward references.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        strides: tuple[int, int, int, int],
        block: BlockBuilder,
        *,
        inward_channels: int,
        gradient_channels: int,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        # The deepest two stages share a width of inward reference, as the published weights have it.
        inward_widths = (c4 // 8, c4 // 8, c3 // 8, c2 // 8)
        stages = zip((c4, c3, c2, c1), (c3, c2, c1, c1 // 2), strides[::-1], inward_widths, strict=True)
        self.stages = nn.ModuleList(
            DecoderStage(
                width,
                out_width,
                InwardReference(stride, inward_channels, inward_width),
                inward_width,
                block,
                gradient_channels=gradient_channels if i < 3 else 0,
                has_deeper=i > 0,
            )
            for i, (width, out_width, stride, inward_width) in enumerate(stages)
        )
        self.inward = InwardReference(1, inward_channels, c1 // 8)
        self.head = nn.Conv2d(c1 // 2 + c1 // 8, 1, 1)

    def forward(self, pyramid: Pyramid, image: Tensor, *, supervise: bool = False) -> DecoderOutput:
        """Decode the encoder's maps.  pyramid shallow to deep, image (B, 3, H, W) -> logits (B, 1, H, W)."""
        x: Tensor | None = None
        side_logits, gradient_logits = [], []
        for stage, skip in zip(self.stages, pyramid[::-1], strict=True):
            x, side, gradient = stage(x, skip, image, supervise=supervise)
            if side is not None:
                side_logits.append(side)
            if gradient is not None:
                gradient_logits.append(gradient)
        assert x is not None
        size = size_of(image)
        logits = self.head(torch.cat([resize(x, size), self.inward(image, size)], dim=1))
        return DecoderOutput(logits, tuple(side_logits), tuple(gradient_logits))
