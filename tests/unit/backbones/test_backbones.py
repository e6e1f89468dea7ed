"""One battery over all backbones."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from birefnet.backbones import BACKBONES, Backbone, build_backbone
from birefnet.backbones.dino_v3 import DinoV3, rotary_angles, rotate, rotation
from birefnet.backbones.resnet import ResNet
from birefnet.backbones.resnet_mini import Halved
from birefnet.backbones.swin_v1 import shift_mask, window_partition, window_reverse
from birefnet.errors import InputError
from birefnet.modules.drop_path import DropPath

# Real runs of the light variants, and of a shrunken one of each kind of DINOv3.
RUN: dict[str, Callable[[], Backbone]] = {
    **{name: BACKBONES[name] for name in ("swin_v1_t", "pvt_v2_b0", "pvt_v2_b1", "mobilenet_v4_s", "resnet_mini")},
    "resnet-small": partial(ResNet, depths=(2, 1, 1, 1), width=8),
    "dino_v3-small": partial(DinoV3, width=24, heads=3, hidden=48, taps=(0, 1, 2, 4)),
    "dino_v3-gated": partial(DinoV3, width=32, heads=2, hidden=40, taps=(1, 2, 3, 4), gated=True),
}
HEAVY = ("vgg16", "vgg16bn", "resnet50", "dino_v3_s", "dino_v3_s_plus")
ALL_RUN = [*RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]


def built(name: str) -> Backbone:
    torch.manual_seed(0)
    return RUN[name]() if name in RUN else build_backbone(name)


# Parameters in millions of the whole backbones, as the reference counts them.
PARAMETERS = {
    "swin_v1_t": 27.52,
    "swin_v1_s": 48.84,
    "swin_v1_b": 86.88,
    "swin_v1_l": 195.20,
    "pvt_v2_b0": 3.41,
    "pvt_v2_b1": 13.50,
    "pvt_v2_b2": 24.85,
    "pvt_v2_b5": 81.44,
    "vgg16": 14.71,
    "resnet50": 23.51,
    "dino_v3_s": 21.59,
    "dino_v3_s_plus": 28.68,
    "dino_v3_b": 85.64,
    "dino_v3_l": 303.08,
    "dino_v3_h_plus": 840.51,
    "dino_v3_7b": 6716.02,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_keep_the_contract(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        maps = backbone(torch.empty(2, 3, 96, 160))
    assert len(maps) == 4
    for x, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert x.shape == (2, channels, 96 // stride, 160 // stride)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_equal_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == PARAMETERS[name]


@pytest.mark.parametrize("name", ALL_RUN)
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (50, 75)])
def test_forward_and_backward_at_any_size(name: str, size: tuple[int, int]) -> None:
    backbone = built(name).train()
    if isinstance(backbone, DinoV3):
        size = (size[0] // 16 * 16, size[1] // 16 * 16)
    maps = backbone(torch.randn(2, 3, *size))
    sum(x.square().mean() for x in maps).backward()
    for x, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert x.shape[:2] == (2, channels)
        assert all(n in (side // stride, -(-side // stride)) for n, side in zip(x.shape[2:], size, strict=True))
        assert x.isfinite().all()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", [*RUN, *HEAVY])
def test_the_smallest_side_can_be_encoded(name: str) -> None:
    with torch.device("meta"):
        backbone = built(name).eval()
        side = backbone.min_side
        for size in ((side, side), (side, 4 * side)):
            maps = backbone(torch.empty(1, 3, *size))
            assert all(min(x.shape) >= 1 for x in maps)


@pytest.mark.parametrize("name", ["vgg16", "vgg16bn", "dino_v3_s"])
def test_no_smaller_side_can(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        side = backbone.min_side
        with pytest.raises((RuntimeError, InputError)):
            backbone(torch.empty(1, 3, side - 1, side))


@pytest.mark.parametrize("name", ALL_RUN)
def test_images_of_a_batch_do_not_touch_each_other(name: str) -> None:
    backbone = built(name).eval().double()
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images)
        alone = [backbone(image[None]) for image in images]
    for level, x in enumerate(together):
        torch.testing.assert_close(x, torch.cat([maps[level] for maps in alone]), rtol=1e-9, atol=1e-9)


def test_stochastic_depth_drops_whole_branches_of_random_samples() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 3, 2, 2)
    y = drop.train()(x)
    kept = (y != 0).flatten(1)
    assert torch.equal(kept.all(dim=1), kept.any(dim=1))  # a sample is dropped whole or not at all
    assert y[kept.all(dim=1)].unique().item() == pytest.approx(1 / 0.75)
    assert kept.all(dim=1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert drop.eval()(x) is x


@pytest.mark.parametrize(("name", "last"), [("swin_v1_t", 0.2), ("swin_v1_l", 0.2), ("pvt_v2_b0", 0.1)])
def test_stochastic_depth_grows_linearly_with_depth(name: str, last: float) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    rates = torch.tensor([module.probability for module in backbone.modules() if isinstance(module, DropPath)])
    torch.testing.assert_close(rates, torch.linspace(0, last, len(rates)))
    assert len(rates) >= 8


def test_transformers_start_small() -> None:
    for name in ("swin_v1_t", "pvt_v2_b0", "dino_v3_s_plus"):
        for key, module in built(name).named_modules():
            if isinstance(module, nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), key
                assert module.bias is None or not module.bias.any(), key


def test_windows_come_back_in_place() -> None:
    x = torch.arange(2 * 6 * 9 * 4).view(2, 6, 9, 4)
    windows = window_partition(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 4)
    assert torch.equal(windows[1].view(3, 3, 4), x[0, :3, 3:6])
    assert torch.equal(window_reverse(windows, 3, 6, 9), x)


def test_shifted_windows_attend_within_their_region_only() -> None:
    # By the definition: number the regions that slicing at -window and -shift cuts, then compare tokens.
    height, width, window = 14, 21, 7
    region = torch.zeros(height, width)
    count = 0
    for rows in (slice(0, -7), slice(-7, -3), slice(-3, None)):
        for columns in (slice(0, -7), slice(-7, -3), slice(-3, None)):
            region[rows, columns] = count
            count += 1
    windows = window_partition(region[None, :, :, None], window).squeeze(-1)
    expected = windows[:, None, :] == windows[:, :, None]
    actual = shift_mask(height, width, window, torch.device("cpu"))
    assert torch.equal(actual, expected)
    assert actual[0].all()
    assert not actual[-1].all()


def test_convolutional_backbones_keep_the_size_of_a_signal() -> None:
    # Initialised by the fan of their outputs, each with a ReLU after it: neither fades nor explodes.
    for name in ("vgg16", "vgg16bn", "resnet50"):
        for key, module in built(name).named_modules():
            if isinstance(module, nn.Conv2d):
                std = math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
                assert module.weight.std().item() == pytest.approx(std, rel=0.05), (name, key)
                assert module.bias is None or not module.bias.any(), (name, key)


def test_only_dinov3_is_frozen_and_only_its_maps_share_a_stride() -> None:
    with torch.device("meta"):
        for name in BACKBONES:
            backbone = build_backbone(name)
            dino = isinstance(backbone, DinoV3)
            assert backbone.frozen == dino, name
            assert backbone.strides == ((16, 16, 16, 16) if dino else (4, 8, 16, 32)), name


@pytest.mark.parametrize("size", [(64, 72), (40, 64), (15, 16)])
def test_dinov3_refuses_sides_that_are_no_multiple_of_its_patch(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"multiples of 16, not {size[0]} x {size[1]}: resize or pad"):
        built("dino_v3-small")(torch.zeros(1, 3, *size))


def test_dinov3_starts_as_the_identity_almost() -> None:
    # Layer scales of 1e-5: every block adds next to nothing, so that all maps are the embedded patches.
    backbone = built("dino_v3-gated").eval()
    image = torch.randn(1, 3, 32, 48)
    patches = backbone.get_submodule("patch_embed")(image)
    for x in backbone(image):
        torch.testing.assert_close(x, patches, rtol=0, atol=1e-3)


def test_rotary_angles_are_those_of_the_definition() -> None:
    height, width, channels = 3, 2, 16
    angles = rotary_angles(height, width, channels, torch.device("cpu"))
    assert angles.shape == (height * width, channels)
    assert angles.dtype == torch.float32
    for row in range(height):
        for column in range(width):
            y, x = 2 * (row + 0.5) / height - 1, 2 * (column + 0.5) / width - 1
            periods = [100 ** (2 * i / (channels / 2)) for i in range(channels // 4)]
            half = [2 * math.pi * y / p for p in periods] + [2 * math.pi * x / p for p in periods]
            torch.testing.assert_close(angles[row * width + column], torch.tensor([*half, *half]))


def test_rotation_keeps_lengths_and_leaves_the_first_tokens_alone() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 3, 5 + 12, 16)
    turned = rotate(tokens, rotation(3, 4, 16, tokens.device))
    torch.testing.assert_close(turned.norm(dim=-1), tokens.norm(dim=-1))
    assert torch.equal(turned[:, :, :5], tokens[:, :, :5])
    assert not torch.allclose(turned[:, :, 5:], tokens[:, :, 5:])
    half = tokens.to(torch.bfloat16)
    assert rotate(half, rotation(3, 4, 16, tokens.device)).dtype == torch.bfloat16


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 16)
    turn = rotation(1, 6, 16, torch.device("cpu"))
    everywhere = [rotate(x.expand(1, 1, 11, 16), turn)[0, 0, 5:] for x in (query, key)]
    products = everywhere[0] @ everywhere[1].t()
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_dinov3_sees_where_a_patch_is() -> None:
    backbone = built("dino_v3-small").eval()
    for block in backbone.get_submodule("blocks").children():
        nn.init.ones_(block.layer_scale1)
        nn.init.normal_(block.attn.qkv.weight)
    image = torch.randn(1, 3, 64, 64)
    swapped = image.roll(16, dims=3)
    with torch.no_grad():
        x, y = backbone(image)[3], backbone(swapped)[3]
    assert not torch.allclose(x.roll(1, dims=3), y, atol=1e-2)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (2, 1), (1, 1)])
def test_halved_maps_are_means_of_what_is_there(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(Halved()(x), nn.functional.avg_pool2d(x, 2, ceil_mode=True))
