"""Check and time the GPU path, on a machine that is lent for minutes: PYTHONPATH=src python benchmarks/gpu.py.

Needs torch alone; Triton and torchvision are used where they are installed. Three tables: the deformable convolution's
kernels against float64, their times, and whole networks. Each row is written as soon as it is measured, and
`--resume FILE` goes on where another run stopped. Weights are random, with normalisation fitted to them and offsets of
about two pixels, so masks mean nothing, but the work is that of trained weights. In each row of a network its rounds
take turns with those of the base, and so do the kernels', so that a ratio holds whatever the clocks do.
"""

import argparse
import copy
import importlib
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from birefnet._atomic import write_whole
from birefnet.config import ModelConfig
from birefnet.errors import first_line
from birefnet.inference import optimise
from birefnet.inference.accelerate import Accelerated, accelerate
from birefnet.inference.streams import StreamedRunner
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d, deform_conv2d
from birefnet.modules.deform_triton import CHOICES, DeformConv, deform_conv2d_cuda, deform_conv2d_triton, notes

Row = dict[str, Any]
Network = Callable[[Tensor], Tensor]

OFFSET_STD = 2.0  # pixels
KERNELS = (1, 3, 7)
IN_CHANNELS, OUT_CHANNELS = 64, 256
# Largest difference from float64, relative to the largest value, that a correct kernel stays below.
BOUNDS = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in BOUNDS}
VARIANTS = (
    "eager float32",
    "eager float16",
    "eager float16, torchvision's kernel",
    "eager float16, our kernel",
    "our form",
    "our form, CUDA graphs",
    "our form, compiled",
)
# What networks are compared with: the kernel that the reference uses, and where that is not installed, our plain one.
BASES = ("eager float16, torchvision's kernel", "eager float16")
FITTING_SIZE, FITTING_IMAGES = 256, 8
# More than are under way at once, and no multiple of that.
STREAMED = 5


