"""Refinement: a second look at the image together with a first mask of it.

The published networks have none. The kinds here are those that the reference had until 2025, and its wiring around
them: `Refinement` alone knows it, the refiners only turn an image and logits into better logits.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from birefnet.backbones import Backbone, build_backbone
from birefnet.backbones.pvt_v2 import pvt_v2_b2
from birefnet.errors import ConfigError, InputError
from birefnet.model.decoder import GRID, STRIDES, BlockBuilder, Decoder, DecoderOutput
from birefnet.modules.norm import NormBuilder
from birefnet.modules.refunet import RefUNet, Stem
from birefnet.modules.resize import resize, size_of

Logits = tuple[Tensor, ...]
"""Logits of the same mask, (B, 1, h, w) each, coarse to fine; the last has the size of the image."""

IMAGE_AND_LOGITS = 4
"""Channels that a refiner takes: RGB and the logits of the mask so far."""


def tile(x: Tensor, scale: int) -> Tensor:
    """Cut maps into scale x scale tiles, image by image, row by row.

    (B, C, scale * h, scale * w) -> (B * scale * scale, C, h, w)
    """
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, scale, height // scale, scale, width // scale)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // scale, width // scale)


def untile(tiles: Tensor, scale: int) -> Tensor:
    """Undo `tile`.  (B * scale * scale, C, h, w) -> (B, C, scale * h, scale * w)."""
    _, channels, height, width = tiles.shape
    cells = tiles.reshape(-1, scale, scale, channels, height, width)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, scale * height, scale * width)


class BackboneRefiner(nn.Module):
    """A network of its own: a backbone at one scale, a squeeze block and a decoder without references to the image.

    Args:
        backbone: encoder of what the stem makes, or of image and logits themselves.
        block: builder of the squeeze block and of the decoder blocks.
        stem: brings image and logits to the channels that the backbone takes, None if it takes them as they are.
    """

    def __init__(self, backbone: Backbone, block: BlockBuilder, stem: Stem | None = None) -> None:
        super().__init__()
        deepest = backbone.channels[-1]
        self.stem = stem
        self.backbone = backbone
        self.squeeze = block(deepest, deepest)
        self.decoder = Decoder(backbone.channels, block, inward="none", gradient_channels=0)

    def forward(self, image_and_logits: Tensor) -> Logits:
        """Draw the mask again.  (B, 4, H, W) -> logits at strides 32, 16, 8 and 1, in training and evaluation."""
        x = image_and_logits if self.stem is None else self.stem(image_and_logits)
        x1, x2, x3, x4 = self.backbone(x)
        out: DecoderOutput = self.decoder((x1, x2, x3, self.squeeze(x4)), image_and_logits, supervise=True)
        return *out.side_logits, out.logits


class Refinement(nn.Module):
    """Refine the mask that a network gives; nothing else knows how.

    With a `scale` of 1 the network sees the whole image and so does the refiner. With a larger one the network sees the
    image at 1 / scale of its size, and the refiner sees it at full size in scale x scale tiles, as a batch: detail at
    the price of the whole view.

    Args:
        refiner: gives better logits, or a tuple of them from coarse to fine, from an image with logits, (B, 4, H, W).
            A `Stem` makes an image of them instead, on which the network itself is run again.
        scale: tiles on each side of the image, 1 for no tiles.
        iterations: how often the mask is refined, each time from the last one.
    """

    def __init__(self, refiner: nn.Module, *, scale: int, iterations: int) -> None:
        super().__init__()
        self.refiner = refiner
        self.scale = scale
        self.iterations = iterations

    @property
    def grid(self) -> int:
        """Both sides of the image must be multiples of this."""
        return GRID * self.scale

    def forward(self, image: Tensor, network: Callable[[Tensor], Logits]) -> Logits:
        """Run the network and refine its mask.

        Args:
            image: The normalised image, (B, 3, H, W); H and W are multiples of `grid`.
            network: Gives logits of the mask of an image, coarse to fine, the last at the image's size: all that are
                supervised in training, the last alone in evaluation. It is called with another size and batch than
                `image` has. What else it makes, such as gradient predictions, is for the caller to collect.

        Returns:
            All logits, the network's first, then those of each iteration. The last are the result, (B, 1, H, W); the
            others have sizes of their own, those before a refinement in tiles being of the smaller image.

        Raises:
            InputError: H or W is no multiple of `grid`.
        """
        height, width = size_of(image)
        if height % self.grid or width % self.grid or min(height, width) < 1:
            raise InputError(
                f"height and width must be multiples of {self.grid} ({GRID} times the refinement's scale of "
                f"{self.scale}), not {height} x {width}: resize or pad the image first"
            )
        logits = network(resize(image, (height // self.scale, width // self.scale)))
        for _ in range(self.iterations):
            logits += self._refine(image, resize(logits[-1], (height, width)), network)
        return logits

    def _refine(self, image: Tensor, logits: Tensor, network: Callable[[Tensor], Logits]) -> Logits:
        """Refine full-size logits once.  (B, 3, H, W) and (B, 1, H, W) -> logits, the last (B, 1, H, W)."""
        inputs = torch.cat([image, logits], dim=1)
        if self.scale == 1:
            return self._look_again(inputs, network)
        refined = self._look_again(tile(inputs, self.scale), network)
        # Coarser outputs are of tiles that saw nothing around them: the reference drops them too.
        return (untile(refined[-1], self.scale),)

    def _look_again(self, inputs: Tensor, network: Callable[[Tensor], Logits]) -> Logits:
        """Turn an image with logits into logits.  (B, 4, H, W) -> logits, the last (B, 1, H, W)."""
        out = self.refiner(inputs)
        if isinstance(self.refiner, Stem):
            return network(out)
        return out if isinstance(out, tuple) else (out,)


def build_refinement(
    kind: str,
    *,
    backbone: str,
    scale: int,
    iterations: int,
    block: BlockBuilder,
    norm: NormBuilder = nn.BatchNorm2d,
) -> Refinement:
    """Build a refinement with random weights.

    Args:
        kind: As in `RefinerConfig`: "refunet" (a small U-Net), "refiner" (a stem, a backbone and a plain decoder),
            "refiner_pvt_in4" (the same without a stem, on a PVTv2 that takes four channels) or "itself" (a stem, then
            the network again).
        backbone: Backbone of the kinds that have one.
        scale: Tiles on each side of the image, 1 for no tiles.
        iterations: How often the mask is refined.
        block: Builder of the decoder blocks of the kinds that have a backbone.
        norm: Builder of the normalisation of stems and U-Net.

    Raises:
        ConfigError: the backbone is unknown or does not fit the kind.
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "refunet": partial(RefUNet, IMAGE_AND_LOGITS, norm=norm),
        "refiner": partial(_refiner, backbone, block, norm),
        "refiner_pvt_in4": lambda: BackboneRefiner(pvt_v2_b2(in_channels=IMAGE_AND_LOGITS), block),
        "itself": partial(Stem, IMAGE_AND_LOGITS, norm=norm),
    }
    return Refinement(builders[kind](), scale=scale, iterations=iterations)


def _refiner(backbone: str, block: BlockBuilder, norm: NormBuilder) -> BackboneRefiner:
    encoder = build_backbone(backbone)
    if encoder.strides != STRIDES:
        raise ConfigError(f"a refiner needs a backbone with maps at strides 4, 8, 16 and 32, which {backbone} has not")
    return BackboneRefiner(encoder, block, Stem(IMAGE_AND_LOGITS, norm=norm))
