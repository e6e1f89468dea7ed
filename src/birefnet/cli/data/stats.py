"""`birefnet data stats`: what photos and masks are like."""

from pathlib import Path
from typing import Any

import click
from click import ClickException
from rich.console import Console
from rich.table import Table

from birefnet.cli.data.options import HELP, PATH, choosing, find
from birefnet.cli.data.output import STOPPED, STREAM, counted, printable, say, write_json
from birefnet.cli.data.sheet import contact_sheet
from birefnet.cli.progress import shown_progress
from birefnet.data.facts import examine, summarise
from birefnet.errors import BiRefNetError
from birefnet.imaging.io import check_suffix, write_image

_BAR = 40


@click.command(context_settings=HELP)
@choosing
@click.option("--picture", type=PATH, metavar="FILE", help="Draw pairs chosen at random, with their masks.")
@click.option(
    "--count", type=click.IntRange(1, 400), default=24, show_default=True, metavar="N", help="Pairs in the picture."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice: the same seed, the same pairs.")
def stats(
    spec: str | None,
    images: Path | None,
    masks: Path | None,
    jobs: int | None,
    output: str | None,
    picture: Path | None,
    count: int,
    seed: int,
) -> None:
    """Describe a data set: sizes, how much is foreground, how soft and how thin it is, colours.

    SPEC is explained in  birefnet data --help . Ranges are the least value, the quartiles and the greatest.
    """
    try:
        if picture is not None:
            check_suffix(picture, transparent=False)
        found = find(spec, images, masks)
        with shown_progress(len(found.pairs), "read", STOPPED) as advance:
            summary = summarise(examine(found.pairs, jobs=jobs, advance=advance))
        for note in found.notes:
            say(note)
        left = len(found.problems) + summary["unreadable"]
        if left:
            say(f"{left} files or pairs are left out: see 'birefnet data check'")
        if picture is not None:
            write_image(contact_sheet(found.pairs, count, seed), picture)
            say(f"picture: {picture}")
        if output is not None:
            write_json(output, summary)
    except BiRefNetError as error:
        raise ClickException(printable(str(error))) from error
    if output != STREAM:
        _show_summary(summary)


def _show_summary(summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # nothing is cut in a file or a pipe
    sets = ", ".join(f"{name} {count}" for name, count in summary["sets"].items())
    console.print(printable(f"{counted(summary['pairs'], 'pair')} ({sets})"), markup=False)
    if summary["with_category"]:
        console.print(f"{summary['categories']} classes of DIS5K in {summary['with_category']} pairs")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for title in ("least", "25%", "median", "75%", "greatest"):
        table.add_column(title, justify="right", no_wrap=True)
    for title, key, form in _ROWS:
        values = summary[key]
        cells = ["-"] * 5 if values is None else [format(value, form) for value in values.values()]
        table.add_row(title, *cells)
    console.print(table)
    console.print("\nshare of foreground")
    histogram = summary["foreground_histogram"]
    for number, count in enumerate(histogram):
        bar = "█" * round(_BAR * count / max(histogram))
        console.print(f"{number * 10:3d} to {number * 10 + 10:3d}%  {count:7d}  {bar}")
    pairs = summary["pairs"]
    console.print(f"\nonly 0 and 255 in the mask: {summary['binary_masks']} ({summary['binary_masks'] / pairs:.0%})")
    console.print(f"foreground at the border: {summary['at_border']} ({summary['at_border'] / pairs:.0%})")
    for title, key in (("mean", "colour_mean"), ("standard deviation", "colour_std")):
        console.print(f"{title} of red, green, blue: " + " ".join(f"{value:.3f}" for value in summary[key]))


_ROWS = (
    ("width", "width", ".0f"),
    ("height", "height", ".0f"),
    ("megapixels", "megapixels", ".2f"),
    ("aspect (width / height)", "aspect", ".2f"),
    ("foreground", "foreground", ".1%"),
    ("soft pixels", "softness", ".2%"),
    ("thinness (outline / sqrt(area))", "thinness", ".1f"),
    ("border taken by foreground", "border", ".1%"),
)
