"""BiRefNet: bilateral reference for high-resolution dichotomous image segmentation.

Zheng et al., CAAI Artificial Intelligence Research 2024, arXiv 2401.03407.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from birefnet.backbones import Backbone, build_backbone
from birefnet.config import ADAPTIVE, CUSTOM, PARTS, InputSpec, ModelConfig
from birefnet.errors import ConfigError, InputError
from birefnet.hub import fetch_file
from birefnet.model.decoder import GRID, STRIDES, BlockBuilder, Decoder, DecoderLike, DecoderOutput
from birefnet.model.encoder import Channels, Encoder, context_channels, fused_channels
from birefnet.model.refiners import BackboneRefiner, Refinement, build_refinement
from birefnet.model.storage import Stored
from birefnet.modules.aspp import Aspp
from birefnet.modules.decoder_blocks import DecoderBlock
from birefnet.modules.gradient import gradient_label, gradient_map
from birefnet.modules.lateral import LateralBlock
from birefnet.modules.norm import NORM_LAYERS
from birefnet.modules.sync_norm import SyncBatchNorm2d
from birefnet.weights.pretrained import PRETRAINED, load_backbone, terms_of

NECK: Channels = (192, 384, 768, 1536)
"""Widths, those of Swin-L, that the maps of a backbone with other strides than 4, 8, 16, 32 are brought to."""

BackboneBuilder = Callable[[], Backbone]
DecoderBuilder = Callable[[Channels], DecoderLike]
"""Builds a decoder from the channels of the encoder's maps, shallow to deep."""


