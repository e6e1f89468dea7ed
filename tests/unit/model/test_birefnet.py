import dataclasses
from pathlib import Path

import pytest
import torch

import birefnet
from birefnet.backbones import Backbone, Pyramid, build_backbone
from birefnet.config import ModelConfig, RefinerConfig
from birefnet.errors import ConfigError, InputError, WeightsError
from birefnet.model import BiRefNet
from birefnet.modules.detail import DetailBlock
from birefnet.modules.patches import image_to_patches, image_to_pixels
from support import TINY, golden_model, tiny_model


def test_without_arguments_it_is_the_published_network() -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config()
    assert model.config == ModelConfig(backbone="swin_v1_l")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 220.2


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("swin_v1_t", 44.31), ("swin_v1_b", 106.23), ("swin_v1_s", 65.63), ("pvt_v2_b5", 96.26), ("pvt_v2_b1", 28.31)],
)
def test_parameter_counts_equal_the_published_ones(backbone: str, millions: float) -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config(ModelConfig(backbone=backbone))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    "shape", [(1, 3, 64, 100), (1, 3, 33, 64), (1, 4, 64, 64), (3, 64, 64), (1, 3, 0, 64), (0, 3, 64, 64)]
)
def test_impossible_inputs_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    model = tiny_model()
    for run in (model, model.forward_train):
        with pytest.raises(InputError) as error:
            run(torch.zeros(shape))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [None, [[1.0]], torch.zeros(1, 3, 64, 64, dtype=torch.uint8)])
def test_what_is_no_floating_point_tensor_is_refused_in_one_line(image: object) -> None:
    with pytest.raises(InputError, match="floating-point tensors") as error:
        tiny_model()(image)
    assert "\n" not in str(error.value)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="swin_v1_l"):
        BiRefNet.from_config(ModelConfig(backbone="swin"))


