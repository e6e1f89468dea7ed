"""What the commands say and write."""

import json
from pathlib import Path
from typing import Any

import click

from birefnet._atomic import make_folder, write_whole

STREAM = "-"
STOPPED = "{done} of {total} pairs were read"
"""What is said where reading is stopped."""


def counted(number: int, what: str) -> str:
    """Write a number of things, such as 1 pair or 2 pairs."""
    return f"{number:,} {what}" + "s" * (number != 1)


def say(line: str) -> None:
    """Print a line on standard error."""
    click.echo(printable(line), err=True)


def printable(text: str) -> str:
    """Write bytes of file names that are no UTF-8 as escapes, which JSON understands too."""
    return text.encode("utf-8", "backslashreplace").decode()


def literal(path: Path) -> str:
    """Write a path for `str.format`, to which its braces are to mean nothing."""
    return printable(str(path)).replace("{", "{{").replace("}", "}}")


def write_json(target: str, content: dict[str, Any]) -> None:
    """Write JSON to a file, whose folder is made, or to standard output.

    Raises:
        OutputError: the file cannot be written.
    """
    text = printable(json.dumps(content, indent=2, ensure_ascii=False)) + "\n"
    if target == STREAM:
        click.echo(text, nl=False)
        return
    path = Path(target)
    make_folder(path.parent)
    write_whole(path, text.encode())
