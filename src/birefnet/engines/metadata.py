"""What an exported file says of itself: written by `birefnet.export`, read by the engines that run files."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from birefnet.config import InputSpec, unknown_name
from birefnet.errors import ConfigError, InputError, WeightsError

INPUT, OUTPUT = "image", "alpha"
"""Names of what goes into an exported network and of what comes out."""

METADATA_KEY = "birefnet"
"""Entry of the file's metadata: JSON with `input_spec`, what the `output` is, and the `precision`."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
"""What an engine may be asked to compute in."""

FILE_PRECISIONS = ("float32", "float16", "bfloat16", "int8")
"""What the arithmetic of an exported file may be in."""

# Sides of the network's input are multiples of this: the deepest maps are a 32nd of it.
_GRID = 32


@dataclass(frozen=True)
class FileFacts:
    """What an exported file says of itself.

    Attributes:
        input_spec: how its weights want photos prepared.
        precision: one of `FILE_PRECISIONS`.
        grid: height and width of its input are multiples of this.
        least: the smallest height and width that it takes.
    """

    input_spec: InputSpec
    precision: str
    grid: int = _GRID
    least: tuple[int, int] = (_GRID, _GRID)


def read_facts(path: Path, text: str | None) -> FileFacts:
    """Read a file's metadata.

    Args:
        path: the file, for messages.
        text: its entry `METADATA_KEY`, None where it has none.

    Raises:
        WeightsError: the file does not say what goes in and out, or its output is not alpha.
    """
    try:
        facts = json.loads(text or "")
        if facts["output"] != OUTPUT:
            raise ConfigError(f"its output is {facts['output']!r}, not {OUTPUT!r}")
        spec = InputSpec.from_dict(facts["input_spec"])
        # Files of the first release do not say it, and hold nothing else.
        precision = facts.get("precision", "float32")
        if precision not in FILE_PRECISIONS:
            raise unknown_name("precision", precision, FILE_PRECISIONS)
        grid, (height, width) = facts.get("grid", _GRID), facts.get("least", (_GRID, _GRID))
        if any(type(value) is not int or value < 1 for value in (grid, height, width)):
            raise ConfigError(f"sizes of its input are multiples of {grid!r} from {height!r} x {width!r} on")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ConfigError) else "it was not exported by birefnet"
        raise WeightsError(f"{path}: its metadata do not say what goes in and out ({reason})") from error
    return FileFacts(spec, precision, grid, (height, width))


def check_images(images: NDArray[np.float32], grid: int = _GRID, least: tuple[int, int] = (_GRID, _GRID)) -> None:
    """Refuse what a network does not take, before a runtime does so in words of its own, or computes something else.

    Args:
        images: what an engine is given.
        grid: height and width are to be multiples of this.
        least: the smallest height and width.

    Raises:
        InputError: the images are not (N, 3, H, W) of float32 in such a size.
    """
    shape = images.shape
    if images.dtype != np.float32 or len(shape) != 4 or shape[0] < 1 or shape[1] != 3:
        raise InputError(f"an engine takes images (N, 3, H, W) of float32, normalised, not {shape} of {images.dtype}")
    height, width = shape[2:]
    if height % grid or width % grid or height < least[0] or width < least[1]:
        raise InputError(
            f"height and width must be multiples of {grid}, from {least[0]} x {least[1]} on, not {height} x {width}: "
            "choose another size"
        )


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that is none.

    Raises:
        ConfigError: it is below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be a whole number from 1 on, not {threads!r}; leave it out for one a core")


def check_precision(precision: str) -> None:
    """Refuse a name that is no precision.

    Raises:
        ConfigError: it is not in `PRECISIONS`; the message lists these.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
