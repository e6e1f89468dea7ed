"""Costs against the published table of the network and against counts made by hand."""

import pytest
import torch
from torch import nn

from birefnet.backbones import build_backbone
from birefnet.backbones.swin_v1 import WindowAttention
from birefnet.config import ModelConfig
from birefnet.errors import InputError
from birefnet.model import BiRefNet
from birefnet.model.count import Cost, count_cost
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from support import tiny_model

# Parameters in millions and GMACs at 1024 x 1024 of the reference implementation.
PUBLISHED = {
    "swin_v1_l": (220.18, 1267.4),
    "swin_v1_b": (106.23, 673.3),
    "swin_v1_s": (65.63, 439.6),
    "swin_v1_t": (44.31, 321.0),
    "pvt_v2_b5": (96.26, 648.1),
    "pvt_v2_b2": (39.67, 347.0),
    "pvt_v2_b1": (28.31, 267.9),
    "pvt_v2_b0": (15.77, 192.6),
    "resnet50": (54.80, 423.1),
    "vgg16": (32.00, 616.0),
    "vgg16bn": (32.00, 616.0),
    "dino_v3_s": (47.36, 609.3),
    "dino_v3_s_plus": (54.46, 645.6),
    "dino_v3_b": (118.55, 1215.4),
    "dino_v3_l": (340.75, 2954.4),
}


# One of each family, and the default; the others take as long again.
FAST = ("swin_v1_l", "swin_v1_t", "pvt_v2_b0", "resnet50", "vgg16", "dino_v3_s")


@pytest.mark.parametrize(
    "backbone", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_costs_equal_the_published_ones(backbone: str) -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config(ModelConfig(backbone=backbone))
    cost = count_cost(model)
    assert (round(cost.parameters / 1e6, 2), round(cost.macs / 1e9, 1)) == PUBLISHED[backbone]


@pytest.mark.parametrize(("backbone", "millions"), [("dino_v3_h_plus", 882.93), ("dino_v3_7b", 6810.78)])
def test_parameters_of_the_largest_equal_the_published_ones(backbone: str, millions: float) -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config(ModelConfig(backbone=backbone))
    assert round(count_cost(model, (64, 64)).parameters / 1e6, 2) == millions


@pytest.mark.parametrize(("side", "gmacs"), [(512, 82.1), (2048, 1271.9)])
def test_costs_at_other_sizes_equal_the_published_ones(side: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = BiRefNet.from_config(ModelConfig(backbone="swin_v1_t"))
    assert round(count_cost(model, (side, side)).macs / 1e9, 1) == gmacs


class Pointwise(nn.Module):
    """Applies linear layers to pixels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.permute(0, 2, 3, 1))


class Windows(nn.Module):
    """One window of attention as large as the image, whose channels are made 8."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = WindowAttention(8, window=6, heads=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x[:, :1].expand(-1, 8, -1, -1).flatten(2).transpose(1, 2)
        return self.attention(tokens, None)


HEIGHT, WIDTH = 6, 10
PIXELS = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("model", "size", "macs"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (HEIGHT, WIDTH), PIXELS * 3 * 5 * 9),
        (nn.Conv2d(3, 5, 3, padding=1, stride=2, bias=False), (HEIGHT, WIDTH), PIXELS // 4 * 3 * 5 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), (HEIGHT, WIDTH), PIXELS * 6 * 9),
        (Pointwise(nn.Linear(3, 7), nn.LayerNorm(7), nn.GELU()), (HEIGHT, WIDTH), PIXELS * 3 * 7),
        # Offsets and modulation (2 + 1 numbers for each of 9 taps), and the product itself.
        (ModulatedDeformConv2d(3, 4, 3), (HEIGHT, WIDTH), PIXELS * 9 * 3 * (27 + 4)),
        # q, k, v and the projection; then q·k and a·v, 36 tokens with 36 and 8 channels in all heads together.
        (Windows(), (6, 6), 36 * 8 * 8 * 4 + 2 * 36 * 36 * 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_product_is_counted_once(model: nn.Module, size: tuple[int, int], macs: int) -> None:
    assert count_cost(model, size) == Cost(sum(p.numel() for p in model.parameters()), macs)


def test_the_model_is_left_as_it_is() -> None:
    model = tiny_model().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    cost = count_cost(model, (64, 96))
    assert cost.macs > 0
    assert model.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert count_cost(model.half(), (64, 96)) == cost


def test_a_backbone_alone_is_counted_too() -> None:
    # Thirteen convolutions of VGG-16 at 224 x 224: 15.3 billion, as its paper's followers count them.
    cost = count_cost(build_backbone("vgg16"), (224, 224))
    assert cost == Cost(parameters=14_714_688, macs=15_346_630_656)


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        count_cost(tiny_model(), (100, 64))
