"""The options that say what runs a network and how, for every command that runs one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from birefnet.config import MAX_CRF
from birefnet.engines.metadata import PRECISIONS
from birefnet.loading import ENGINES

_Command = TypeVar("_Command", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def memory_amount(text: str) -> int:
    """Read an amount of memory in bytes, as 800M, 1.5G or 2GB.

    Raises:
        BadParameter: it is none.
    """
    match = _AMOUNT.fullmatch(text.strip())
    amount = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if amount < 1:
        raise click.BadParameter(f"{text!r} is no amount of memory: write it as 800M or 1.5G")
    return amount


def engine_options(command: _Command) -> _Command:
    """Add the options that `EngineOptions` holds."""
    options = (
        click.option("--accept-licence", is_flag=True, help="Use weights that are for non-commercial use only."),
        click.option("--size", type=int, metavar="N", help="Side of the network's input, a multiple of 32."),
        click.option(
            "--refine", is_flag=True, help="Take closer looks at the edges in photos larger than the network's input."
        ),
        click.option(
            "--mirror/--no-mirror",
            default=None,
            help="Look at the mirror image as well and join the two.  [default: as the model says]",
        ),
        click.option(
            "--crf",
            type=click.FloatRange(0, MAX_CRF),
            metavar="WEIGHT",
            help="Let pixels that look alike and lie near each other agree, the more the higher; 0 leaves it out.  "
            "[default: as the model says]",
        ),
        click.option(
            "--keep-aspect/--no-keep-aspect",
            default=None,
            help="Keep the photo's proportions in the network's input, of as many pixels as a square of --size.  "
            "[default: as the model says]",
        ),
        click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1, mps."),
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default="auto",
            show_default=True,
            help="What runs the network: PyTorch, ONNX Runtime or OpenVINO. auto: what suits the file.",
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="auto",
            show_default=True,
            help="What to compute in. auto: what the device is quickest in.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            metavar="N",
            help="Threads of the CPU that the network runs on.  [default: one for each core]",
        ),
        click.option(
            "--max-memory",
            type=memory_amount,
            metavar="SIZE",
            help="Keep the memory of the process below this, such as 2G, at the cost of time; PyTorch only.",
        ),
        click.option(
            "--provider",
            "providers",
            multiple=True,
            metavar="NAME",
            help="What runs the network in ONNX Runtime: cpu, cuda, tensorrt, rocm, migraphx, coreml, directml or "
            "openvino; repeatable, the first choice first.",
        ),
        click.option(
            "--allow-fallback", is_flag=True, help="Go on with the next --provider where one is not there, or the CPU."
        ),
        click.option(
            "--compile",
            "compiled",
            is_flag=True,
            help="Compile the network for each size of input, which takes minutes; PyTorch on CUDA devices only.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class EngineOptions:
    """What `engine_options` ask for, by the names that `birefnet.load` has for it."""

    accept_licence: bool
    size: int | None
    refine: bool
    mirror: bool | None
    crf: float | None
    keep_aspect: bool | None
    device: str
    engine: str
    precision: str
    threads: int | None
    max_memory: int | None
    providers: tuple[str, ...]
    allow_fallback: bool
    compiled: bool
