"""The inference form equals the network it is made of: in float64, for all options, backbones and borders."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from birefnet.backbones import Backbone
from birefnet.backbones.base import Pyramid
from birefnet.backbones.swin_v1 import SwinTransformer
from birefnet.config import REFINERS, ModelConfig, RefinerConfig
from birefnet.errors import ConfigError, InputError
from birefnet.inference import InferenceModel, optimise
from birefnet.inference.aspp import DeformableAspp
from birefnet.inference.aspp_gpu import GpuDeformableAspp
from birefnet.inference.decoder import InferenceDecoder
from birefnet.inference.swin import InferenceSwin
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from family import COMBINATIONS, WIDTHS
from support import TINY, golden_model

EXACT = 1e-11


def tiny_swin() -> SwinTransformer:
    """All that a Swin Transformer has, in small: two stages whose windows shift, odd sizes at most."""
    return SwinTransformer(width=8, depths=(2, 2, 3, 2), heads=(1, 2, 2, 4), window=3)


def filled(model: BiRefNet) -> BiRefNet:
    """Give each tensor values that show in the output: norms that scale, biases, offsets of about two pixels."""
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: Tensor, scale: float, mean: float = 0.0) -> None:
        tensor.copy_(mean + scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ModulatedDeformConv2d):
                width = module.offset_conv.weight[0].numel()
                normal(module.offset_conv.weight, 2 / width**0.5)
                normal(module.modulation_conv.weight, 1 / width**0.5)
            if isinstance(module, nn.BatchNorm2d):
                normal(module.running_mean, 0.3)
                module.running_var.uniform_(0.5, 2, generator=generator)
            for name, parameter in module.named_parameters(recurse=False):
                if name.endswith("bias") or "table" in name:
                    normal(parameter, 0.3)
                elif parameter.ndim == 1:
                    normal(parameter, 0.2, 1.0)
    return model.double().eval()


def assert_equal(model: BiRefNet, *shapes: tuple[int, ...]) -> InferenceModel:
    form = optimise(model, precision="float64")
    with torch.inference_mode():
        for shape in shapes:
            image = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            expected = model(image)
            actual = form(image)
            assert actual.shape == expected.shape
            assert expected.std() > 1e-3, "nothing would be proven"
            assert (actual - expected).abs().max() <= EXACT * expected.abs().max(), shape
    return form


@pytest.mark.parametrize(
    "index", [pytest.param(i, marks=pytest.mark.long if i % 3 else ()) for i in range(len(COMBINATIONS))]
)
def test_every_two_options_give_the_same_logits(index: int) -> None:
    torch.manual_seed(index)
    model = filled(BiRefNet(**(COMBINATIONS[index] | WIDTHS)))
    scale = model.config.refiner.scale if model.config.refiner else 1
    assert_equal(model, (2, 3, 64 * scale, 96 * scale))


@pytest.mark.parametrize("name", ["swin_v1_t", "pvt_v2_b0", "vgg16", "vgg16bn", "resnet50", "dino_v3_s"])
def test_backbones_give_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    model = filled(BiRefNet(backbone=name, **WIDTHS))
    form = assert_equal(model, (1, 3, 64, 96))
    norms = [name for name, module in form.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert not norms


@pytest.mark.parametrize("fusion", ["cat", "add", "none"])
def test_borders_batches_and_odd_maps_give_the_same_logits(fusion: str) -> None:
    torch.manual_seed(0)
    model = filled(BiRefNet(backbone=tiny_swin, scale_fusion=fusion, **WIDTHS))
    form = assert_equal(model, (1, 3, 32, 32), (1, 3, 32, 160), (3, 3, 96, 64), (1, 3, 224, 32), (1, 3, 160, 288))
    kinds = {type(module) for module in form.modules()}
    assert {InferenceSwin, DeformableAspp, InferenceDecoder} <= kinds
    assert SwinTransformer not in kinds
    assert ModulatedDeformConv2d not in kinds


def test_pieces_of_any_size_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strips and chunks that large maps are worked on in: here small maps in many pieces."""
    torch.manual_seed(0)
    model = filled(BiRefNet(backbone=tiny_swin, **WIDTHS))
    for name, value in (
        ("swin._HIDDEN", 2**10),
        ("decoder._STRIP", 2**9),
        ("aspp._STRIP_PIXELS", 100),
        ("aspp._COLUMNS", 1),
        ("aspp._LEAST_PIXELS", 7),
    ):
        monkeypatch.setattr(f"birefnet.inference.{name}", value)
    assert_equal(model, (2, 3, 96, 160))


