"""`birefnet data pack`: photos and masks in one file, to train from on another machine."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from click import ClickException

from birefnet._atomic import make_folder
from birefnet._threads import in_parallel
from birefnet.cli.data.options import HELP, PATH, read_size
from birefnet.cli.data.output import counted, literal, printable, say
from birefnet.cli.progress import shown_progress
from birefnet.data.cache import Pack, Size, decode_pair, read_aspect, write_portable
from birefnet.data.pairs import Pair, discover
from birefnet.errors import BiRefNetError, DataError, OutputError

_MEGABYTE = 1_000_000


@click.command(context_settings=HELP)
@click.argument("spec")
@click.argument("output", type=PATH, metavar="OUTPUT.npz")
@click.option("--masks", type=PATH, metavar="DIR", help="Folder of the masks, where SPEC is that of the photos.")
@click.option(
    "--size",
    callback=read_size,
    default="320",
    show_default=True,
    metavar="HxW",
    help="Height and width that all are stretched to, or one number for a square.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=40,
    show_default=True,
    metavar="MB",
    help="Largest size of the file, in megabytes: the JPEG quality is lowered until it fits.",
)
@click.option("--soft", is_flag=True, help="Masks are mattes: keep their levels, which are else foreground above 127.")
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be packed.")
def pack(
    spec: str,
    output: Path,
    masks: Path | None,
    size: Size,
    limit: int,
    soft: bool,
    skip_bad: bool,
) -> None:
    """Pack photos and masks into the one file OUTPUT.npz, a small part of their size.

    On any machine, "birefnet train --data OUTPUT.npz" trains from it. SPEC is explained in  birefnet data --help .
    What is to be packed is read as a training reads it; "birefnet data check" tells more of what is the matter.
    An OUTPUT.npz that exists is replaced, when the new one is whole.
    """
    try:
        _check_target(output)
        found = discover(spec, masks)
        for note in found.notes:
            say(note)
        bad = [f"{problem.file}: {problem.detail}" for problem in found.problems if problem.stops]
        with shown_progress(
            len(found.pairs), "pack", f"{{done}} of {{total}} pairs were read, {literal(output)} is as it was"
        ) as advance:
            packed, unreadable = decode_pairs(found.pairs, size, soft=soft, advance=advance)
            bad += unreadable
            _refuse(spec, bad, len(packed.names), skip_bad=skip_bad)
            _make_folder(output)
            quality = write_portable(packed, output, limit * _MEGABYTE)
    except BiRefNetError as error:
        raise ClickException(printable(str(error))) from error
    if bad:
        say(f"{counted(len(bad), 'file')} left out:\n{_listed(bad)}")
    side = f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
    click.echo(
        printable(
            f"{output}: {counted(len(packed.names), 'pair')} at {side} px, JPEG quality {quality}, "
            f"{output.stat().st_size / _MEGABYTE:.1f} MB"
        )
    )


def decode_pairs(
    pairs: Sequence[Pair], size: Size, *, soft: bool = False, advance: Callable[[], None] | None = None
) -> tuple[Pack, list[str]]:
    """Decode what can be decoded of some pairs, in memory, which takes 4 bytes for each pixel.

    Args:
        pairs: what to decode.
        size: (H, W) to stretch to.
        soft: masks are mattes, whose levels are kept.
        advance: called after each pair.

    Returns:
        The pack of N pairs, (N, 4, H, W), in their order, and of each of the others what is the matter with it.

    Raises:
        DataError: the memory is too small for all of them.
    """
    try:
        pixels = np.empty((len(pairs), 4, *size), np.uint8)
    except MemoryError as error:
        needed = len(pairs) * 4 * size[0] * size[1]
        raise DataError(
            f"{len(pairs)} pairs at {size[0]}x{size[1]} take {needed / 1e9:.1f} GB of memory, more than there is: "
            "pack at a smaller --size, or in parts"
        ) from error
    bad: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            pixels[index] = decode_pair(pairs[index], size, soft=soft)
        except DataError as error:
            bad[index] = str(error)

    in_parallel(decode, range(len(pairs)), advance)
    good = [index for index in range(len(pairs)) if index not in bad]
    for place, index in enumerate(good):
        if place != index:  # moved down in place: a copy would take as much memory again
            pixels[place] = pixels[index]
    several = len({pair.data for pair in pairs}) > 1
    names = [f"{pairs[index].data}/{pairs[index].name}" if several else pairs[index].name for index in good]
    packed = Pack(
        names,
        pixels[: len(good)],
        [pairs[index].category for index in good],
        [read_aspect(pairs[index].image) for index in good],
    )
    return packed, [bad[index] for index in sorted(bad)]


def _refuse(spec: str, bad: Sequence[str], usable: int, *, skip_bad: bool) -> None:
    """Refuse what is bad, unless it is to be left out and something stays.

    Raises:
        DataError: it is refused; the message lists all of it.
    """
    if bad and not skip_bad:
        remedy = "mend or remove them, or pass --skip-bad to leave them out"
        raise DataError(f"{counted(len(bad), 'file')} cannot be packed: {remedy}\n{_listed(bad)}")
    if not usable:
        raise DataError(
            f"{spec}: nothing is left to pack: see 'birefnet data check'" + ("\n" + _listed(bad)) * bool(bad)
        )


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _check_target(output: Path) -> None:
    """Refuse, before long work, a file that could not be written after it.

    Raises:
        OutputError: the name has another suffix or is a folder's, or the folder it is to go to cannot hold it.
    """
    if output.suffix != ".npz":
        raise OutputError(f"{output}: a pack's name must end in .npz")
    if output.is_dir():
        raise OutputError(f"{output}: is a folder: name a file")
    place = next(each for each in output.absolute().parents if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{output}: cannot be written, {place} is no folder to write to: name another one")


def _make_folder(output: Path) -> None:
    make_folder(output.parent)
