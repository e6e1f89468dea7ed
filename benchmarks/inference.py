"""Time networks on this machine and hold them against OpenVINO: python benchmarks/inference.py TABLE.

Needs the extras `torch`, `export` and `openvino`, and scikit-image for its photo. Networks have drawn weights whose
arithmetic is that of trained ones (`birefnet.bench.networks`), so nothing is fetched. Each figure comes from a fresh
process; what is compared takes turns (`birefnet.bench.measure`). Every table is a command of its own:

    speed     Swin-T and Swin-L at 1024: what auto picks and float32, against OpenVINO of the same network
    memory    peak memory of the whole process
    sizes     cost from 512 to 2048, and 4096, in turns with 1024
    batch     batches of 4 in turns with single images
    first     the first call at a new size over later ones
    masks     largest differences of the masks from the plain network in float32, on a photo
    onnx      one ONNX file at several sizes and batches, equal to the network
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from birefnet.bench.case import RANDOM, Case, Group, parse_size
from birefnet.bench.machine import machine
from birefnet.bench.measure import Bench, Row
from birefnet.bench.networks import random_network
from birefnet.engines.base import Engine
from birefnet.imaging.preprocess import prepare
from birefnet.loading import load
from birefnet.model import BiRefNet

SUBJECTS = ("astronaut", "chelsea", "coffee")
SIZE = (1024, 1024)
SIZES = ((512, 512), (768, 768), (1536, 1536), (2048, 2048), (4096, 4096))
FIRST_SIZES = (SIZE, (768, 1344))
Value = TypeVar("Value")
ONNX_BATCHES = tuple(product(((512, 512), SIZE, (768, 1344)), (1, 3)))


def table(header: str) -> Iterator[str]:
    """Give the head of a table in Markdown, from its titles."""
    yield f"| {header} |"
    yield f"|{' --- |' * len(header.split(' | '))}"


def measured(groups: Sequence[Group], runs: int) -> list[Row]:
    """Measure groups of cases; the rows in the order they were asked for.

    Raises:
        SystemExit: a case has failed, which no figure could stand for.
    """
    bench = Bench(groups, runs)
    for row in bench.run():
        if row.error:
            raise SystemExit(f"{row.case.name}: {row.error}")
    return bench.rows


def known(value: Value | None) -> Value:
    """What a finished row always holds."""
    assert value is not None
    return value


def speed(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of speed."""
    yield from table(
        "network | engine | precision | seconds | in turns with | over its | GMACs | matrix product | efficiency"
    )
    for name in options.networks:
        ours = Case(RANDOM + name, "torch", size=options.size)
        theirs = [replace(ours, engine="openvino", precision=precision) for precision in ("float32", "bfloat16")]
        plain = replace(ours, precision="float32")
        rows = measured([Group(ours, tuple(theirs)), Group(theirs[0], (plain,))], options.runs)
        references = {row.case.name: f"{row.engine} {row.precision}" for row in rows if row.against is None}
        for row in rows:
            turns = "" if row.against is None else references[row.against]
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            work = f"{known(row.macs) / 1e9:.0f} | {known(row.product) / 1e9:.0f} GFLOP/s | {known(row.efficiency):.0%}"
            yield (
                f"| {name} | {row.engine} | {row.precision} | {known(row.median):.2f} | {turns} | {ratio} | {work} |"
            )


