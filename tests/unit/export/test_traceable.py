"""The form that exporters follow against the network itself."""

import copy

import pytest
import torch
from torch import Tensor, nn

from birefnet.backbones.swin_v1 import SwinStage
from birefnet.config import InputSpec
from birefnet.export.decompose import DecomposedDeformConv2d, decompose
from birefnet.export.traceable import TraceableDeformConv2d, deform_conv2d_op, traceable
from birefnet.export.windows import FORBIDDEN, TraceableSwinStage, windows_of
from birefnet.inference.folding import affine_of, fold_batch_norms
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from engine_files import lively_model
from family import COMBINATIONS, WIDTHS


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def liven(model: nn.Module) -> None:
    """Statistics, scales and offsets that a fresh network has not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, ModulatedDeformConv2d):
                module.offset_conv.bias.normal_(0, 2, generator=generator)
                module.modulation_conv.bias.normal_(0, 1, generator=generator)


def test_the_form_gives_the_networks_alpha_and_leaves_the_network_alone() -> None:
    model = lively_model("deformable")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    form = traceable(model)
    assert norms_of(form) == []
    assert not any(isinstance(module, ModulatedDeformConv2d) for module in form.modules())
    image = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = model(image).sigmoid()
        assert expected.std() > 0.1
        torch.testing.assert_close(form(image), expected, atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Shifting(nn.BatchNorm2d):
    """A norm of somebody's own, which does more than the one it derives from."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.5


def test_without_folding_plain_norms_alone_become_a_product_and_a_sum() -> None:
    model = copy.deepcopy(lively_model("deformable"))  # which other tests share
    own = Shifting(model.decoder.head.in_channels)
    model.decoder.head = nn.Sequential(own, model.decoder.head)  # type: ignore[assignment]
    form = traceable(model.eval(), fold=False)
    assert [type(norm) for norm in norms_of(form)] == [Shifting]
    convolutions = [part for part in form.modules() if isinstance(part, nn.Conv2d)]
    for part in model.encoder.backbone.modules():
        if isinstance(part, nn.Conv2d):
            assert any(torch.equal(other.weight, part.weight) for other in convolutions if other is not part)
    image = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = model(image).sigmoid()
        torch.testing.assert_close(form(image), expected, atol=1e-5, rtol=0)
        own.forward = lambda input: nn.BatchNorm2d.forward(own, input)  # type: ignore[method-assign]
        assert not torch.allclose(model(image).sigmoid(), expected, atol=1e-3)


@pytest.mark.parametrize("index", range(0, len(COMBINATIONS), 3))
def test_every_option_has_the_form(index: int) -> None:
    torch.manual_seed(index)
    model = BiRefNet(**COMBINATIONS[index] | WIDTHS, input_spec=InputSpec(size=(64, 64))).eval()
    liven(model)
    form = traceable(model)
    # A batch norm that follows no convolution stays; none of ours does.
    assert norms_of(form) == []
    side = 2 * model.grid  # what the smallest of these backbones can see at half of its size too
    image = torch.randn(1, 3, side, side + model.grid)
    with torch.inference_mode():
        torch.testing.assert_close(form(image), model(image).sigmoid(), atol=1e-5, rtol=1e-5)


# --- batch norm ---