def test_sides_too_small_for_the_backbone_are_refused() -> None:
    model = BiRefNet.from_config(ModelConfig(backbone="pvt_v2_b0")).eval()
    with pytest.raises(InputError, match="from 64 on, not 32 x 64"):
        model(torch.zeros(1, 3, 32, 64))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_training_on_a_single_image_is_refused() -> None:
    model = tiny_model().train()
    for run in (model, model.forward_train):
        with pytest.raises(InputError, match="batches of 2"):
            run(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_falls_on_the_attention_in_training_alone(dropout: float) -> None:
    torch.manual_seed(0)
    model = BiRefNet.from_config(dataclasses.replace(TINY, dropout=dropout))
    attentions = [model.encoder.squeeze[0].attention, *(stage.block.attention for stage in model.decoder.stages)]
    seen: list[torch.Tensor] = []
    for attention in attentions:
        # Before the dropout all elements are 1, so that it shows alone.
        attention.norm.weight.data.zero_()
        attention.norm.bias.data.fill_(1.0)
        attention.register_forward_hook(lambda *args: seen.append(args[2]))
    image = torch.randn(2, 3, 128, 128)
    model.eval()(image)
    assert all((x == 1).all() for x in seen)
    seen.clear()
    model.train()(image)
    x = torch.cat([x.flatten() for x in seen])
    assert x.unique().tolist() == pytest.approx([1.0] if dropout == 0 else [0.0, 1 / (1 - dropout)])
    assert (x == 0).float().mean().item() == pytest.approx(dropout, abs=0.02)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_training_output_has_everything_that_is_supervised(size: tuple[int, int]) -> None:
    height, width = size
    model = tiny_model()
    image = torch.randn(2, 3, height, width)
    out = model.forward_train(image)
    assert out.logits.shape == (2, 1, height, width)
    for i, stride in enumerate((32, 16, 8)):
        stage = (2, 1, height // stride, width // stride)
        assert out.side_logits[i].shape == stage
        assert out.gradient_logits[i].shape == stage
        assert out.gradient_labels[i].shape == (2, 1, height, width)
        assert not out.gradient_labels[i].requires_grad
    torch.testing.assert_close(out.logits, model(image))


@pytest.mark.parametrize("config", [TINY, ModelConfig(backbone="pvt_v2_b0")])
def test_every_parameter_gets_a_finite_gradient(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = BiRefNet.from_config(config).train()
    out = model.forward_train(torch.randn(2, 3, 64, 64))
    terms = [out.logits, *out.side_logits, *out.gradient_logits]
    torch.stack([term.square().mean() for term in terms]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_batch_equals_its_images_one_by_one() -> None:
    torch.manual_seed(0)
    model = BiRefNet.from_config(ModelConfig(backbone="pvt_v2_b0")).eval()
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_channels_last_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    model = BiRefNet.from_config(ModelConfig(backbone="pvt_v2_b0")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        model.to(memory_format=torch.channels_last)
        actual = model(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_name_in_place_of_a_configuration_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="backbone='swin_v1_t'") as error:
        BiRefNet("swin_v1_t")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_refiner_is_chosen_by_its_kind_alone() -> None:
    with torch.device("meta"):
        model = BiRefNet(TINY, refiner="itself")
    assert model.config.refiner == RefinerConfig("itself")


class ThreeMaps(Backbone):
    channels = (4, 4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, image: torch.Tensor) -> Pyramid:
        return (self.conv(image),) * 3  # type: ignore[return-value]


def test_an_own_backbone_that_does_not_keep_its_word_is_named() -> None:
    model = BiRefNet(backbone=ThreeMaps, decoder_channels=4).eval()
    with pytest.raises(ConfigError, match=r"ThreeMaps returns maps of \(4, 4, 4\) channels") as error:
        model(torch.zeros(1, 3, 64, 64))
    assert "\n" not in str(error.value)

    class NoChannels(ThreeMaps):
        channels = (4, 4)  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="must be four numbers"):
        BiRefNet(backbone=NoChannels)


def test_an_own_backbone_starts_from_its_own_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    for backbone in ("mobilenet_v4_s", "pvt_v2_b0"):
        trained = build_backbone(backbone)
        torch.save(trained.state_dict(), path)
        model = BiRefNet(backbone=backbone, pretrained_backbone=path)
        loaded = model.encoder.backbone.state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in trained.state_dict().items())
    with pytest.raises(WeightsError, match=r"own state dict.*torch\.save") as error:
        BiRefNet(backbone=ThreeMaps, pretrained_backbone=path)
    assert "\n" not in str(error.value)


def test_parts_of_one_s_own_have_to_be_passed_again(tmp_path: Path) -> None:
    class OneMap(ThreeMaps):
        def forward(self, image: torch.Tensor) -> Pyramid:
            x = self.conv(image)
            return x, x, x, x

    path = tmp_path / "own.safetensors"
    BiRefNet(backbone=OneMap, decoder_channels=4).save(path)
    with pytest.raises(WeightsError, match=r"parts of your own \(backbone\)") as error:
        BiRefNet.load(path)
    assert "\n" not in str(error.value)
    assert birefnet.load(BiRefNet.load(path, backbone=OneMap), size=64).spec.size == (64, 64)
    with pytest.raises(ConfigError, match="export the network first"):
        birefnet.load(BiRefNet.load(path, backbone=OneMap), engine="onnx")


def test_patches_are_contiguous_cells_in_the_documented_order() -> None:
    image = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    patches = image_to_patches(image, (4, 6))
    assert patches.shape == (2, 12, 4, 6)
    for channel in range(3):
        for i in range(2):
            for j in range(2):
                cell = image[:, channel, 4 * i : 4 * i + 4, 6 * j : 6 * j + 6]
                assert torch.equal(patches[:, (channel * 2 + i) * 2 + j], cell)


@pytest.mark.parametrize("inward", ["patches", "pixels", "none"])
@pytest.mark.parametrize("detail", [0, 8])
def test_the_small_way_to_the_logits_in_training_is_the_same(inward: str, detail: int) -> None:
    config = dataclasses.replace(TINY, inward=inward, detail_channels=detail)
    model = golden_model(config).double().eval()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(model.forward_train(image).logits, model(image), rtol=1e-10, atol=1e-10)


def test_the_detail_block_sees_single_pixels() -> None:
    model = golden_model(dataclasses.replace(TINY, detail_channels=8)).double().eval()
    plain = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    dotted = plain.clone()
    dotted[..., 33, 21] = 1
    detail = model.decoder.detail
    assert isinstance(detail, DetailBlock)
    x = torch.randn(1, detail.narrow.in_channels, 16, 16, dtype=torch.float64)
    changed = (detail(x, dotted) - detail(x, plain)).abs().amax(1)[0] > 0
    assert detail(x, plain).shape == (1, 8, 32, 32)
    rows, columns = changed.nonzero().unbind(1)
    assert changed.any()
    # The dot is in the cell (16, 10), and three 3x3 convolutions look at most three cells away.
    assert (rows - 16).abs().max() <= 3
    assert (columns - 10).abs().max() <= 3


def test_pixels_stay_in_their_place() -> None:
    image = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    pixels = image_to_pixels(image, (4, 6))
    assert pixels.shape == (2, 12, 4, 6)
    for channel, i, j in ((0, 0, 0), (1, 0, 1), (2, 1, 1)):
        assert torch.equal(pixels[:, 4 * channel + 2 * i + j], image[:, channel, i::2, j::2])
