"""The reconstruction module: four stages from deep to shallow that look at the image and learn its gradient."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones import Pyramid
from birefnet.model.encoder import Channels
from birefnet.modules.detail import DetailBlock
from birefnet.modules.gradient import OutwardReference
from birefnet.modules.lateral import LateralBlock
from birefnet.modules.norm import NormBuilder
from birefnet.modules.patches import InwardReference
from birefnet.modules.resize import resize, size_of

BlockBuilder = Callable[[int, int], nn.Module]
"""Builds a block from its input and output channels; the block keeps the size of a map."""

STRIDES = (4, 8, 16, 32)
"""Strides of the decoder's stages, shallow to deep, whatever the backbone's."""


GRID = STRIDES[-1]
"""Both sides of the image must be multiples of this: the deepest patches are 1/32 of it."""


class StageOutput(NamedTuple):
    """What a stage hands on, and what training supervises."""

    x: Tensor
    side_logits: Tensor | None
    gradient_logits: Tensor | None


class DecoderOutput(NamedTuple):
    """Logits of the mask and, when supervised, of the side outputs, deep to shallow."""

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()
    gradient_logits: tuple[Tensor, ...] = ()


class DecoderLike(Protocol):
    """What may stand in the decoder's place."""

    def __call__(self, pyramid: Pyramid, image: Tensor, *, supervise: bool = False) -> DecoderOutput:
        """Decode the encoder's maps.  pyramid shallow to deep, image (B, 3, H, W) -> logits (B, 1, H, W)."""
        ...


