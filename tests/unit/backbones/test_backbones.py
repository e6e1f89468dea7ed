"""One battery over all backbones."""

import pytest
import torch

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.backbones.swin_v1 import shift_mask, window_partition, window_reverse
from birefnet.modules.drop_path import DropPath

LIGHT = ["swin_v1_t", "pvt_v2_b0", "pvt_v2_b1", "mobilenet_v4_s"]

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


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (50, 75)])
def test_forward_and_backward_at_any_size(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).train()
    maps = backbone(torch.randn(2, 3, *size))
    sum(x.square().mean() for x in maps).backward()
    assert all(x.isfinite().all() for x in maps)
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", LIGHT)
def test_images_of_a_batch_do_not_touch_each_other(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval().double()
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
    torch.manual_seed(0)
    for name in ("swin_v1_t", "pvt_v2_b0"):
        for key, module in build_backbone(name).named_modules():
            if isinstance(module, torch.nn.Linear):
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
