"""The options that several of the commands share, and what they ask for."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from birefnet.data.pairs import Found, discover

HELP = {"help_option_names": ["-h", "--help"]}
PATH = click.Path(path_type=Path)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 8192


def choosing(command: _Command) -> _Command:
    """Add the options that name a data set, and how it is read."""
    options = (
        click.argument("spec", required=False),
        click.option("--images", type=PATH, metavar="DIR", help="Folder of the photos, in place of SPEC."),
        click.option("--masks", type=PATH, metavar="DIR", help="Folder of their masks."),
        click.option(
            "--jobs", type=click.IntRange(min=1), metavar="N", help="Pairs read at a time.  [default: one a processor]"
        ),
        click.option("-o", "--output", metavar="FILE", help="Write the results as JSON; - for standard output."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def find(spec: str | None, images: Path | None, masks: Path | None) -> Found:
    """Find the data set that the options of `choosing` name.

    Raises:
        UsageError: they name none, or two.
        DataError: there is no such data set.
    """
    if (spec is None) == (images is None) or (images is None) != (masks is None):
        raise click.UsageError("name a data set: SPEC, or --images DIR with --masks DIR")
    return discover(spec if spec is not None else str(images), masks)


def read_size(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH, or one number for a square, as an option's callback.

    Raises:
        BadParameter: the text is no size, or a side is out of range.
    """
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value, re.ASCII)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in size):
        sides = f"from {_SMALLEST_SIDE} to {_LARGEST_SIDE}"
        raise click.BadParameter(f"{value!r} is no size: give HEIGHTxWIDTH such as 512x768, each {sides}")
    return size