class DecoderStage(nn.Module):
    """Join the deeper map with the encoder's, show it the image, decode it, and attend by its gradient features.

    Args:
        block: decodes the map, joined with the image where there is an inward reference.
        lateral: fits the encoder's map to the deeper stage's output; None in the deepest stage.
        inward: shows the image, None for a stage that does not see it.
        side_head: predicts the mask from the block's output, None for a stage that is not supervised.
        outward: attends by gradient features, None for a stage that does not.
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        lateral: nn.Module | None,
        inward: InwardReference | None,
        side_head: nn.Module | None,
        outward: OutwardReference | None,
    ) -> None:
        super().__init__()
        self.lateral = lateral
        self.inward = inward
        self.block = block
        self.side_head = side_head
        self.outward = outward

    def forward(self, deeper: Tensor | None, skip: Tensor, image: Tensor, *, supervise: bool) -> StageOutput:
        """Decode one level; side outputs are made only when `supervise`d.

        deeper (B, channels, h, w) or None, skip (B, channels, H', W'), image (B, 3, H, W)
        -> x (B, out_channels, H', W'), logits (B, 1, H', W').
        """
        x = skip
        if self.lateral is not None:
            assert deeper is not None
            x = resize(deeper, size_of(skip)) + self.lateral(skip)
        x = self.block(show(self.inward, image, x))
        side_logits = self.side_head(x) if supervise and self.side_head is not None else None
        if self.outward is None:
            return StageOutput(x, side_logits, None)
        x, features = self.outward(x)
        return StageOutput(x, side_logits, self.outward.prediction(features) if supervise else None)


def show(inward: InwardReference | None, image: Tensor, x: Tensor) -> Tensor:
    """Join a map with what an inward reference shows of the image, if there is one."""
    return x if inward is None else torch.cat([x, inward(image, size_of(x))], dim=1)


class Decoder(nn.Module):
    """Four stages in a loop, then the image once more at full size and a 1x1 convolution to the mask.

    Args:
        channels: channels of the encoder's maps, shallow to deep.
        block: builder of the decoder blocks.
        lateral: builder of the lateral blocks.
        neck: channels to bring the maps to by 1x1 convolutions after resizing them to the strides 4, 8, 16, 32; None
            where they have these strides already.
        inward: "patches", "pixels", "whole" or "none".
        inward_channels: inner width of the inward references.
        side_supervision: predict the mask in all stages but the last.
        gradient_channels: width of the gradient features of the outward references, 0 for none.
        detail_channels: width of a block at stride 2 after the stages, 0 for none.
        norm: builder of the normalisation of these features.
    """

    def __init__(
        self,
        channels: Channels,
        block: BlockBuilder,
        lateral: BlockBuilder = LateralBlock,
        *,
        neck: Channels | None = None,
        inward: str = "patches",
        inward_channels: int = 64,
        side_supervision: bool = True,
        gradient_channels: int = 16,
        detail_channels: int = 0,
        norm: NormBuilder = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.neck: nn.ModuleList | None = None
        if neck is not None:
            self.neck = nn.ModuleList(LateralBlock(a, b) for a, b in zip(channels, neck, strict=True))
        # The deepest two stages share a width of inward reference, as the published weights have it.
        inward_widths = [channels[i] // 8 if inward != "none" else 0 for i in (3, 3, 2, 1, 0)]

        def reference(stride: int, width: int) -> InwardReference | None:
            # A backbone of less than 8 channels leaves no width to show the image in.
            return InwardReference(stride, inward_channels, width, kind=inward) if width else None

        c1, c2, c3, c4 = neck or channels
        stages = zip((c4, c3, c2, c1), (c3, c2, c1, c1 // 2), STRIDES[::-1], inward_widths[:4], strict=True)
        self.stages = nn.ModuleList(
            DecoderStage(
                block(width + inward_width, out_width),
                lateral=lateral(width, width) if i > 0 else None,
                inward=reference(stride, inward_width),
                side_head=nn.Conv2d(out_width, 1, 1) if side_supervision and i < 3 else None,
                outward=OutwardReference(out_width, gradient_channels, norm=norm)
                if gradient_channels and i < 3
                else None,
            )
            for i, (width, out_width, stride, inward_width) in enumerate(stages)
        )
        self.detail: DetailBlock | None = None
        if detail_channels:
            self.detail = DetailBlock(c1 // 2, detail_channels, inward_channels if inward != "none" else 0, norm)
        self.inward = reference(1, inward_widths[4])
        self.head = nn.Conv2d((detail_channels or c1 // 2) + inward_widths[4], 1, 1)

    def forward(self, pyramid: Pyramid, image: Tensor, *, supervise: bool = False) -> DecoderOutput:
        """Decode the encoder's maps.  pyramid shallow to deep, image (B, 3, H, W) -> logits (B, 1, H, W)."""
        size = size_of(image)
        maps = list(pyramid)
        if self.neck is not None:
            maps = [
                project(resize(x, (size[0] // stride, size[1] // stride)))
                for project, x, stride in zip(self.neck, pyramid, STRIDES, strict=True)
            ]
        x: Tensor | None = None
        side_logits, gradient_logits = [], []
        for stage, skip in zip(self.stages, maps[::-1], strict=True):
            x, side, gradient = stage(x, skip, image, supervise=supervise)
            if side is not None:
                side_logits.append(side)
            if gradient is not None:
                gradient_logits.append(gradient)
        assert x is not None
        if self.detail is not None:
            x = self.detail(x, image)
        predict = self._predict_small if supervise else self._predict
        logits = predict(x, image)
        return DecoderOutput(logits, tuple(side_logits), tuple(gradient_logits))

    def _predict(self, x: Tensor, image: Tensor) -> Tensor:
        """Join the resized map with the image once more, and predict the mask."""
        logits: Tensor = self.head(show(self.inward, image, resize(x, size_of(image))))
        return logits

    def _predict_small(self, x: Tensor, image: Tensor) -> Tensor:
        """Do the same with the map's share of the 1x1 convolution before resizing, for training.

        Both are linear, so they change places, and neither the map nor its gradient is ever held at full size.
        """
        size, width = size_of(image), x.shape[1]
        weight, bias = self.head.weight, self.head.bias
        if self.inward is None:
            return resize(F.conv2d(x, weight, bias), size)
        drawn = resize(F.conv2d(x, weight[:, :width]), size)
        return drawn + F.conv2d(self.inward(image, size), weight[:, width:], bias)
