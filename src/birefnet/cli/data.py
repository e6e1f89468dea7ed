"""`birefnet data`: what is the matter with photos and masks before they are trained on, and what they are like."""

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click
import cv2
import numpy as np
from click import ClickException
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from birefnet._atomic import write_whole
from birefnet.cli.progress import shown_progress
from birefnet.data.check import KINDS, SMALLEST, THRESHOLD, check_pairs, examine, read_mask, sort_problems, summarise
from birefnet.data.pairs import Found, Pair, Problem, discover
from birefnet.data.split import position
from birefnet.errors import BiRefNetError, OutputError
from birefnet.imaging.io import check_suffix, read_photo, write_image

HELP = {"help_option_names": ["-h", "--help"]}
PATH = click.Path(path_type=Path)
STREAM = "-"
STOPPED = "{done} of {total} pairs were read"

_Command = TypeVar("_Command", bound=Callable[..., Any])

_CELL, _CAPTION, _GAP = 256, 34, 6
_PAGE, _INK, _FAINT = (24, 24, 28), (235, 235, 235), (160, 160, 165)
_LINE, _HALO, _VEIL = (60, 255, 90), (0, 0, 0), (40, 40, 120)
_VEILED = 0.65

_BAR = 40


def _choosing(command: _Command) -> _Command:
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


@click.group(context_settings=HELP)
def data() -> None:
    """Check and describe photos and masks to train on.

    SPEC is a folder with photos in im/ and masks in gt/ (or images/ and masks/, image/ and mask/, img/ and gt/); one
    with both, where masks are called cat_mask.png or cat-alpha.png; a CSV file with the columns image, mask and, if
    wanted, class; or several of these, joined as ROOT/TASK/SET1+SET2.
    """


# --- check ---


