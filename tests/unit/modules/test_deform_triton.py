"""The Triton kernel against the plain convolution: by Triton's interpreter everywhere, on a GPU where there is one.

Whether Triton interprets is settled when it is imported, so the interpreted cases run in a process of their own: this
file as a program, which prints what it found.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from birefnet.modules import deform_triton
from birefnet.modules.deform_conv import deform_conv2d
from birefnet.modules.deform_triton import (
    Choice,
    FirstThatWorks,
    available,
    deform_conv2d_cuda,
    deform_conv2d_triton,
)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Cases = dict[str, Any]

# Sizes, kernel, padding, batch and channels that end inside of tiles and blocks. The interpreter's: 64 output channels
# and 32 input channels a block, 8 x 8 pixels a tile.
SHAPES: dict[str, tuple[tuple[int, int], tuple[int, int], int, int, tuple[int, int]]] = {
    "1x1": ((9, 13), (1, 1), 0, 2, (40, 70)),
    "3x3": ((9, 7), (3, 3), 1, 2, (40, 16)),
    "7x7": ((5, 9), (7, 7), 3, 1, (16, 16)),
    "one channel": ((5, 7), (3, 3), 1, 1, (1, 1)),
    "no padding": ((6, 9), (3, 3), 0, 1, (16, 16)),
    "an oblong kernel": ((6, 9), (3, 5), 2, 1, (3, 4)),
    "a map smaller than the kernel": ((2, 3), (7, 7), 3, 1, (3, 4)),
    "one pixel": ((1, 1), (3, 3), 1, 3, (3, 4)),
}
EDGES = {  # where a tap of a 4 x 4 map of ones is moved to: the value there
    -math.inf: 0.0,
    **{-1e30: 0.0, -1e9: 0.0, -2.0: 0.0, -1.0: 0.0, -0.75: 0.25, -0.5: 0.5, 0.0: 1.0, 1.5: 1.0, 3.0: 1.0},
    **{3.25: 0.75, 4.0: 0.0, 4.5: 0.0, 5.0: 0.0, 1e9: 0.0, 1e30: 0.0, math.inf: 0.0},
}
RANGE_32 = 2**31

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
needs_gpu = pytest.mark.skipif(
    not available("cuda"), reason="no GPU with triton here: the kernel was not compiled and run on one"
)


def make_inputs(
    size: tuple[int, int] = (6, 9),
    kernel: tuple[int, int] = (3, 3),
    padding: int = 1,
    batch: int = 2,
    channels: tuple[int, int] = (3, 4),
) -> Inputs:
    """Draw float32 inputs with offsets of some pixels."""
    generator = torch.Generator().manual_seed(0)
    height, width = (s + 2 * padding - k + 1 for s, k in zip(size, kernel, strict=True))
    taps = math.prod(kernel)
    return (
        torch.randn(batch, channels[0], *size, generator=generator),
        torch.randn(batch, 2 * taps, height, width, generator=generator) * 2,
        torch.randn(batch, taps, height, width, generator=generator).sigmoid() * 2,
        torch.randn(channels[1], channels[0], *kernel, generator=generator),
    )


def error(actual: Tensor, inputs: Inputs, padding: int) -> float:
    """Largest difference from the plain convolution in float64, relative to its largest value."""
    expected = deform_conv2d(*(tensor.double() for tensor in inputs), padding=padding)
    assert actual.shape == expected.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def shapes() -> Iterator[tuple[str, float]]:
    for name, (size, kernel, padding, batch, channels) in SHAPES.items():
        inputs = make_inputs(size, kernel, padding, batch, channels)
        yield name, error(deform_conv2d_triton(*inputs, padding=padding), inputs, padding)


def types() -> Iterator[tuple[str, float]]:
    # Not bfloat16, whose bits the interpreter multiplies as if they were integers.
    x, offset, modulation, weight = make_inputs(batch=1, channels=(40, 20))
    half = (x.half(), offset.half(), modulation.half(), weight.half())
    output = deform_conv2d_triton(*half, padding=1)
    assert output.dtype == torch.float16
    yield "all", error(output, half, 1)
    mixed = (half[0], offset, modulation, half[3])
    yield "map and kernel", error(deform_conv2d_triton(*mixed, padding=1), mixed, 1)


def layouts() -> Iterator[tuple[str, float]]:
    x, offset, modulation, weight = inputs = make_inputs((5, 7), channels=(20, 4))
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in inputs]
    yield "channels last", error(deform_conv2d_triton(*last, padding=1), inputs, 1)
    both = torch.cat((offset, modulation), 1).contiguous(memory_format=torch.channels_last)
    yield "slices", error(deform_conv2d_triton(x, both[:, :18], both[:, 18:], weight, padding=1), inputs, 1)
    turned = x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3)
    yield "transposed", error(deform_conv2d_triton(turned, offset, modulation, weight, padding=1), inputs, 1)
    whole = offset.round()
    output = deform_conv2d_triton(x, whole, modulation, weight, padding=1)
    yield "whole offsets", error(output, (x, whole, modulation, weight), 1)


def edges() -> Iterator[tuple[str, float]]:
    ones = torch.ones(1, 1, 4, 4)
    for axis in (0, 1):
        for place in EDGES:
            offset = torch.zeros(1, 2, 4, 4)
            offset[:, axis] = place
            line = deform_conv2d_triton(ones, offset, ones, torch.ones(1, 1, 1, 1)).select(2 + axis, 0)
            assert line.eq(line[..., :1]).all()
            yield f"{axis} {place}", float(line[0, 0, 0])


def not_a_number() -> Iterator[tuple[str, bool]]:
    x, offset, modulation, weight = make_inputs((5, 7))
    expected = deform_conv2d_triton(x, offset, modulation, weight, padding=1)
    for name, tensor, channel in (("down", offset, 4), ("right", offset, 5), ("modulation", modulation, 2)):
        kept = float(tensor[0, channel, 2, 3])
        tensor[0, channel, 2, 3] = math.nan
        output = deform_conv2d_triton(x, offset, modulation, weight, padding=1)
        tensor[0, channel, 2, 3] = kept
        there = bool(output[0, :, 2, 3].isnan().all())
        output[0, :, 2, 3] = expected[0, :, 2, 3]
        yield name, there and torch.equal(output, expected)
    x[:, :, 0, 0] = math.inf
    output = deform_conv2d_triton(x, torch.full_like(offset, 1e9), modulation, weight, padding=1)
    yield "infinity far away", bool(output.eq(0).all())


def far_pixels() -> float:
    """Offsets at the end of a long row, whose digits a float32 position would lose."""
    x, offset, modulation, weight = inputs = make_inputs((1, 400), (1, 1), 0, 1, (3, 4))
    return error(deform_conv2d_triton(x, offset, modulation, weight), inputs, 0)


def many_elements() -> float:
    """A map whose last row begins beyond what 32 bits count. Only the pages that hold pixels take memory."""
    inputs = make_inputs((9, 4), channels=(16, 5), batch=1)
    row = RANGE_32 // 8
    memory = torch.empty(RANGE_32 + 64, dtype=torch.float16)
    x = memory.as_strided((1, 16, 9, 4), (9 * row, 1, row, 16))
    x.copy_(inputs[0])
    half = (x, *inputs[1:3], inputs[3].half())
    return error(deform_conv2d_triton(*half, padding=1), half, 1)


def main() -> None:
    """Run all cases and print what came of them."""
    torch.set_grad_enabled(False)
    results: Cases = {
        "triton": "triton" in sys.modules,
        **{case.__name__: dict(case()) for case in (shapes, types, layouts, edges, not_a_number)},
        "far_pixels": far_pixels(),
        "many_elements": many_elements(),
    }
    sys.stdout.write(json.dumps(results))


@pytest.fixture(scope="module")
def interpreted() -> Cases:
    """What the kernel gives when Triton's interpreter runs it on the CPU."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results: Cases = json.loads(process.stdout)
    return results