class Shared(nn.Module):
    """Convolutions whose outputs are read twice, after an activation, or by two norms: none may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.norm_twice = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.active, self.norm_active = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.forked, self.norm_one, self.norm_two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(x)
        x = x + self.norm_twice(x)
        x = self.norm_active(self.active(x).relu())
        return self.norm_one(self.forked(x)) + self.norm_two(self.forked(x))


def test_a_norm_is_folded_only_where_it_alone_reads_a_convolution() -> None:
    network = Shared().eval()
    liven(network)
    image = torch.randn(2, 3, 5, 6)
    with torch.inference_mode():
        expected = network(image)
        fold_batch_norms(network, image)
        assert torch.equal(network(image), expected)
    assert len(norms_of(network)) == 4


def test_folding_is_exact_in_float64() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 1),
        nn.BatchNorm2d(4, affine=False),
    )
    network = network.double().eval()
    network[1].running_var.uniform_(0.1, 2)
    network[4].running_mean.normal_()
    image = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    scale, shift = affine_of(network[1])
    assert scale.shape == shift.shape == (5,)
    with torch.inference_mode():
        expected = network(image)
        fold_batch_norms(network, image)
        assert norms_of(network) == []
        torch.testing.assert_close(network(image), expected, atol=1e-13, rtol=1e-13)


# --- deformable convolution ---


@pytest.fixture(params=[1, 3, 7])
def deformable(request: pytest.FixtureRequest) -> tuple[ModulatedDeformConv2d, TraceableDeformConv2d]:
    torch.manual_seed(request.param)
    conv = ModulatedDeformConv2d(4, 5, request.param).double().eval()
    nn.init.normal_(conv.offset_conv.weight, std=0.3)
    # Some taps look far outside: at the borders and beyond is where such convolutions differ.
    nn.init.normal_(conv.offset_conv.bias, std=4)
    nn.init.normal_(conv.modulation_conv.weight)
    return conv, TraceableDeformConv2d(conv)


def test_one_predictor_and_the_operator_give_the_convolution(
    deformable: tuple[ModulatedDeformConv2d, TraceableDeformConv2d],
) -> None:
    conv, form = deformable
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(form(x), conv(x), atol=1e-12, rtol=1e-12)


def test_the_decomposed_convolution_is_the_same_at_borders_and_beyond(
    deformable: tuple[ModulatedDeformConv2d, TraceableDeformConv2d],
) -> None:
    conv, form = deformable
    network = nn.Sequential(form)
    decompose(network)
    assert isinstance(network[0], DecomposedDeformConv2d)
    x = torch.randn(3, 4, 9, 7, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), conv(x), atol=1e-11, rtol=1e-11)


def test_the_operator_says_its_shape_and_layout() -> None:
    x, weight = torch.randn(2, 4, 9, 7), torch.randn(5, 4, 3, 3)
    offset, modulation = torch.randn(2, 18, 9, 7), torch.rand(2, 9, 9, 7)
    torch.library.opcheck(
        deform_conv2d_op, (x, offset, modulation, weight, 1), test_utils=("test_schema", "test_faketensor")
    )
    on_meta = deform_conv2d_op(*(tensor.to("meta") for tensor in (x, offset, modulation, weight)), 1)
    real = deform_conv2d_op(x, offset, modulation, weight, 1)
    assert on_meta.shape == real.shape
    assert on_meta.stride() == real.stride()


# --- windows ---


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 20), (3, 5), (14, 6)])
def test_tokens_go_to_places_and_come_back(height: int, width: int) -> None:
    for shift in (0, 3):
        windows = windows_of(height, width, 7, shift)
        assert torch.equal(windows.tokens.flatten()[windows.places], torch.arange(height * width))
        padding = windows.tokens.numel() - height * width
        assert (windows.tokens == height * width).sum() == padding
        assert (windows.mask is None) == (shift == 0)


def test_what_does_not_touch_is_forbidden() -> None:
    mask = windows_of(14, 14, 7, 3).mask
    assert mask is not None
    assert set(mask.unique().tolist()) == {0.0, FORBIDDEN}
    assert (mask[0, 0] == 0).all()  # no cut goes through the first window
    assert all((mask[row, column] < 0).any() for row, column in ((0, 1), (1, 0), (1, 1)))


@pytest.mark.parametrize("size", [(14, 14), (9, 17), (5, 3)])
def test_the_form_of_a_stage_gives_the_same(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stage = SwinStage(12, 2, 7, [0.0, 0.0], downsample=True).eval()
    for parameter in stage.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, *size, 12)
    with torch.inference_mode():
        for actual, expected in zip(TraceableSwinStage(stage)(x), stage(x), strict=True):
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