def main() -> None:
    """Parse the options, measure what is left, and print the tables."""
    options = parse()
    torch.manual_seed(0)
    report = Report(options.out, options.resume)
    report.facts |= machine(options.device)
    end = time.monotonic() + 60 * options.minutes
    left = []
    for name, measure in tasks(options):
        if report.has(name) or options.only not in name:
            continue
        if time.monotonic() > end:
            left.append(name)
            continue
        start = time.perf_counter()
        try:
            row = measure()
        except Exception as error:  # one variant that fails is a row of its own, not the end of the others
            row = {"error": f"{type(error).__name__}: {first_line(error)}"}
        row["took"] = round(time.perf_counter() - start, 1)
        report.add(name, row)
        print(f"{name}: {json.dumps(row)}", flush=True)
        release(options.device)
    for line in report.tables():
        print(line)
    if left:
        print(f"\nno time left for {len(left)} rows: {'; '.join(left)}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Check and time the GPU path.")
    folder = Path(os.environ.get("OUT", "."))
    parser.add_argument("--out", type=Path, default=folder / "gpu.json", help="results (default: $OUT/gpu.json)")
    parser.add_argument("--resume", type=Path, help="results of an earlier run, to go on from")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no row after these (default: 8)")
    parser.add_argument("--device", default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--backbones", default="swin_v1_t,swin_v1_l", help="networks, separated by commas")
    parser.add_argument("--sizes", default="1024,2048", help="sides of images, separated by commas")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each (default: 10)")
    parser.add_argument("--only", default="", help="measure only rows with this in their name")
    return parser.parse_args()


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Row]]]:
    """List the rows, those first that others depend on: a wrong kernel makes its times worthless."""
    device = options.device
    sizes = [int(size) for size in options.sizes.split(",")]
    for kernel, dtype in itertools.product(KERNELS, BOUNDS):
        yield f"correct {kernel}x{kernel} {NAMES[dtype]}", partial(check_kernels, kernel, dtype, device)
    for size, kernel in itertools.product(sizes, KERNELS):
        # The widest decoder block works at a quarter of the image's size.
        yield f"kernel {kernel}x{kernel} {size // 4}", partial(time_kernels, kernel, size // 4, device, options.rounds)
    networks = list(itertools.product(sizes, options.backbones.split(",")))
    # What is compiled comes last, as it takes minutes.
    for variants in (VARIANTS[:-1], VARIANTS[-1:]):
        for (size, backbone), variant in itertools.product(networks, variants):
            row = partial(time_network, backbone, size, variant, device, options.rounds)
            yield f"network {backbone} {size} {variant}", row
        for size, backbone in networks:
            yield f"stream {backbone} {size}", partial(time_stream, backbone, size, device, options.rounds)


class Report:
    """Rows by their names, written as soon as they are there.

    Args:
        path: Where to.
        resume: Results to begin with; rows that failed are measured again.
    """

    def __init__(self, path: Path, resume: Path | None) -> None:
        self.path = path
        self.facts: Row = {}
        self.rows: dict[str, Row] = {}
        if resume is not None:
            earlier = json.loads(resume.read_text())
            self.facts = earlier["machine"]
            self.rows = {name: row for name, row in earlier["rows"].items() if "error" not in row}

    def has(self, name: str) -> bool:
        """Whether a row is there."""
        return name in self.rows

    def add(self, name: str, row: Row) -> None:
        """Add a row and write all of them."""
        self.rows[name] = row
        content = json.dumps({"machine": self.facts, "rows": self.rows}, indent=1)
        write_whole(self.path, content.encode())

    def tables(self) -> Iterator[str]:
        """Give the lines of Markdown tables, one for each kind of row."""
        for kind, rows in itertools.groupby(sorted(self.rows), key=lambda name: name.split()[0]):
            names = list(rows)
            columns = list(dict.fromkeys(column for name in names for column in self.rows[name] if column != "took"))
            yield f"\n| {kind} | {' | '.join(columns)} |"
            yield "|" + " --- |" * (len(columns) + 1)
            for name in names:
                cells = (self.rows[name].get(column, "") for column in columns)
                yield f"| {name.partition(' ')[2]} | {' | '.join(map(str, cells))} |"


def machine(device: str) -> Row:
    """Say what the figures were measured on, with the speed of one large matrix product beside it."""
    facts: Row = {"torch": torch.__version__, "python": platform.python_version(), "device": device}
    for module in ("triton", "torchvision"):
        try:
            facts[module] = importlib.import_module(module).__version__
        except Exception as error:  # a broken torchvision raises whatever it likes
            facts[module] = f"none ({first_line(error)})"
    if torch.device(device).type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        side = 8192
        left, right = (torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2))
        (product,) = in_turns([lambda: left @ right], 10, device)
        facts["float16 product, TFLOP/s"] = round(2 * side**3 / product / 1e12)
    return facts


def release(device: str) -> None:
    """Forget what a row left behind."""
    torch.compiler.reset()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait(device: str) -> None:
    """Wait until the device has nothing to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def in_turns(functions: list[Callable[[], object]], rounds: int, device: str) -> list[float]:
    """Give the median seconds of each function, run in turns after three runs that do not count."""
    for function in functions:
        for _ in range(3):
            function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, seconds, strict=True):
            wait(device)
            start = time.perf_counter()
            function()
            wait(device)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def kernel_inputs(kernel: int, size: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Draw map, offset, modulation and kernel, as the network's convolutions would hand them over."""
    taps = kernel**2
    inputs = [
        torch.randn(1, IN_CHANNELS, size, size, device=device),
        torch.randn(1, 2 * taps, size, size, device=device) * OFFSET_STD,
        torch.rand(1, taps, size, size, device=device) * 2,
        torch.randn(OUT_CHANNELS, IN_CHANNELS, kernel, kernel, device=device) / (IN_CHANNELS * taps) ** 0.5,
    ]
    return [tensor.to(dtype, memory_format=torch.channels_last) for tensor in inputs]