@needs_triton
class TestInterpreted:
    def test_triton_is_imported_by_the_first_call_alone(self, interpreted: Cases) -> None:
        assert interpreted["triton"] is False

    @pytest.mark.parametrize("name", list(SHAPES))
    def test_equals_the_plain_convolution(self, interpreted: Cases, name: str) -> None:
        assert interpreted["shapes"][name] < 1e-5

    def test_half_precision_is_close(self, interpreted: Cases) -> None:
        assert len(interpreted["types"]) == 2
        assert max(interpreted["types"].values()) < 2e-3

    def test_any_order_in_memory(self, interpreted: Cases) -> None:
        assert len(interpreted["layouts"]) == 4
        assert max(interpreted["layouts"].values()) < 1e-5

    @pytest.mark.parametrize("axis", [0, 1])
    def test_zero_outside_of_the_map(self, interpreted: Cases, axis: int) -> None:
        found = {place: interpreted["edges"][f"{axis} {place}"] for place in EDGES}
        assert found == EDGES

    def test_not_a_number_comes_out_where_it_came_in(self, interpreted: Cases) -> None:
        assert len(interpreted["not_a_number"]) == 4
        assert all(interpreted["not_a_number"].values()), interpreted["not_a_number"]

    def test_far_from_the_corner_offsets_keep_their_digits(self, interpreted: Cases) -> None:
        assert interpreted["far_pixels"] < 1e-6

    def test_more_elements_than_32_bits_count(self, interpreted: Cases) -> None:
        assert interpreted["many_elements"] < 2e-3


