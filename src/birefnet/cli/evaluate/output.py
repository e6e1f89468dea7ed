"""What the commands show and write: progress, tables, and at the end what went wrong."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from birefnet.cli.evaluate.options import Common
from birefnet.evaluation.results import write_text
from birefnet.evaluation.run import FAILED, MISSING
from birefnet.evaluation.tables import (
    Table,
    markdown,
)

STREAM = "-"
STOPPED = "{done} of {total} images scored; the same command goes on from there"
"""What is said where an evaluation is stopped."""

_SHOWN = 3


def say(line: str) -> None:
    """Print a line on standard error."""
    click.echo(line, err=True)


def forget_predictions(results: dict[str, Any], scratch: Path) -> None:
    """Take the paths of predictions that were not kept out of the results."""
    for row in results["rows"]:
        for image in row["images"]:
            if Path(image["prediction"]).is_relative_to(scratch):
                image["prediction"] = None


def write(target: str, text: str) -> None:
    """Write a text to a file, or to standard output.

    Raises:
        OutputError: the file cannot be written.
    """
    if target == STREAM:
        click.echo(text, nl=False)
    else:
        write_text(Path(target), text)


def show(table: Table) -> None:
    """Print a table: for reading on a terminal, turned where it is too wide, as Markdown into a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        click.echo(markdown(table), nl=False)
        return
    table = min(table, table.turned(), key=lambda each: max(each.width, console.width))
    console.width = max(table.width, console.width)  # nothing is cut
    drawn = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(table.header):
        drawn.add_column(title, justify="left" if number < table.left else "right", no_wrap=True)
    for row, cells in enumerate(table.rows):
        styles = ["bold" if (row, column) in table.bold else "" for column in range(len(cells))]
        drawn.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    console.print(drawn)


def conclude(results: dict[str, Any], options: Common, failures: Sequence[str] = ()) -> None:
    """Count the problems on standard error, kind by kind, and exit with 1 where an image was left out."""
    # A file's problem shows in each row that it counts in, and is one problem all the same.
    problems = {(p["kind"], p["file"], p["detail"]): None for row in results["rows"] for p in row["problems"]}
    kinds = Counter(kind for kind, _, _ in problems)
    for kind, count in sorted(kinds.items()):
        say(f"{kind}: {count}")
        for file, detail in [(file, detail) for found, file, detail in problems if found == kind][:_SHOWN]:
            say(f"  {file}: {detail}")
        if count > _SHOWN:
            say(f"  and {count - _SHOWN} more")
    if any(count > _SHOWN for count in kinds.values()) and options.output is None:
        say("write them all with  -o results.json")
    for failure in failures:
        say(f"Error: {failure}")
    bad = FAILED if options.allow_missing else FAILED | MISSING
    if failures or not bad.isdisjoint(kinds):
        raise SystemExit(1)