@data.command(context_settings=HELP)
@_choosing
@click.option("--val", metavar="SPEC", help="Data to validate on: checked too, and for photos that both hold.")
@click.option("--binary", is_flag=True, help="Report masks with levels between 0 and 255.")
@click.option(
    "--smallest",
    type=click.IntRange(min=1),
    default=SMALLEST,
    show_default=True,
    metavar="PX",
    help="Report photos with a shorter side.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
def check(
    spec: str | None,
    images: Path | None,
    masks: Path | None,
    jobs: int | None,
    output: str | None,
    val: str | None,
    binary: bool,
    smallest: int,
    strict: bool,
) -> None:
    """List all that is the matter with a data set: what does not match, cannot be read, differs in size, is empty.

    SPEC is explained in  birefnet data --help . Errors would stop a training or spoil it; warnings are worth a look.
    The exit status is 1 where there are errors.
    """
    try:
        found = _find(spec, images, masks)
        held_out = discover(val) if val is not None else Found(())
        with shown_progress(len(found.pairs) + len(held_out.pairs), "check", STOPPED) as advance:
            seen = check_pairs(
                found.pairs, held_out.pairs, binary=binary, smallest=smallest, jobs=jobs, advance=advance
            )
        problems = sort_problems([*found.problems, *held_out.problems, *seen])
        for note in (*found.notes, *held_out.notes):
            _say(note)
        if output is not None:
            _write_json(output, _as_json(found, held_out, problems))
    except BiRefNetError as error:
        raise ClickException(_printable(str(error))) from error
    errors = sum(problem.stops for problem in problems)
    if output != STREAM:
        _show_problems(problems)
        more = f" and {len(held_out.pairs)} to validate on" if val is not None else ""
        warnings = len(problems) - errors
        click.echo(
            f"{_counted(len(found.pairs), 'pair')}{more}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
        )
    if errors or (strict and problems):
        raise SystemExit(1)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _as_json(found: Found, held_out: Found, problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "pairs": len(found.pairs),
        "validation": len(held_out.pairs),
        "notes": [*found.notes, *held_out.notes],
        "errors": sum(problem.stops for problem in problems),
        "warnings": sum(not problem.stops for problem in problems),
        "problems": [vars(problem) for problem in problems],
    }


def _show_problems(problems: Sequence[Problem]) -> None:
    """Print every problem, kind by kind."""
    for (stops, kind), members in groupby(problems, key=lambda p: (p.stops, p.kind)):
        files = list(members)
        title = f"{'error' if stops else 'warning'} {kind} ({len(files)}): {KINDS[kind]}"
        click.secho(title, fg="red" if stops else "yellow", bold=True)
        for problem in files:
            click.echo(_printable(f"  {problem.file}: {problem.detail}"))


# --- stats ---


@data.command(context_settings=HELP)
@_choosing
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
        found = _find(spec, images, masks)
        with shown_progress(len(found.pairs), "read", STOPPED) as advance:
            summary = summarise(examine(found.pairs, jobs=jobs, advance=advance))
        for note in found.notes:
            _say(note)
        left = len(found.problems) + summary["unreadable"]
        if left:
            _say(f"{left} files or pairs are left out: see 'birefnet data check'")
        if picture is not None:
            write_image(contact_sheet(found.pairs, count, seed), picture)
            _say(f"picture: {picture}")
        if output is not None:
            _write_json(output, summary)
    except BiRefNetError as error:
        raise ClickException(_printable(str(error))) from error
    if output != STREAM:
        _show_summary(summary)


def _show_summary(summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # nothing is cut in a file or a pipe
    sets = ", ".join(f"{name} {count}" for name, count in summary["sets"].items())
    console.print(_printable(f"{_counted(summary['pairs'], 'pair')} ({sets})"), markup=False)
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


# --- the contact sheet ---


def contact_sheet(pairs: Sequence[Pair], count: int, seed: int = 0) -> Image.Image:
    """Draw pairs chosen at random: each photo with its mask's outline, what is not foreground veiled, and its name.

    The choice depends on names and seed alone. A file that cannot be read leaves its reason in its place.

    Args:
        pairs: what to choose from.
        count: how many to draw at most.
        seed: another one chooses others.
    """
    chosen = sorted(pairs, key=lambda pair: position(f"{pair.data}/{pair.name}", seed))[:count]
    chosen.sort(key=lambda pair: (pair.data, pair.name))
    across = max(1, min(len(chosen), round((len(chosen) * 1.5) ** 0.5)))
    down = -(-len(chosen) // across)
    step_x, step_y = _CELL + _GAP, _CELL + _CAPTION + _GAP
    sheet = Image.new("RGB", (across * step_x + _GAP, down * step_y + _GAP), _PAGE)
    for number, pair in enumerate(chosen):
        corner = (_GAP + number % across * step_x, _GAP + number // across * step_y)
        sheet.paste(_cell(pair), corner)
    return sheet


def _cell(pair: Pair) -> Image.Image:
    cell = Image.new("RGB", (_CELL, _CELL + _CAPTION), _PAGE)
    draw = ImageDraw.Draw(cell)
    try:
        photo = read_photo(pair.image).rgb
        levels = read_mask(pair.mask)
    except BiRefNetError as error:
        text = _printable(str(error))
        lines = [text[start : start + 40] for start in range(0, min(len(text), 400), 40)]
        draw.multiline_text((4, 4), "\n".join(lines), _INK, font=_font(11))
    else:
        shown = Image.fromarray(_overlay(photo, levels))
        cell.paste(shown, ((_CELL - shown.width) // 2, (_CELL - shown.height) // 2))
        share = float((levels > THRESHOLD).mean())
        second = f"{photo.shape[1]} x {photo.shape[0]}, {share:.1%} foreground"
        draw.text((4, _CELL + 18), second, _FAINT, font=_font(11))
    draw.text((4, _CELL + 2), _fitted(pair.name, draw), _INK, font=_font(12))
    return cell


def _overlay(photo: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Veil the background and draw the outline on a photo that is shrunk to a cell: (h, w, 3)."""
    scale = _CELL / max(photo.shape[:2])
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(photo, size, interpolation=method).astype(np.float32)
    # A mask of another size is stretched over its photo, which shows what is wrong with it.
    alpha = cv2.resize(levels, size, interpolation=method).astype(np.float32)[..., None] / 255
    veiled = (1 - _VEILED) * small + _VEILED * np.array(_VEIL, np.float32)
    drawn: NDArray[np.uint8] = np.rint(alpha * small + (1 - alpha) * veiled).astype(np.uint8)
    solid = (alpha[..., 0] > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, _HALO, 3)
    cv2.drawContours(drawn, outlines, -1, _LINE, 1)
    return drawn


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitted(name: str, draw: ImageDraw.ImageDraw) -> str:
    """Leave out the middle of a name that is too long for a cell."""
    text = name = _printable(name)
    keep = len(name)
    while draw.textlength(text, font=_font(12)) > _CELL - 8:
        keep -= 1
        text = f"{name[: keep // 2]}...{name[len(name) - (keep - keep // 2) :]}"
    return text


# --- both ---


def _find(spec: str | None, images: Path | None, masks: Path | None) -> Found:
    if (spec is None) == (images is None) or (images is None) != (masks is None):
        raise click.UsageError("name a data set: SPEC, or --images DIR with --masks DIR")
    return discover(spec if spec is not None else str(images), masks)


def _say(line: str) -> None:
    click.echo(_printable(line), err=True)


def _printable(text: str) -> str:
    """Write bytes of file names that are no UTF-8 as escapes, which JSON understands too."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_json(target: str, content: dict[str, Any]) -> None:
    text = _printable(json.dumps(content, indent=2, ensure_ascii=False)) + "\n"
    if target == STREAM:
        click.echo(text, nl=False)
        return
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: the folder cannot be made ({error.strerror})") from error
    write_whole(path, text.encode())