class NoDriver:
    """Says which GPU to compile for, where none is."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


class CompileOnly:
    """Takes the launches of the kernel and compiles them to a GPU's machine code; for this no GPU is needed.

    Args:
        number: Which of the configurations.
    """

    def __init__(self, number: int) -> None:
        from birefnet.modules import deform_kernel

        tuner = deform_kernel._kernel()
        self.function, self.configuration = tuner.fn, tuner.configs[number]
        self.kernels: dict[int, Any] = {}

    def __getitem__(self, grid: Callable[[dict[str, int]], tuple[int]]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            options |= self.configuration.all_kwargs()
            kernel = self.function.warmup(*arguments, grid=grid(options), **options)
            self.kernels[id(kernel)] = kernel

        return launch


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int, int], CompileOnly]]:
    """Compile the kernel for a compute capability, ten times, instead of launching it."""
    from triton.runtime import driver

    from birefnet.modules import deform_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    deform_kernel._kernel.cache_clear()

    def use(capability: int, number: int) -> CompileOnly:
        monkeypatch.setattr(driver, "_active", NoDriver(capability))
        compiler = CompileOnly(number)
        monkeypatch.setattr(deform_kernel, "_kernel", lambda: compiler)
        return compiler

    original = deform_kernel._kernel
    yield use
    original.cache_clear()


@needs_triton
@pytest.mark.parametrize(
    ("capability", "dtype", "number", "order"),
    [
        (90, torch.float16, 1, torch.contiguous_format),
        (90, torch.bfloat16, 4, torch.channels_last),
        (80, torch.float16, 3, torch.channels_last),
        (89, torch.float32, 5, torch.contiguous_format),
    ],
)
def test_compiles_to_machine_code_with_tensor_cores(
    capability: int,
    dtype: torch.dtype,
    number: int,
    order: torch.memory_format,
    compile_for: Callable[[int, int], CompileOnly],
) -> None:
    compiler = compile_for(capability, number)
    inputs = make_inputs((32, 32), channels=(64, 256))
    x, offset, modulation, weight = (tensor.to(dtype, memory_format=order) for tensor in inputs)
    deform_conv2d_triton(x, offset, modulation, weight, padding=1)
    (kernel,) = compiler.kernels.values()
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= 99 * 1024  # of the smallest GPU that is supported
    # A float32 map is multiplied exactly, which tensor cores cannot.
    assert ("mma" in kernel.asm["ptx"]) == (dtype != torch.float32)


@needs_triton
def test_one_machine_code_serves_all_sizes_and_kernels(compile_for: Callable[[int, int], CompileOnly]) -> None:
    # Compiling takes seconds, and photos come in many sizes.
    compiler = compile_for(90, 5)
    for side, kernel in ((32, 1), (40, 3), (13, 3), (16, 7), (1, 7)):
        x, offset, modulation, weight = make_inputs((side, side + 3), (kernel, kernel), kernel // 2, 2, (64, 32))
        both = torch.cat((offset, modulation), 1).half().contiguous(memory_format=torch.channels_last)
        parts = both.split([offset.shape[1], modulation.shape[1]], 1)
        deform_conv2d_triton(x.half(), *parts, weight.half(), padding=kernel // 2)
    assert len(compiler.kernels) == 1


@needs_triton
def test_tiles_fit_the_channels_and_the_precision() -> None:
    from birefnet.modules import deform_kernel

    everything = deform_kernel._configurations()

    def blocks(channels: int, precision: str) -> set[int]:
        arguments = {"out_channels": channels}
        fitting = deform_kernel._fitting(everything, arguments, precision=precision, grid=None)
        assert fitting
        return {configuration.kwargs["out_block"] for configuration in fitting}

    assert blocks(256, "tf32") == {256, 128, 64}
    assert blocks(100, "tf32") == {128, 64}
    assert blocks(1, "tf32") == {64}
    assert blocks(256, "ieee") == {128, 64}


@needs_gpu
class TestOnGpu:
    @pytest.mark.parametrize("name", list(SHAPES))
    def test_equals_the_plain_convolution(self, name: str) -> None:
        size, kernel, padding, batch, channels = SHAPES[name]
        inputs = make_inputs(size, kernel, padding, batch, channels)
        output = deform_conv2d_triton(*(tensor.cuda() for tensor in inputs), padding=padding)
        assert error(output.cpu(), inputs, padding) < 1e-5

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
    @pytest.mark.parametrize("kernel", [1, 3, 7])
    def test_half_precision_is_close(self, dtype: torch.dtype, bound: float, kernel: int) -> None:
        inputs = make_inputs((90, 131), (kernel, kernel), kernel // 2, 2, (64, 256))
        x, offset, modulation, weight = (tensor.to("cuda", dtype) for tensor in inputs)
        output = deform_conv2d_triton(x, offset, modulation, weight, padding=kernel // 2)
        assert error(output.cpu(), (x.cpu(), offset.cpu(), modulation.cpu(), weight.cpu()), kernel // 2) < bound

    def test_what_is_not_finite(self) -> None:
        x, offset, modulation, weight = (tensor.cuda() for tensor in make_inputs())
        offset[0, 4, 2, 3] = math.nan
        output = deform_conv2d_triton(x, offset, modulation, weight, padding=1)
        assert output[0, :, 2, 3].isnan().all()
        output[0, :, 2, 3] = 0
        assert output.isfinite().all()
        for far in (1e30, math.inf, -math.inf):
            output = deform_conv2d_triton(x, torch.full_like(offset, far), modulation, weight, padding=1)
            assert output.eq(0).all()

    def test_triton_is_chosen(self) -> None:
        x, offset, modulation, weight = inputs = make_inputs()
        ways = FirstThatWorks()
        assert ways.candidates(x.cuda())[0].name == "Triton"
        output = ways(x.cuda(), offset.cuda(), modulation.cuda(), weight.cuda(), padding=1)
        assert error(output.cpu(), inputs, 1) < 1e-5
        assert not ways.notes


def way(name: str, run: Callable[..., Tensor]) -> Choice:
    return Choice(name, "for a test", lambda _: True, run)


def test_a_cpu_has_no_kernel_and_takes_the_plain_convolution() -> None:
    inputs = make_inputs()
    assert not available("cpu")
    assert [choice.name for choice in FirstThatWorks().candidates(inputs[0])] == ["plain torch"]
    torch.testing.assert_close(deform_conv2d_cuda(*inputs, padding=1), deform_conv2d(*inputs, padding=1))
    assert not deform_triton.notes()


@needs_triton
@pytest.mark.skipif(available("cuda"), reason="Triton works here")
def test_triton_that_fails_is_replaced_noted_once_and_not_tried_again() -> None:
    # Without a driver Triton fails here as it does where its compiler is missing.
    attempts: list[torch.dtype] = []

    def triton(*inputs: Tensor, padding: int = 0) -> Tensor:
        attempts.append(inputs[0].dtype)
        return deform_conv2d_triton(*inputs, padding=padding)

    ways = FirstThatWorks((way("Triton", triton), way("plain torch", deform_conv2d)))
    inputs = make_inputs()
    for _ in range(2):
        torch.testing.assert_close(ways(*inputs, padding=1), deform_conv2d(*inputs, padding=1))
    assert attempts == [torch.float32]
    ways(*(tensor.bfloat16() for tensor in inputs), padding=1)
    assert attempts == [torch.float32, torch.bfloat16]
    assert len(ways.notes) == 2
    assert ways.notes[0].startswith("deformable convolution in float32 on cpu: Triton failed (")
    assert ways.notes[0].endswith("), plain torch is used instead")
    assert "\n" not in ways.notes[0]


def test_inputs_that_no_way_takes_are_nobodys_failure() -> None:
    def refuses(*_: Tensor, padding: int = 0) -> Tensor:  # noqa: ARG001
        raise ValueError("no")

    ways = FirstThatWorks((way("first", refuses), way("plain torch", deform_conv2d)))
    x, offset, modulation, weight = make_inputs()
    with pytest.raises(AssertionError):
        ways(x, offset[:, :-1], modulation, weight, padding=1)
    assert not ways.notes
    assert len(ways.candidates(x)) == 2


def test_short_memory_is_not_taken_for_a_broken_kernel() -> None:
    def large(*_: Tensor, padding: int = 0) -> Tensor:  # noqa: ARG001
        raise torch.OutOfMemoryError("too large")

    ways = FirstThatWorks((way("first", large), way("plain torch", deform_conv2d)))
    inputs = make_inputs()
    with pytest.raises(torch.OutOfMemoryError):
        ways(*inputs, padding=1)
    assert not ways.notes


def test_the_compiler_sees_one_operator() -> None:
    inputs = make_inputs()
    torch.library.opcheck(torch.ops.birefnet.deform_conv2d_cuda, (*inputs, 1))

    def doubled(*tensors: Tensor) -> Tensor:
        return 2 * deform_conv2d_cuda(*tensors, padding=1)

    whole = torch.compile(doubled, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*inputs), doubled(*inputs))


if __name__ == "__main__":
    main()