@dataclass(frozen=True)
class TrainOutput:
    """Everything the training losses look at.

    Attributes:
        logits: the mask, (B, 1, H, W).
        side_logits: side predictions of the mask at strides 32, 16 and 8, each at its own size; empty without side
            supervision.
        gradient_logits: predictions of the gradient map at the same strides; they meet their label after a sigmoid.
            Empty without outward reference.
        gradient_labels: what these are trained towards, (B, 1, H, W) each, before a sigmoid, detached.
        earlier_logits: with a refiner, the masks before the last one, from the first on; to be supervised like sides.
        class_logits: with a class head, the categories of the images, (B, classes).
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()
    gradient_logits: tuple[Tensor, ...] = ()
    gradient_labels: tuple[Tensor, ...] = ()
    earlier_logits: tuple[Tensor, ...] = ()
    class_logits: Tensor | None = None


class BiRefNet(Stored):
    """The whole network: `encoder` finds the object, `decoder` draws it, an optional `refinement` looks again.

    A string for a part chooses one of ours, as `ModelConfig` lists them; a callable builds one of your own, see
    docs/extend.md.

    Args:
        config: what to build; without one the published network on Swin-L.
        input_spec: how photos are prepared for the weights.
        backbone: a name, or a builder without arguments of a `Backbone`.
        pretrained_backbone: start from a backbone trained on ImageNet (or for DINOv3 its own data): True fetches
            timm's weights from the hub, a path names a file of them or of the original authors.
        bb_pretrained: the reference's spelling of `pretrained_backbone`.
        squeeze: a name, or a builder of a block from its input and output channels.
        decoder_block: a name, or a builder as of `squeeze`.
        lateral_block: a builder as of `squeeze`.
        decoder: a builder from the channels of the encoder's four maps, shallow to deep.
        options: fields of `ModelConfig` that differ from `config`.

    Attributes:
        config: what was built, so that weights can be saved with it.
        input_spec: how photos are prepared for these weights.
        notes: lines for a person on how the weights were loaded, if anything about it was told or assumed.

    Raises:
        ConfigError: a name, value or combination cannot be built; the message says what fits.
        WeightsError: pretrained weights cannot be fetched or do not fit.
    """

    def __init__(
        self,
        config: ModelConfig | None = None,
        input_spec: InputSpec | None = None,
        *,
        backbone: str | BackboneBuilder | None = None,
        pretrained_backbone: bool | str | Path = False,
        bb_pretrained: bool | str | Path = False,
        squeeze: str | BlockBuilder | None = None,
        decoder_block: str | BlockBuilder | None = None,
        lateral_block: BlockBuilder | None = None,
        decoder: DecoderBuilder | None = None,
        **options: Any,
    ) -> None:
        if config is not None and not isinstance(config, ModelConfig):
            raise ConfigError(
                f"config must be a ModelConfig, not {config!r}; a backbone is named by backbone='swin_v1_t'"
            )
        given = dict(zip(PARTS, (backbone, squeeze, decoder_block, lateral_block, decoder), strict=True))
        parts: dict[str, Any] = {name: part for name, part in given.items() if callable(part)}
        options |= {name: part for name, part in given.items() if part is not None and name not in parts}
        config = configure(config or ModelConfig(), options, tuple(parts))
        super().__init__(config, input_spec or InputSpec())
        encoder_backbone = parts["backbone"]() if "backbone" in parts else build_backbone(config.backbone)
        check_backbone(encoder_backbone)
        channels = fused_channels(encoder_backbone, config.scale_fusion)
        self.encoder = Encoder(
            encoder_backbone,
            build_squeeze(channels, config, parts.get("squeeze")),
            scale_fusion=config.scale_fusion,
            context_levels=config.context_levels,
        )
        self.decoder = parts["decoder"](channels) if "decoder" in parts else build_decoder(self.encoder, config, parts)
        self.class_head = nn.Linear(channels[3], config.classes) if config.classes else None
        self.refinement: Refinement | None = None
        if config.refiner is not None:
            self.refinement = build_refinement(
                config.refiner.kind,
                backbone=config.refiner.backbone,
                scale=config.refiner.scale,
                iterations=config.refiner.iterations,
                block=partial(build_block, config=config),
                norm=config.norm,
                side_supervision=config.side_supervision,
            )
        source = pretrained_backbone if pretrained_backbone is not False else bb_pretrained
        if source is not False:
            self._pretrain(config.backbone, None if source is True else source)

    @classmethod
    def from_config(cls, config: ModelConfig | None = None, input_spec: InputSpec | None = None) -> Self:
        """Build the network with random weights; without a configuration the published one on Swin-L.

        Raises:
            ConfigError: the configuration names a backbone that does not exist.
        """
        return cls(config, input_spec)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the mask; their sigmoid is the mask.  (B, 3, H, W) -> (B, 1, H, W).

        The image is RGB, normalised as `input_spec` says; H and W are multiples of 32 (of 32 * scale with a refiner).

        Raises:
            InputError: the image has another shape.
        """
        self._check(image)
        if self.refinement is None:
            return self._segment(image).logits
        logits: tuple[Tensor, ...] = self.refinement(image, lambda view: (self._segment(view).logits,))
        return logits[-1]

    def forward_train(self, image: Tensor) -> TrainOutput:
        """Logits with all that the losses supervise.  (B, 3, H, W) -> `TrainOutput`.

        Raises:
            InputError: the image has another shape.
        """
        self._check(image)
        passes: list[tuple[Tensor, Tensor, DecoderOutput]] = []

        def network(view: Tensor) -> tuple[Tensor, ...]:
            maps = self.encoder.fuse(view)
            out = self.decoder(self.encoder.squeezed(maps), view, supervise=True)
            passes.append((view, maps[3], out))
            return *out.side_logits, out.logits

        logits = network(image) if self.refinement is None else self.refinement(image, network)
        # A refiner may run the network once more, on what its stem has made: that is no image to take gradients of.
        view, deepest, out = passes[0]
        labels: tuple[Tensor, ...] = ()
        if out.gradient_logits:
            gradient = gradient_map(view)
            labels = tuple(gradient_label(gradient, side) for side in out.side_logits)
        return TrainOutput(
            logits[-1],
            out.side_logits,
            out.gradient_logits,
            labels,
            logits[len(out.side_logits) : -1],
            None if self.class_head is None else self.class_head(deepest.mean(dim=(2, 3))),
        )

    def _segment(self, image: Tensor) -> DecoderOutput:
        out: DecoderOutput = self.decoder(self.encoder(image), image)
        return out

    def _pretrain(self, name: str, source: str | Path | None) -> None:
        if source is None:
            if name not in PRETRAINED:
                raise ConfigError(
                    f"no pretrained weights of backbone {name} are published; those of {', '.join(PRETRAINED)} are. "
                    "For others give a file of its own state dict: pretrained_backbone='weights.pth'"
                )
            source = fetch_file(PRETRAINED[name], "model.safetensors")
        anew = load_backbone(self.encoder.backbone, name, Path(source))
        self.notes = (f"backbone {name} is pretrained, from {source}", *self.notes)
        if anew:
            self.notes += (f"{len(anew)} tensors of it are in no such file and start anew: {', '.join(anew)}",)
        self.notes += terms_of(name)

    @property
    def grid(self) -> int:
        """What height and width of an image must be multiples of."""
        return GRID * (1 if self.refinement is None else self.refinement.scale)

    @property
    def least_side(self) -> int:
        """The smallest height and width of an image."""
        needed = self._views * self.encoder.backbone.min_side
        return max(-(-needed // self.grid), 1) * self.grid

    @property
    def _views(self) -> int:
        """How many times smaller than the image the backbone sees it at most."""
        scale = 1 if self.refinement is None else self.refinement.scale
        return scale * (1 if self.config.scale_fusion == "none" else 2)

    def _check(self, image: Tensor) -> None:
        """Refuse what the network cannot take, before a layer deep inside does."""
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"the network takes floating-point tensors (B, 3, H, W), normalised, not {kind}")
        shape = tuple(image.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[0] < 1:
            raise InputError(f"the network takes images (B, 3, H, W), not {shape}")
        batch, _, height, width = shape
        grid, least = self.grid, self.least_side
        if height % grid or width % grid or min(height, width) < least:
            raise InputError(
                f"height and width must be multiples of {grid}, from {least} on, not {height} x {width}: "
                "resize or pad the image first"
            )
        if batch == 1 and self.training:
            self._check_single(height, width, self._views)

    def _check_single(self, height: int, width: int, views: int) -> None:
        """Refuse to train batch norm where a map has a single value to learn from."""
        if any(map(trains_batch_norm, (self.encoder.squeeze, self.decoder))):
            raise InputError(
                "batch norm cannot be trained on a single image: use batches of 2 or more, norm='group' or 'none', "
                "or model.eval()"
            )
        backbones = [(self.encoder.backbone, views)]
        if self.refinement is not None and isinstance(self.refinement.refiner, BackboneRefiner):
            backbones.append((self.refinement.refiner.backbone, 1))
        for backbone, smaller in backbones:
            deepest = smaller * max(backbone.strides)
            if trains_batch_norm(backbone) and (height // deepest) * (width // deepest) < 2:
                raise InputError(
                    f"the batch norm of a {type(backbone).__name__} cannot be trained on a single image of {height} x "
                    f"{width}: use larger images, batches of 2 or more, or model.eval()"
                )


def trains_batch_norm(module: nn.Module) -> bool:
    """Whether a module holds a batch norm that normalises by its input alone, not by what it has learnt."""
    norms = (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    # A synchronized one sees the images of other processes too.
    return any(norm.training and not isinstance(norm, SyncBatchNorm2d) for norm in norms)


def configure(config: ModelConfig, options: Mapping[str, Any], custom: tuple[str, ...]) -> ModelConfig:
    """Put options and the names of a user's own parts into a configuration.

    Raises:
        ConfigError: an option is unknown or impossible, or the configuration asks for own parts that are not given.
    """
    lacking = [part for part in config.custom if part not in custom and part not in options]
    if lacking:
        raise ConfigError(
            f"this network has parts of your own ({', '.join(lacking)}): pass what builds them, {lacking[0]}=..."
        )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if "backbone" in custom:
        values["backbone"] = CUSTOM
    return ModelConfig.from_dict({**values, **options, "custom": custom})


def check_backbone(backbone: Backbone) -> None:
    """Refuse a backbone that does not say what its maps are.

    Raises:
        ConfigError: `channels` or `strides` are not four numbers.
    """
    for name in ("channels", "strides"):
        values = getattr(backbone, name, ())
        if len(values) != 4 or not all(isinstance(value, int) and value > 0 for value in values):
            raise ConfigError(f"{type(backbone).__name__}.{name} must be four numbers, shallow to deep, not {values!r}")


def build_attention(channels: int, out_channels: int, kind: str, config: ModelConfig) -> nn.Module:
    """Build an attention by its kind."""
    if kind == "none":
        return nn.Identity()
    return Aspp(
        channels,
        config.attention_channels,
        deformable=kind == "deformable",
        dropout=config.dropout,
        out_channels=out_channels,
        norm=NORM_LAYERS[config.norm],
    )


def build_block(in_channels: int, out_channels: int, *, config: ModelConfig, kind: str = "basic") -> nn.Module:
    """Build a decoder block, or an attention in its place, as a configuration asks for."""
    if kind not in ("basic", "residual"):
        return build_attention(in_channels, out_channels, kind, config)
    width = max(in_channels // 4, 1) if config.decoder_channels == ADAPTIVE else int(config.decoder_channels)
    attention = build_attention(width, width, config.attention, config)
    norm = NORM_LAYERS[config.norm]
    return DecoderBlock(in_channels, out_channels, width, attention, residual=kind == "residual", norm=norm)


def build_squeeze(channels: Channels, config: ModelConfig, custom: BlockBuilder | None) -> nn.Sequential:
    """Build the squeeze module from the channels of the fused maps."""
    build = custom or partial(build_block, config=config, kind=config.squeeze)
    if config.squeeze == "none" and custom is None:
        return nn.Sequential()
    in_channels = context_channels(channels, config.context_levels) + channels[3]
    return nn.Sequential(*(build(in_channels, channels[3]) for _ in range(config.squeeze_count)))


def build_decoder(encoder: Encoder, config: ModelConfig, parts: Mapping[str, Any]) -> Decoder:
    """Build the decoder for an encoder."""
    factor = 2 if config.scale_fusion == "cat" else 1
    n1, n2, n3, n4 = NECK
    neck = None if encoder.backbone.strides == STRIDES else (factor * n1, factor * n2, factor * n3, factor * n4)
    return Decoder(
        encoder.channels,
        parts.get("decoder_block", partial(build_block, config=config, kind=config.decoder_block)),
        parts.get("lateral_block", LateralBlock),
        neck=neck,
        inward=config.inward,
        inward_channels=config.inward_channels,
        side_supervision=config.side_supervision,
        gradient_channels=config.gradient_channels if config.outward else 0,
        detail_channels=config.detail_channels,
        norm=NORM_LAYERS[config.norm],
    )
