"""Time the deformable convolution against what the machine's matrix product allows.

    python benchmarks/deform_conv.py

The case is the widest of the network at an input of 1024 x 1024: 64 channels to 256 on a map of 256 x 256. Each run
of the convolution has a run of one large matrix product of the same type before it, so that a busy machine slows both;
*efficiency* is the time the convolution's own multiplications would take at the product's speed, over the time taken.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from birefnet.modules.deform_conv import deform_conv2d

IN_CHANNELS, OUT_CHANNELS = 64, 256
OFFSET_STD = 2.0  # pixels
CASES = (
    (7, torch.float32),
    (3, torch.float32),
    (1, torch.float32),
    (7, torch.bfloat16),
    (3, torch.bfloat16),
    (1, torch.bfloat16),
)
HEADINGS = ("kernel", "type", "GFLOP", "matrix product", "forward", "efficiency", "forward + backward", "efficiency")


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def make_inputs(kernel: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Draw map, offset, modulation and kernel, as the network's convolutions would hand them over."""
    taps = kernel**2
    inputs = [
        torch.randn(1, IN_CHANNELS, size, size),
        torch.randn(1, 2 * taps, size, size) * OFFSET_STD,
        torch.rand(1, taps, size, size) * 2,
        torch.randn(OUT_CHANNELS, IN_CHANNELS, kernel, kernel) / (IN_CHANNELS * taps) ** 0.5,
    ]
    return [tensor.to(dtype, memory_format=torch.channels_last) for tensor in inputs]


def measure(kernel: int, dtype: torch.dtype, options: argparse.Namespace) -> tuple[float, float, float]:
    """Give the median seconds of the matrix product, of inference and of a training step, run in turns."""
    inputs = make_inputs(kernel, options.size, dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    left, right = (torch.randn(options.product, options.product).to(dtype) for _ in range(2))
    seed = torch.ones(1, OUT_CHANNELS, options.size, options.size, dtype=dtype).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def infer() -> Tensor:
        return deform_conv2d(*inputs, padding=kernel // 2)

    def train() -> tuple[Tensor, ...]:
        return torch.autograd.grad(deform_conv2d(*leaves, padding=kernel // 2), leaves, seed)

    functions: tuple[Callable[[], object], ...] = (lambda: left @ right, infer, train)
    for function in functions:
        function()
    runs = [[seconds(function) for function in functions] for _ in range(options.repeats)]
    product, inference, training = (statistics.median(column) for column in zip(*runs, strict=True))
    return product, inference, training


def table(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of a Markdown table, each as soon as it is measured."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|" + " --- |" * len(HEADINGS)
    for kernel, dtype in CASES:
        product, inference, training = measure(kernel, dtype, options)
        work = 2 * options.size**2 * kernel**2 * IN_CHANNELS * OUT_CHANNELS / 1e9
        speed = 2 * options.product**3 / product / 1e9
        # Training has three products of the same size: the result, the columns' gradient and the kernel's.
        ideal = work / speed
        yield (
            f"| {kernel} x {kernel} | {str(dtype).removeprefix('torch.')} | {work:.1f} | {speed:.0f} GFLOP/s "
            f"| {inference:.3f} s | {ideal / inference:.0%} | {training:.3f} s | {3 * ideal / training:.0%} |"
        )


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description="Time the deformable convolution against a matrix product.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--size", type=int, default=256, help="height and width of the map (default: 256)")
    parser.add_argument("--product", type=int, default=2560, help="size of the matrix product (default: 2560)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats} runs in turns\n")
    for line in table(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