def test_the_form_for_gpus_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, on a processor: all of it but the kernels themselves."""
    torch.manual_seed(0)
    monkeypatch.setattr("birefnet.inference.form.DeformableAspp", GpuDeformableAspp)
    model = filled(BiRefNet(backbone=tiny_swin, **WIDTHS))
    form = assert_equal(model, (2, 3, 96, 160))
    assert any(isinstance(module, GpuDeformableAspp) for module in form.modules())


def test_large_batches_go_one_by_one() -> None:
    model = filled(BiRefNet(TINY))
    assert_equal(model, (2, 3, 416, 384))


def test_a_user_s_own_decoder_and_backbone_stay() -> None:
    class Own(nn.Module):
        def __init__(self, channels: tuple[int, ...]) -> None:
            super().__init__()
            self.head = nn.Conv2d(channels[0], 1, 1)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, pyramid: tuple[Tensor, ...], image: Tensor, *, supervise: bool = False) -> Any:
            from birefnet.model.decoder import DecoderOutput

            del supervise
            logits = self.norm(self.head(pyramid[0]))
            return DecoderOutput(nn.functional.interpolate(logits, image.shape[2:], mode="nearest"))

    class OwnBackbone(Backbone):
        channels = (4, 4, 4, 4)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, 4)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, image: Tensor) -> Any:
            x = self.norm(self.conv(image))
            y = self.norm(self.conv(image.flip(2)))  # one norm for two: cannot be folded into either
            return x, (x + y)[:, :, ::2, ::2], x[:, :, ::4, ::4], y[:, :, ::8, ::8]

    torch.manual_seed(0)
    model = filled(BiRefNet(backbone=OwnBackbone, decoder=Own, decoder_channels=8, **WIDTHS))
    assert_equal(model, (2, 3, 64, 96))


def test_the_network_stays_as_it_is_and_shares_what_is_not_changed() -> None:
    model = golden_model(ModelConfig(backbone="swin_v1_t")).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    form = optimise(model, precision="bfloat16")
    assert form.precision == "bfloat16"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not parameter.requires_grad for parameter in form.parameters())
    same = optimise(model, precision="float32")
    storages = {tensor.data_ptr() for tensor in after.values()}
    shared = sum(t.numel() for t in same.state_dict().values() if t.data_ptr() in storages)
    # The backbone's and decoder's large kernels; queries are scaled and deformable kernels turned.
    assert shared > 0.4 * sum(t.numel() for t in after.values())


class Scaled(SwinTransformer):
    """One that gives other maps than what it derives from."""

    def __init__(self) -> None:
        super().__init__(width=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=3)

    def forward(self, image: Tensor) -> Pyramid:
        x1, x2, x3, x4 = super().forward(image)
        return 3 * x1, 3 * x2, 3 * x3, 3 * x4


class ActiveNorm(nn.BatchNorm2d):
    """A norm with an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class StandardConv(nn.Conv2d):
    """A convolution that standardises its weights when it is used."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride)


class Odd(Backbone):
    """A backbone that a user might write: layers that derive from PyTorch's, norms in a list, another way for large."""

    channels = (4, 4, 4, 4)
    min_side = 96

    def __init__(self) -> None:
        super().__init__()
        self.active, self.standard = nn.Conv2d(3, 4, 4, 4), StandardConv(4, 4, 2, 2)
        self.wound = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 2, 2))
        self.last = nn.Conv2d(4, 4, 2, 2)
        self.norms = nn.ModuleList([ActiveNorm(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.listed = [*self.norms]

    def forward(self, image: Tensor) -> Pyramid:
        x1 = self.listed[0](self.active(image))
        x2 = self.listed[1](self.standard(x1))
        x3 = self.listed[2](self.wound(x2))
        x4 = self.last(x3)
        return x1, x2, x3, x4 if image.shape[2] > 200 else self.listed[3](x4)


@pytest.mark.parametrize("backbone", [Scaled, Odd])
def test_what_derives_from_ours_or_is_a_user_s_own_keeps_its_ways(backbone: Callable[[], Backbone]) -> None:
    torch.manual_seed(0)
    model = filled(BiRefNet(backbone=backbone, decoder_channels=8, **WIDTHS))
    assert_equal(model, (1, 3, 192, 224), (1, 3, 256, 192))


@pytest.mark.parametrize("kind", REFINERS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_refiners_calculate_in_lower_precision_too(kind: str, precision: str) -> None:
    torch.manual_seed(0)
    refiner = RefinerConfig(kind, scale=2, backbone="mobilenet_v4_s" if kind == "refiner" else "pvt_v2_b2")
    model = filled(BiRefNet(backbone="mobilenet_v4_s", refiner=refiner, decoder_channels=8, **WIDTHS)).float()
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected, actual = model(image), optimise(model, precision=precision)(image)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


def test_half_precision_weights_are_multiplied_in_float32() -> None:
    model = golden_model(ModelConfig(backbone="swin_v1_t")).bfloat16().eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        actual = optimise(model, precision="float32")(image)
        assert next(model.parameters()).dtype == torch.bfloat16
        expected = model.float()(image)
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("bfloat16", 0.01), ("float16", 0.01)])
def test_masks_in_lower_precision_stay_close(precision: str, bound: float) -> None:
    model = golden_model(ModelConfig(backbone="swin_v1_t")).eval()
    form = optimise(model, precision=precision)
    image = torch.randn((1, 3, 192, 256), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = model(image), form(image)
    assert actual.dtype == torch.float32
    assert expected.std() > 0.1
    assert (actual.sigmoid() - expected.sigmoid()).abs().max() < bound


def test_bad_sizes_and_precisions_are_refused_in_one_line() -> None:
    model = BiRefNet(TINY).eval()
    with pytest.raises(ConfigError, match="precision") as error:
        optimise(model, precision="bfloat17")
    assert "bfloat16" in str(error.value)
    with pytest.raises(InputError, match="multiples of 32"):
        optimise(model)(torch.zeros(1, 3, 50, 64))


def test_what_is_not_a_number_comes_out_as_such() -> None:
    form = optimise(BiRefNet(backbone=tiny_swin, **WIDTHS).eval(), precision="float32")
    image = torch.zeros(1, 3, 64, 64)
    image[0, 0, 10, 10] = float("nan")
    assert form(image).isnan().any()