def torchvision_kernel(dtype: torch.dtype | None) -> DeformConv:
    """Give torchvision's operator in a type of its own choice, or for None in that of its inputs.

    Raises:
        ImportError: torchvision is not installed.
    """
    operator = importlib.import_module("torchvision.ops").deform_conv2d

    def convolve(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
        kind = dtype or x.dtype
        x_, offset_, weight_, modulation_ = (tensor.to(kind) for tensor in (x, offset, weight, modulation))
        output: Tensor = operator(x_, offset_, weight_, padding=padding, mask=modulation_)
        return output.to(x.dtype)

    return convolve


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((actual.double() - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def check_kernels(kernel: int, dtype: torch.dtype, device: str) -> Row:
    """Compare each way to convolve with the plain one in float64, and with what is no number."""
    inputs = kernel_inputs(kernel, 96, dtype, device)
    padding = kernel // 2
    expected = deform_conv2d(*(tensor.double() for tensor in inputs), padding=padding)
    row: Row = {"bound": BOUNDS[dtype]}
    for choice in CHOICES:
        if not choice.suits(inputs[0]):
            row[choice.name] = "does not suit"
            continue
        error = relative_error(choice.run(*inputs, padding=padding), expected)
        row[choice.name] = f"{error:.1e} {'ok' if error < BOUNDS[dtype] else 'WRONG'}"
    if CHOICES[0].suits(inputs[0]):
        inputs[1][0, 0, 5, 6] = torch.nan
        output = deform_conv2d_triton(*inputs, padding=padding)
        lost = output.isnan()
        row["NaN"] = "ok" if lost[0, :, 5, 6].all() and lost.sum() == OUT_CHANNELS else "WRONG"
        inputs[1].fill_(1e30 if dtype != torch.float16 else torch.inf)
        row["far"] = "ok" if deform_conv2d_triton(*inputs, padding=padding).eq(0).all() else "WRONG"
    return row


@torch.inference_mode()
def time_kernels(kernel: int, size: int, device: str, rounds: int) -> Row:
    """Time all kernels in turns on one map, in float16 but where said otherwise."""
    inputs = kernel_inputs(kernel, size, torch.float16, device)
    ways: dict[str, DeformConv] = {"plain torch": deform_conv2d}
    if CHOICES[0].suits(inputs[0]):
        ways["Triton"] = deform_conv2d_triton
    if CHOICES[1].suits(inputs[0]):
        ways |= {"torchvision": torchvision_kernel(None), "torchvision float32": torchvision_kernel(torch.float32)}
    functions: list[Callable[[], object]] = [partial(way, *inputs, padding=kernel // 2) for way in ways.values()]
    seconds = dict(zip(ways, in_turns(functions, rounds, device), strict=True))
    work = 2 * size**2 * kernel**2 * IN_CHANNELS * OUT_CHANNELS
    row: Row = {f"{name}, ms": round(1e3 * taken, 3) for name, taken in seconds.items()}
    best = seconds.get("Triton", seconds["plain torch"])
    row["TFLOP/s"] = round(work / best / 1e12, 1)
    if "torchvision" in seconds:
        row["torchvision / ours"] = round(seconds["torchvision"] / best, 2)
    return row


class WithKernel(nn.Module):
    """A deformable convolution that is done by another kernel."""

    def __init__(self, conv: ModulatedDeformConv2d, kernel: DeformConv) -> None:
        super().__init__()
        self.conv = conv
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.  (B, C, H, W) -> (B, O, H, W)."""
        offset, modulation = self.conv.offset_conv(x), 2 * torch.sigmoid(self.conv.modulation_conv(x))
        return self.kernel(x, offset, modulation, self.conv.weight, padding=self.conv.padding)


def use_kernel(parent: nn.Module, kernel: DeformConv) -> None:
    """Let all deformable convolutions of a network use a kernel."""
    for name, child in parent.named_children():
        if isinstance(child, ModulatedDeformConv2d):
            setattr(parent, name, WithKernel(child, kernel))
        else:
            use_kernel(child, kernel)


def image_of(side: int, device: str, count: int = 1) -> Tensor:
    """Draw normalised images, smooth as photos mostly are."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.randn(count, 3, side // 16, side // 16, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bilinear").to(device)


@cache
def network_of(backbone: str, device: str) -> BiRefNet:
    """Build a network on the CPU whose values stay within what half precision holds, as trained ones do."""
    torch.manual_seed(0)
    model = BiRefNet.from_config(ModelConfig(backbone=backbone))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, ModulatedDeformConv2d):
            nn.init.normal_(module.offset_conv.weight, std=0.01)
            assert module.offset_conv.bias is not None
            nn.init.normal_(module.offset_conv.bias, std=OFFSET_STD)
    model.eval().to(device)
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of these images, and of no others
    with torch.no_grad():
        model(image_of(FITTING_SIZE, device, FITTING_IMAGES))
    return model.eval().cpu()


@cache
def exact_alpha(backbone: str, size: int, device: str) -> Tensor:
    """Give the plain network's mask in float32, calculated on the device without TF32's short products."""
    model = network_of(backbone, device).to(device)
    with full_float32():
        alpha: Tensor = model(image_of(size, device)).sigmoid().cpu()
    model.cpu()
    return alpha


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep CUDA from rounding float32 to TF32, which its convolutions do unless told otherwise."""
    backends: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def build(backbone: str, variant: str, device: str) -> Network:
    """Make a variant on the device; it takes float32 images.

    Raises:
        ImportError: torchvision is not installed.
    """
    model = network_of(backbone, device)
    if variant.startswith("our form"):
        form = optimise(model, precision="float16", device=device)
        method = {"CUDA graphs": "graphs", "compiled": "compile"}.get(variant.partition(", ")[2], "eager")
        return accelerate(form, device, method=method)
    network = copy.deepcopy(model).to(device)
    kernels: dict[str, Callable[[torch.dtype | None], DeformConv]] = {
        "torchvision's kernel": torchvision_kernel,
        "our kernel": lambda _: deform_conv2d_cuda,
    }
    kernel = kernels.get(variant.partition(", ")[2])
    if kernel is not None:
        use_kernel(network, kernel(torch.float32))  # as torchvision's own autocast does
    if "float32" in variant:
        return network
    network.half()
    return lambda images: network(images.half())


@torch.inference_mode()
def time_network(backbone: str, size: int, variant: str, device: str, rounds: int) -> Row:
    """Weigh a variant and time it in turns with the base."""
    images = image_of(size, device)
    wanted = exact_alpha(backbone, size, device)
    release(device)
    network = build(backbone, variant, device)
    start = time.perf_counter()
    for _ in range(3):
        alpha = network(images).float().sigmoid()
    wait(device)
    row: Row = {"first three, s": round(time.perf_counter() - start, 1)}
    row["difference"] = f"{float((alpha.cpu() - wanted).abs().max()):.1e}"
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        network(images)
        row["peak, GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        row["reserved, GB"] = round(torch.cuda.memory_reserved() / 1e9, 2)
    base = build_base(backbone, device)
    taken, base_taken = in_turns([lambda: network(images), lambda: base(images)], rounds, device)
    row |= {"ms": round(1e3 * taken, 2), "images/s": round(1 / taken, 1), "base, ms": round(1e3 * base_taken, 2)}
    row["base / this"] = round(base_taken / taken, 2)
    said = [*(network.notes if isinstance(network, Accelerated) else []), *notes()]
    if said:
        row["notes"] = "; ".join(said)
    return row


def build_base(backbone: str, device: str) -> Network:
    """Make what the others are compared with."""
    try:
        return build(backbone, BASES[0], device)
    except ImportError:
        return build(backbone, BASES[1], device)


def time_stream(backbone: str, size: int, device: str, rounds: int) -> Row:
    """Time batches in and out of the device, one by one and overlapping."""
    runner = StreamedRunner(build(backbone, "our form, CUDA graphs", device), device)
    # Different ones, or results in a wrong order, or overwritten by a later one's, would go unnoticed.
    batches = [image[None] for image in image_of(size, "cpu", STREAMED).numpy()]
    count = 3 * rounds
    alone_results = [np.array(runner(images)) for images in batches]
    results = list(runner.run_many(batches))
    differ = not any(np.array_equal(*pair) for pair in itertools.combinations(alone_results, 2))
    same = len(results) == len(batches) and all(map(np.array_equal, results, alone_results))

    def queue() -> Iterator[NDArray[np.float32]]:
        return itertools.islice(itertools.cycle(batches), count)

    def one_by_one() -> None:
        for images in queue():
            runner(images)

    def streamed() -> None:
        for _ in runner.run_many(queue()):
            pass

    alone, together = in_turns([one_by_one, streamed], 3, device)
    return {
        "equal": "ok" if same and differ else "WRONG",
        "one by one, images/s": round(count / alone, 1),
        "streamed, images/s": round(count / together, 1),
        "gain": round(alone / together, 2),
    }


if __name__ == "__main__":
    main()
