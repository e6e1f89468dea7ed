from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.config import REFINERS
from birefnet.errors import ConfigError
from birefnet.model.refiners import (
    BackboneRefiner,
    Logits,
    Refinement,
    build_refinement,
    tile,
    untile,
)
from birefnet.modules.aspp import Aspp
from birefnet.modules.decoder_blocks import DecoderBlock
from birefnet.modules.refunet import RefUNet, Stem
from birefnet.modules.resize import resize

# The lightest backbone that each kind can have.
LIGHT = {"refunet": "none", "refiner": "mobilenet_v4_s", "refiner_pvt_in4": "pvt_v2_b2", "itself": "none"}


def block(in_channels: int, out_channels: int) -> DecoderBlock:
    return DecoderBlock(in_channels, out_channels, 8, Aspp(8, 8, deformable=False, dropout=0.0))


def build(kind: str, scale: int = 2, iterations: int = 1) -> Refinement:
    torch.manual_seed(0)
    return build_refinement(kind, backbone=LIGHT[kind], scale=scale, iterations=iterations, block=block)


class Network(nn.Module):
    """The least that can be refined: a side prediction at stride 8 and the mask; it remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(3, 1, 8, stride=8)
        self.mask = nn.Conv2d(3, 1, 3, padding=1)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Logits:
        self.seen.append(image)
        return self.side(image), self.mask(image)


def assert_finite_gradients(module: nn.Module, outs: Logits, skipped: Callable[[str], bool] = lambda _: False) -> None:
    torch.stack([out.square().mean() for out in outs]).sum().backward()
    for name, parameter in module.named_parameters():
        if skipped(name):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_tiles_come_back_in_place(scale: int) -> None:
    x = torch.randn(2, 4, 5 * scale, 7 * scale)
    tiles = tile(x, scale)
    assert tiles.shape == (2 * scale * scale, 4, 5, 7)
    assert torch.equal(untile(tiles, scale), x)
    assert torch.equal(tile(untile(tiles, scale), scale), tiles)


def test_tiles_are_ordered_by_image_then_row_then_column() -> None:
    x = torch.randn(2, 4, 10, 14)
    cells = [
        x[image, :, 5 * row : 5 * row + 5, 7 * column : 7 * column + 7]
        for image in range(2)
        for row in range(2)
        for column in range(2)
    ]
    assert torch.equal(tile(x, 2), torch.stack(cells))


@pytest.mark.parametrize("size", [(1, 1), (17, 30), (33, 47), (64, 96)])
def test_the_u_net_takes_any_size(size: tuple[int, int]) -> None:
    assert RefUNet(channels=4).eval()(torch.randn(2, 4, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("build_module", [RefUNet, Stem])
def test_every_parameter_of_the_small_networks_gets_a_finite_gradient(build_module: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = build_module().train()
    out = module(torch.randn(2, 4, 33, 47))
    assert_finite_gradients(module, (out,))


def test_a_stem_makes_an_image() -> None:
    assert Stem()(torch.randn(2, 4, 20, 30)).shape == (2, 3, 20, 30)


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("dino_v3")])
def test_a_refiner_can_be_built_on_every_backbone_of_strides_4_to_32(name: str) -> None:
    with torch.device("meta"):
        refiner = build_refinement("refiner", backbone=name, scale=1, iterations=1, block=block).refiner.eval()
        outs = refiner(torch.empty(1, 4, 64, 96))
    assert [out.shape for out in outs] == [(1, 1, 2, 3), (1, 1, 4, 6), (1, 1, 8, 12), (1, 1, 64, 96)]


def test_a_backbone_without_a_pyramid_is_refused_in_one_line() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="strides 4, 8, 16 and 32") as error:
        build_refinement("refiner", backbone="dino_v3_s", scale=1, iterations=1, block=block)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("training", [False, True])
def test_a_refiner_on_a_backbone_gives_its_side_predictions_always(training: bool) -> None:
    torch.manual_seed(0)
    refiner = BackboneRefiner(build_backbone("mobilenet_v4_s"), block, Stem()).train(training)
    outs = refiner(torch.randn(2, 4, 64, 96))
    assert [tuple(out.shape[2:]) for out in outs] == [(2, 3), (4, 6), (8, 12), (64, 96)]
    if training:
        assert_finite_gradients(refiner, outs)


@pytest.mark.parametrize("kind", REFINERS)
def test_kinds_are_built_by_name(kind: str) -> None:
    kinds = {"refunet": RefUNet, "refiner": BackboneRefiner, "refiner_pvt_in4": BackboneRefiner, "itself": Stem}
    with torch.device("meta"):
        refinement = build_refinement(kind, backbone="pvt_v2_b2", scale=3, iterations=4, block=block)
    assert isinstance(refinement.refiner, kinds[kind])
    assert (refinement.scale, refinement.iterations) == (3, 4)
    has_stem = [name for name, _ in refinement.refiner.named_modules() if name == "stem"] == ["stem"]
    assert has_stem == (kind in ("refunet", "refiner"))


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_wiring_equals_its_description(scale: int, iterations: int) -> None:
    torch.manual_seed(0)
    network, refiner = Network(), nn.Conv2d(4, 1, 3, padding=1)
    image = torch.randn(2, 3, 192, 384)
    with torch.no_grad():
        actual = Refinement(refiner, scale=scale, iterations=iterations)(image, network)
        expected = list(network(resize(image, (192 // scale, 384 // scale))))
        for _ in range(iterations):
            inputs = torch.cat([image, resize(expected[-1], (192, 384))], dim=1)
            height, width = 192 // scale, 384 // scale
            refined = torch.empty(2, 1, 192, 384)
            for row in range(scale):
                for column in range(scale):
                    rows, columns = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
                    refined[:, :, rows, columns] = refiner(inputs[:, :, rows, columns])
            expected.append(refined)
    assert len(actual) == 2 + iterations
    for out, value in zip(actual, expected, strict=True):
        torch.testing.assert_close(out, value)


class Levels(nn.Module):
    """A refiner with a coarser output beside the fine one."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(4, 1, 4, stride=4)
        self.mask = nn.Conv2d(4, 1, 1)

    def forward(self, image_and_logits: Tensor) -> Logits:
        return self.side(image_and_logits), self.mask(image_and_logits)


