"""The deformable convolution against its definition, written out slowly here and differentiated by autograd."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from birefnet.modules import deform_conv
from birefnet.modules.deform_conv import ModulatedDeformConv2d, deform_conv2d

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def defined(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Sum the taps one by one, and the four pixels around each position one by one."""
    batch, channels, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    out_height, out_width = offset.shape[2:]
    items = torch.arange(batch)[:, None, None]
    result = x.new_zeros(batch, out_channels, out_height, out_width)
    for tap in range(kh * kw):
        y = torch.arange(out_height)[:, None] - padding + tap // kw + offset[:, 2 * tap]
        x_ = torch.arange(out_width) - padding + tap % kw + offset[:, 2 * tap + 1]
        value = x.new_zeros(batch, channels, out_height, out_width)
        for bottom in (0, 1):
            for right in (0, 1):
                row, column = y.detach().floor() + bottom, x_.detach().floor() + right
                # At whole positions, where the slope jumps, this takes the slope downward and to the right.
                share = (1 - bottom + (2 * bottom - 1) * (y - y.detach().floor())) * (
                    1 - right + (2 * right - 1) * (x_ - x_.detach().floor())
                )
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                row, column = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
                pixel = x[items, :, row, column].permute(0, 3, 1, 2)
                value = value + torch.where(inside, share, 0.0)[:, None] * pixel
        value = value * modulation[:, tap : tap + 1]
        result = result + torch.einsum("bchw,oc->bohw", value, weight[:, :, tap // kw, tap % kw])
    return result


def make_inputs(
    size: tuple[int, int] = (6, 9),
    kernel: tuple[int, int] = (3, 3),
    padding: int = 1,
    batch: int = 2,
    channels: tuple[int, int] = (3, 4),
    spread: float = 2.0,
) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    height, width = (s + 2 * padding - k + 1 for s, k in zip(size, kernel, strict=True))
    taps = math.prod(kernel)
    return (
        normal(batch, channels[0], *size),
        spread * normal(batch, 2 * taps, height, width),
        normal(batch, taps, height, width).sigmoid() * 2,
        normal(channels[1], channels[0], *kernel),
    )


def gradients(function: Callable[..., Tensor], inputs: Inputs, padding: int) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output = function(*leaves, padding=padding)
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, seed)


def assert_as_defined(inputs: Inputs, padding: int) -> None:
    """Compare the result without and with gradients, and all four gradients."""
    expected = gradients(defined, inputs, padding)
    actual = gradients(deform_conv2d, inputs, padding)
    with torch.no_grad():
        torch.testing.assert_close(deform_conv2d(*inputs, padding=padding), expected[0])
    for name, one, other in zip(("output", "x", "offset", "modulation", "weight"), actual, expected, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Spare thousands of tiny steps the waiting for a second thread, which is long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[5, 256], ids=["many-chunks", "one-chunk"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut maps into chunks of five pixels, which end in the middle of rows, or leave them whole."""
    monkeypatch.setattr(deform_conv, "_CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(deform_conv, "_CHUNK_MIN_PIXELS", request.param)


@pytest.mark.usefixtures("chunked", "one_thread")
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((6, 9), (1, 1), 0),
        ((6, 9), (3, 3), 1),
        ((9, 6), (7, 7), 3),
        ((6, 9), (3, 3), 0),
        ((5, 7), (3, 5), 2),
        ((2, 3), (7, 7), 3),
        ((1, 1), (3, 3), 1),
    ],
)
def test_equals_the_definition(size: tuple[int, int], kernel: tuple[int, int], padding: int) -> None:
    assert_as_defined(make_inputs(size, kernel, padding), padding)


@pytest.mark.usefixtures("chunked", "one_thread")
def test_channels_last_and_sliced_inputs_give_the_same() -> None:
    x, offset, modulation, weight = make_inputs()
    expected = gradients(deform_conv2d, (x, offset, modulation, weight), 1)
    last = tuple(t.contiguous(memory_format=torch.channels_last) for t in (x, offset, modulation, weight))
    for one, other in zip(gradients(deform_conv2d, last, 1), expected, strict=True):
        torch.testing.assert_close(one, other)
    # The halves of one convolution's output, and a transposed map, are no dense tensors.
    both = torch.cat((offset, modulation), 1)
    parts = both[:, :18], both[:, 18:]
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(deform_conv2d(turned, *parts, weight, padding=1), expected[0])


@pytest.mark.usefixtures("one_thread")
def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform_conv, "_CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(deform_conv, "_CHUNK_MIN_PIXELS", 4)
    inputs = make_inputs((3, 4), channels=(2, 2), spread=1.0)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *tensors: deform_conv2d(*tensors, padding=1), leaves)


def test_gradients_when_only_some_are_wanted() -> None:
    inputs = make_inputs()
    expected = gradients(deform_conv2d, inputs, 1)[1:]
    seed = torch.randn(2, 4, 6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for wanted, gradient in enumerate(expected):
        leaves = [tensor.detach().requires_grad_(i == wanted) for i, tensor in enumerate(inputs)]
        (actual,) = torch.autograd.grad(deform_conv2d(*leaves, padding=1), leaves[wanted], seed)
        torch.testing.assert_close(actual, gradient)


def test_second_derivative_is_refused() -> None:
    leaves = [tensor.requires_grad_() for tensor in make_inputs()]
    (gradient,) = torch.autograd.grad(deform_conv2d(*leaves, padding=1).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_whole_offsets_read_pixels() -> None:
    x, offset, modulation, weight = make_inputs()
    assert_as_defined((x, offset.round(), modulation, weight), 1)


def test_no_offset_is_an_ordinary_convolution() -> None:
    for kernel, padding in ((1, 0), (3, 1), (7, 3)):
        x, offset, modulation, weight = make_inputs((6, 9), (kernel, kernel), padding)
        output = deform_conv2d(x, offset * 0, torch.ones_like(modulation), weight, padding=padding)
        torch.testing.assert_close(output, F.conv2d(x, weight, padding=padding))


@pytest.mark.parametrize("axis", [0, 1])
def test_positions_at_the_edges(axis: int) -> None:
    # One tap on a map of 4 x 4 ones, moved from pixel 0 past both ends: the value falls to zero over one pixel.
    places = torch.tensor([-2.0, -1.0, -0.75, -0.5, 0.0, 1.5, 3.0, 3.25, 4.0, 4.5, 5.0, 6.0])
    expected = torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 0.75, 0.0, 0.0, 0.0, 0.0])
    for place, value in zip(places, expected, strict=True):
        offset = torch.zeros(1, 2, 4, 4)
        offset[:, axis] = place
        output = deform_conv2d(torch.ones(1, 1, 4, 4), offset, torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1))
        assert output.select(2 + axis, 0).eq(value).all(), (place, output)


@pytest.mark.parametrize("value", [1e3, 1e9, 1e30, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_offsets_read_zeros(value: float, dtype: torch.dtype) -> None:
    x, offset, modulation, weight = (tensor.to(dtype) for tensor in make_inputs())
    for sign_y, sign_x in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        offset[:, 0::2], offset[:, 1::2] = sign_y * value, sign_x * value
        for result in gradients(deform_conv2d, (x, offset, modulation, weight), 1):
            assert result.eq(0).all()
        # Far in one direction alone, near in the other.
        offset[:, 1::2] = 0.3
        for result in gradients(deform_conv2d, (x, offset, modulation, weight), 1):
            assert result.eq(0).all()


def test_a_pixel_far_away_does_not_leak() -> None:
    x, offset, modulation, weight = make_inputs()
    x[:, :, 0, 0] = math.inf
    offset = torch.full_like(offset, 1e9)
    assert deform_conv2d(x, offset, modulation, weight, padding=1).eq(0).all()


def test_not_a_number_comes_out_as_such() -> None:
    x, offset, modulation, weight = make_inputs()
    offset[0, 4, 2, 3] = math.nan
    output = deform_conv2d(x, offset, modulation, weight, padding=1)
    assert output[0, :, 2, 3].isnan().all()
    output[0, :, 2, 3] = 0
    assert output.isfinite().all()


def test_float32_is_close_to_float64_on_a_large_map() -> None:
    x, offset, modulation, weight = make_inputs((120, 97), spread=5.0, batch=1, channels=(8, 8))
    # Off whole positions, or rounding would now and then choose the slope of the neighbouring pixels.
    offset = (offset * 64).floor() / 64 + 1 / 128
    single = tuple(tensor.float() for tensor in (x, offset, modulation, weight))
    exact = tuple(tensor.double() for tensor in single)
    for name, actual, expected in zip(
        ("output", "x", "offset", "modulation", "weight"),
        gradients(deform_conv2d, single, 1),
        gradients(defined, exact, 1),
        strict=True,
    ):
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert error < 2e-5, (name, error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    half = tuple(tensor.to(dtype) for tensor in make_inputs((12, 15), channels=(8, 8)))
    exact = tuple(tensor.double() for tensor in half)
    results = gradients(deform_conv2d, half, 1)
    assert all(result.dtype == dtype for result in results)
    for actual, expected in zip(results, gradients(defined, exact, 1), strict=True):
        assert (actual.double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_autocast_is_close_to_float32_and_keeps_float32_gradients() -> None:
    # Offsets of a thousand pixels and a fraction: bfloat16 would round them to whole groups of pixels.
    x, offset, modulation, weight = (tensor.float() for tensor in make_inputs((12, 15), channels=(8, 8)))
    x = F.pad(x, (1000, 0))
    offset = F.pad(offset, (1000, 0))
    offset[:, 1::2, :, :15] += 1000.0
    modulation = F.pad(modulation, (1000, 0))

    def cast(*inputs: Tensor, padding: int) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = deform_conv2d(*inputs, padding=padding)
        assert output.dtype == torch.bfloat16
        return output

    inputs = x, offset, modulation, weight
    for actual, expected in zip(gradients(cast, inputs, 1), gradients(deform_conv2d, inputs, 1), strict=True):
        assert (actual.float() - expected).abs().max() < 0.02 * expected.abs().max()
    assert all(gradient.dtype == torch.float32 for gradient in gradients(cast, inputs, 1)[1:])


def test_autocast_leaves_float64_alone_and_backward_under_autocast_is_exact() -> None:
    inputs = make_inputs()
    single = [tensor.float().requires_grad_() for tensor in inputs]
    output = deform_conv2d(*single, padding=1)
    expected = torch.autograd.grad(output.sum(), single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert deform_conv2d(*inputs, padding=1).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            output = deform_conv2d(*single, padding=1)
        actual = torch.autograd.grad(output.sum(), single)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_output_is_channels_last_and_inference_saves_nothing() -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in make_inputs())
    assert deform_conv2d(*inputs, padding=1).is_contiguous(memory_format=torch.channels_last)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            output = deform_conv2d(*inputs, padding=1)
        assert output.grad_fn is None
        assert not output.requires_grad


def test_training_saves_only_its_inputs() -> None:
    saved: list[Tensor] = []
    inputs = tuple(tensor.requires_grad_() for tensor in make_inputs())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        deform_conv2d(*inputs, padding=1)
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in inputs}


class TestModule:
    def test_starts_as_an_ordinary_convolution(self) -> None:
        module = ModulatedDeformConv2d(3, 5, 3)
        x = torch.randn(2, 3, 8, 7)
        torch.testing.assert_close(module(x), F.conv2d(x, module.weight, padding=1))

    @pytest.mark.parametrize("kernel", [1, 3, 7])
    def test_parameters(self, kernel: int) -> None:
        module = ModulatedDeformConv2d(3, 5, kernel)
        taps = kernel**2
        assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {
            "weight": (5, 3, kernel, kernel),
            "offset_conv.weight": (2 * taps, 3, kernel, kernel),
            "offset_conv.bias": (2 * taps,),
            "modulation_conv.weight": (taps, 3, kernel, kernel),
            "modulation_conv.bias": (taps,),
        }
        bound = 1 / math.sqrt(3 * taps)  # that of nn.Conv2d
        assert 0 < module.weight.abs().max() <= bound
        assert module(torch.randn(1, 3, 5, 6)).shape == (1, 5, 5, 6)

    def test_predicts_offsets_and_modulation(self) -> None:
        module = ModulatedDeformConv2d(3, 5, 3).double()
        for conv in (module.offset_conv, module.modulation_conv):
            torch.nn.init.normal_(conv.weight, std=0.3)
            torch.nn.init.normal_(conv.bias)
        x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
        offset, modulation = module.offset_conv(x), 2 * module.modulation_conv(x).sigmoid()
        torch.testing.assert_close(module(x), defined(x, offset, modulation, module.weight, 1))

    def test_all_parameters_learn(self) -> None:
        module = ModulatedDeformConv2d(3, 5, 3)
        x = torch.randn(2, 3, 8, 7, requires_grad=True)
        module(x).square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        assert x.grad is not None


TRAINING_STEP = """
import resource, sys, torch
from birefnet.modules.deform_conv import deform_conv2d
torch.set_num_threads(1)
channels, kernel = 64, 7

def step(size):
    taps = kernel**2
    x = torch.randn(1, channels, size, size, requires_grad=True)
    offset = torch.randn(1, 2 * taps, size, size, requires_grad=True)
    modulation = torch.rand(1, taps, size, size, requires_grad=True)
    weight = torch.randn(8, channels, kernel, kernel, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    deform_conv2d(x, offset, modulation, weight, padding=3).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

step(32)  # libraries
unit = 1 if sys.platform == "darwin" else 1024
print(step(int(sys.argv[1])) * unit)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_memory_of_a_training_step_is_bounded() -> None:
    size = 192
    command = [sys.executable, "-c", TRAINING_STEP, str(size)]
    growth = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    columns = size**2 * 49 * 64 * 4
    # A few chunks and the gradients themselves, 120 MB; the columns alone would be 460 MB, all indices 230.
    assert growth < 0.5 * columns, (growth, columns)