def memory(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of memory."""
    yield from table("network | size | precision | peak memory of the process | seconds")
    for name in options.networks:
        for precision in ("bfloat16", "float32"):
            (row,) = measured([Group(Case(RANDOM + name, "torch", precision, options.size))], 1)
            height, width = known(row.size)
            peak, seconds = known(row.peak) / 1e9, known(row.median)
            yield f"| {name} | {height} x {width} | {row.precision} | {peak:.2f} GB | {seconds:.2f} |"


def sizes(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of sizes."""
    yield from table("network | size | precision | seconds | microseconds a pixel | that at 1024 | peak memory")
    for name in options.networks:
        base = Case(RANDOM + name, "torch", options.precision, SIZE)
        others = tuple(replace(base, size=size) for size in SIZES)
        rows = measured([Group(base, others)], options.runs)
        for row in rows:
            height, width = known(row.size)
            share = height * width / (SIZE[0] * SIZE[1])
            ratio = "1.00" if row.ratio is None else f"{row.ratio / share:.2f}"
            yield (
                f"| {name} | {height} x {width} | {row.precision} | {known(row.median):.2f} "
                f"| {known(row.median) / height / width * 1e6:.2f} | {ratio} | {known(row.peak) / 1e9:.2f} GB |"
            )


def batch(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of batches."""
    yield from table("network | size | precision | batch | seconds an image | over single images | peak memory")
    for name in options.networks:
        single = Case(RANDOM + name, "torch", options.precision, options.size)
        for row in measured([Group(single, (replace(single, batch=4),))], options.runs):
            count = row.case.batch
            ratio = 1.0 if row.ratio is None else row.ratio / count
            height, width = known(row.size)
            yield (
                f"| {name} | {height} x {width} | {row.precision} | {count} | {known(row.median) / count:.2f} "
                f"| {ratio:.2f} | {known(row.peak) / 1e9:.2f} GB |"
            )


def first(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of first calls."""
    yield from table("network | size | precision | first call at the size | later calls | ratio")
    for name in options.networks:
        for size in FIRST_SIZES:
            for precision in ("auto", "float32"):
                (row,) = measured([Group(Case(RANDOM + name, "torch", precision, size))], options.runs)
                yield (
                    f"| {name} | {size[0]} x {size[1]} | {row.precision} | {known(row.first):.2f} s "
                    f"| {known(row.median):.2f} s | {known(row.first_ratio):.2f} |"
                )


def plain_alpha(network: BiRefNet, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network itself gives in float32, a photo at a time.  (N, 3, H, W) -> (N, 1, H, W)."""
    with torch.inference_mode():
        parts = [network(torch.from_numpy(image[None])).sigmoid().numpy() for image in images]
    return np.concatenate(parts)


def photos(size: tuple[int, int], network: BiRefNet, count: int = 1) -> NDArray[np.float32]:
    """Real photos as a network takes them.  -> (count, 3, *size)."""
    spec = replace(network.input_spec, size=size)
    return np.stack([prepare(getattr(data, subject)(), spec) for subject in SUBJECTS[:count]])


def masks(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of masks."""
    yield from table("network | size | precision | largest difference | mean difference")
    for name in [*options.networks, "nano"]:
        network = BiRefNet.from_pretrained(name) if name == "nano" else random_network(name)
        size = network.input_spec.size if name == "nano" else options.size
        images = photos(size, network)
        expected = plain_alpha(network, images)
        for precision in ("float32", "bfloat16"):
            engine = load(network, engine="torch", precision=precision).engine
            difference = np.abs(engine(images) - expected)
            yield (
                f"| {name} | {size[0]} x {size[1]} | {precision} | {difference.max():.1e} | {difference.mean():.1e} |"
            )


def onnx(options: argparse.Namespace) -> Iterator[str]:
    """Give the lines of the table of an ONNX file."""
    from birefnet.export.onnx import export_onnx

    yield from table("network | file | size | batch | largest difference | equal within 1e-4")
    for name in options.networks:
        network = random_network(name)
        for form, decompose in (("DeformConv", False), ("decomposed", True)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "model.onnx")
                export_onnx(network, path, decompose_deform=decompose)
                engine: Engine = load(path, engine="onnx").engine
                for size, count in ONNX_BATCHES:
                    images = photos(size, network, count)
                    difference = float(np.abs(engine(images) - plain_alpha(network, images)).max())
                    yield (
                        f"| {name} | {form} | {size[0]} x {size[1]} | {count} | {difference:.1e} "
                        f"| {'yes' if difference <= 1e-4 else 'no'} |"
                    )


TABLES: dict[str, tuple[Callable[[argparse.Namespace], Iterator[str]], tuple[str, ...]]] = {
    "speed": (speed, ("swin_v1_t", "swin_v1_l")),
    "memory": (memory, ("swin_v1_t", "swin_v1_l")),
    "sizes": (sizes, ("swin_v1_t",)),
    "batch": (batch, ("swin_v1_t",)),
    "first": (first, ("swin_v1_t",)),
    "masks": (masks, ("swin_v1_t",)),
    "onnx": (onnx, ("swin_v1_t",)),
}
"""Table -> (what gives its lines, the networks it is of)."""


def main() -> None:
    """Parse the options and print a table."""
    parser = argparse.ArgumentParser(description="Time networks on this machine, and hold them against OpenVINO.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, networks) in TABLES.items():
        command = commands.add_parser(name, help=(function.__doc__ or "").removeprefix("Give the lines of "))
        command.set_defaults(function=function)
        command.add_argument("--runs", type=int, default=5, help="timed runs of each (default: 5)")
        command.add_argument("--size", type=parse_size, default=SIZE, help="where one is taken (default: 1024)")
        command.add_argument("--precision", default="auto", help="where one is taken (default: auto)")
        command.add_argument(
            "--networks", nargs="+", default=networks, metavar="NAME", help=f"(default: {' '.join(networks)})"
        )
    options = parser.parse_args()
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {', '.join(facts['instructions'])}, ", end="")
    print(", ".join(f"{name} {facts['libraries'].get(name)}" for name in ("torch", "openvino", "onnxruntime")) + "\n")
    for line in options.function(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
