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
from birefnet.errors import ConfigError
from birefnet.model.decoder import STRIDES, BlockBuilder, Decoder, DecoderOutput
from birefnet.modules.norm import STEM_NORMS, UNET_NORMS
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
        side_supervision: whether the mask is predicted at strides 32, 16 and 8 too.
    """

    def __init__(
        self, backbone: Backbone, block: BlockBuilder, stem: Stem | None = None, *, side_supervision: bool = True
    ) -> None:
        super().__init__()
        deepest = backbone.channels[-1]
        self.stem = stem
        self.backbone = backbone
        self.squeeze = block(deepest, deepest)
        self.decoder = Decoder(
            backbone.channels, block, inward="none", side_supervision=side_supervision, gradient_channels=0
        )

    def forward(self, image_and_logits: Tensor) -> Logits:
        """Draw the mask again.  (B, 4, H, W) -> logits, with supervision at strides 32, 16, 8, and at full size."""
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

    def forward(self, image: Tensor, network: Callable[[Tensor], Logits]) -> Logits:
        """Run the network and refine its mask.

        Args:
            image: The normalised image, (B, 3, H, W); H and W are multiples of 32 * `scale`.
            network: Gives logits of the mask of an image, coarse to fine, the last at the image's size: all that are
                supervised in training, the last alone in evaluation. It is called with another size and batch than
                `image` has. What else it makes, such as gradient predictions, is for the caller to collect.

        Returns:
            All logits, the network's first, then those of each iteration. The last are the result, (B, 1, H, W); the
            others have sizes of their own, those before a refinement in tiles being of the smaller image.
        """
        height, width = size_of(image)
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
    norm: str = "batch",
    side_supervision: bool = True,
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
        norm: Normalisation of stems and U-Net, as in `ModelConfig`.
        side_supervision: Whether the kinds that have a backbone predict the mask at its strides too.

    Raises:
        ConfigError: the backbone is unknown or does not fit the kind.
    """
    stem = partial(Stem, IMAGE_AND_LOGITS, norm=STEM_NORMS[norm])
    on_backbone = partial(BackboneRefiner, block=block, side_supervision=side_supervision)
    builders: dict[str, Callable[[], nn.Module]] = {
        "refunet": lambda: RefUNet(IMAGE_AND_LOGITS, norm=UNET_NORMS[norm]),
        "refiner": lambda: on_backbone(pyramid_backbone(backbone), stem=stem()),
        "refiner_pvt_in4": lambda: on_backbone(pvt_v2_b2(in_channels=IMAGE_AND_LOGITS)),
        "itself": stem,
    }
    return Refinement(builders[kind](), scale=scale, iterations=iterations)


def pyramid_backbone(name: str) -> Backbone:
    """Build a backbone for a refiner.

    Raises:
        ConfigError: the backbone is unknown, or its maps are not at strides 4, 8, 16 and 32.
    """
    backbone = build_backbone(name)
    if backbone.strides != STRIDES:
        raise ConfigError(f"a refiner needs a backbone with maps at strides 4, 8, 16 and 32, which {name} has not")
    return backbone