def test_all_outputs_of_a_refiner_count_on_the_whole_image_and_the_last_one_on_tiles() -> None:
    image = torch.randn(1, 3, 64, 64)
    network = Network()
    whole = Refinement(Levels(), scale=1, iterations=2)(image, network)
    assert [out.shape[2] for out in whole] == [8, 64, 16, 64, 16, 64]
    tiles = Refinement(Levels(), scale=2, iterations=2)(image, network)
    assert [out.shape[2] for out in tiles] == [4, 32, 64, 64]


@pytest.mark.parametrize("scale", [1, 2])
def test_a_network_refines_itself_on_what_the_stem_makes(scale: int) -> None:
    torch.manual_seed(0)
    network, stem = Network(), Stem().eval()
    image = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        outs = Refinement(stem, scale=scale, iterations=2)(image, network)
        coarse, first, second = network.seen
        assert coarse.shape == (2, 3, 64 // scale, 128 // scale)
        logits = resize(network(coarse)[-1], (64, 128))
        inputs = torch.cat([image, logits], dim=1)
        torch.testing.assert_close(first, stem(tile(inputs, scale)))
        logits = untile(network(first)[-1], scale)
        torch.testing.assert_close(second, stem(tile(torch.cat([image, logits], dim=1), scale)))
        torch.testing.assert_close(outs[-1], untile(network(second)[-1], scale))
    assert len(outs) == (6 if scale == 1 else 4)


@pytest.mark.parametrize("kind", LIGHT)
@pytest.mark.parametrize(("scale", "iterations"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
def test_every_kind_runs_and_gives_the_mask_last(kind: str, scale: int, iterations: int) -> None:
    refinement, network = build(kind, scale, iterations).eval(), Network()
    image = torch.randn(1, 3, 32 * scale, 64 * scale)
    with torch.no_grad():
        outs = refinement(image, network)
    assert outs[-1].shape == (1, 1, 32 * scale, 64 * scale)
    per_iteration = {"refunet": 1, "refiner": 4, "refiner_pvt_in4": 4, "itself": 2}[kind] if scale == 1 else 1
    assert len(outs) == 2 + iterations * per_iteration
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize("kind", LIGHT)
@pytest.mark.parametrize("scale", [1, 2])
def test_every_parameter_that_training_reaches_gets_a_finite_gradient(kind: str, scale: int) -> None:
    refinement, network = build(kind, scale, iterations=2).train(), Network()
    outs = refinement(torch.randn(2, 3, 64, 64), network)
    # Of tiles the last output alone counts, so that side predictions in them are never supervised.
    both = nn.ModuleList([refinement, network])
    assert_finite_gradients(both, outs, lambda name: scale > 1 and "side_head" in name)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    refinement, network = build("refunet").eval().double(), Network().double()
    images = torch.randn(3, 3, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        together = refinement(images, network)[-1]
        alone = torch.cat([refinement(image[None], network)[-1] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
