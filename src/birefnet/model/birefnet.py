"""BiRefNet: bilateral reference for high-resolution dichotomous image segmentation.

Zheng et al., CAAI Artificial Intelligence Research 2024, arXiv 2401.03407.
"""

from dataclasses import dataclass
from functools import partial
from typing import Self

from torch import Tensor, nn

from birefnet.backbones import build_backbone
from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import InputError
from birefnet.model.decoder import Decoder
from birefnet.model.encoder import Encoder, fused_channels
from birefnet.modules.aspp import Aspp
from birefnet.modules.decoder_blocks import DecoderBlock
from birefnet.modules.gradient import gradient_label, gradient_map

GRID = 32
"""Both sides of the input must be multiples of this: the deepest patches are 1/32 of the image."""


@dataclass(frozen=True)
class TrainOutput:
    """Everything the training losses look at.

    Attributes:
        logits: the mask, (B, 1, H, W).
        side_logits: side predictions of the mask at strides 32, 16 and 8, each at its own size.
        gradient_logits: predictions of the gradient map at the same strides; they meet their label after a sigmoid.
        gradient_labels: what these are trained towards, (B, 1, H, W) each, before a sigmoid, detached.
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...]
    gradient_logits: tuple[Tensor, ...]
    gradient_labels: tuple[Tensor, ...]


class BiRefNet(nn.Module):
    """The whole network: `encoder` finds the object, `decoder` draws it.

    Attributes:
        config: what was built, so that weights can be saved with it.
        input_spec: how photos are prepared for these weights.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, config: ModelConfig, input_spec: InputSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.config = config
        self.input_spec = input_spec

    @classmethod
    def from_config(cls, config: ModelConfig | None = None, input_spec: InputSpec | None = None) -> Self:
        """Build the network with random weights; without a configuration the published one on Swin-L.

        Raises:
            ConfigError: the configuration names a backbone that does not exist.
        """
        config = config or ModelConfig()
        backbone = build_backbone(config.backbone)
        block = partial(decoder_block, config=config)
        channels = fused_channels(backbone)
        encoder = Encoder(backbone, nn.Sequential(block(sum(channels), channels[3])))
        decoder = Decoder(
            channels,
            backbone.strides,
            block,
            inward_channels=config.inward_channels,
            gradient_channels=config.gradient_channels,
        )
        return cls(encoder, decoder, config, input_spec or InputSpec())

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the mask; their sigmoid is the mask.  (B, 3, H, W) -> (B, 1, H, W).

        The image is RGB, normalised as `input_spec` says; H and W are multiples of 32.

        Raises:
            InputError: the image has another shape.
        """
        self._check(image)
        logits: Tensor = self.decoder(self.encoder(image), image).logits
        return logits

    def forward_train(self, image: Tensor) -> TrainOutput:
        """Logits with all that the losses supervise.  (B, 3, H, W) -> `TrainOutput`.

        Raises:
            InputError: the image has another shape.
        """
        self._check(image)
        out = self.decoder(self.encoder(image), image, supervise=True)
        gradient = gradient_map(image)
        labels = tuple(gradient_label(gradient, side) for side in out.side_logits)
        return TrainOutput(out.logits, out.side_logits, out.gradient_logits, labels)

    def _check(self, image: Tensor) -> None:
        """Refuse what the network cannot take, before a layer deep inside does."""
        shape = tuple(image.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise InputError(f"the network takes images (B, 3, H, W), not {shape}")
        batch, _, height, width = shape
        # The backbone sees the image at half size too.
        least = max(GRID, 2 * self.encoder.backbone.min_side)
        if height % GRID or width % GRID or min(height, width) < least or batch < 1:
            raise InputError(
                f"height and width must be multiples of {GRID}, from {least} on, not {height} x {width}: "
                "resize or pad the image first"
            )
        if self.training and batch == 1:
            raise InputError(
                "batch norm cannot be trained on a single image: use batches of 2 or more, or model.eval()"
            )


def decoder_block(in_channels: int, out_channels: int, *, config: ModelConfig) -> DecoderBlock:
    """Build the decoder block that a configuration asks for."""
    width = config.decoder_channels
    attention = Aspp(
        width, config.attention_channels, deformable=config.attention == "deformable", dropout=config.dropout
    )
    return DecoderBlock(in_channels, out_channels, width, attention)
