"""`birefnet data draw`: photos of thin structures with exact masks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from click import ClickException
from PIL import Image

from birefnet._threads import in_parallel
from birefnet.cli.data.options import HELP, PATH, read_size
from birefnet.cli.data.output import counted, literal, printable
from birefnet.cli.progress import shown_progress
from birefnet.data.shapes import KINDS as DRAWABLE
from birefnet.data.structures import MOST, SPEC, Drawn
from birefnet.errors import BiRefNetError, OutputError
from birefnet.imaging.io import write_image


@click.command(context_settings=HELP)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--count", type=click.IntRange(1, MOST), default=100, show_default=True, metavar="N", help="Pairs.")
@click.option(
    "--size", callback=read_size, default="512x512", show_default=True, metavar="HxW", help="Height and width of all."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed draws the same; pairs of different seeds have different names.",
)
@click.option("--kind", type=click.Choice(DRAWABLE), help="Draw nothing else.  [default: all kinds]")
@click.option("--photos", type=click.Choice(("jpg", "png")), default="jpg", show_default=True, help="Kind of file.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Drawn at a time.  [default: one a processor]")
@click.option("--overwrite", is_flag=True, help="Replace the drawings that DIR holds.")
def draw(
    folder: Path,
    count: int,
    size: tuple[int, int],
    seed: int,
    kind: str | None,
    photos: str,
    jobs: int | None,
    overwrite: bool,
) -> None:
    """Draw photos of thin structures with exact masks: wires, lattices, spokes, hair, twigs, holes.

    Photos go to DIR/im, masks to DIR/gt, 0 to 255 for the share of each pixel that is covered. DIR gets all of them or
    none.
    """
    drawn = Drawn(count, seed, kind)

    def write(index: int) -> None:
        photo, mask = drawn.draw(index, *size)
        write_image(Image.fromarray(mask), place / "gt" / f"{drawn.names[index]}.png")
        write_image(Image.fromarray(photo), place / "im" / f"{drawn.names[index]}.{photos}")

    try:
        _check_vacant(folder, overwrite)
        with (
            shown_progress(
                count, "draw", f"{{done}} of {{total}} pairs were drawn, {literal(folder)} is as it was"
            ) as advance,
            _filled(folder) as place,
        ):
            in_parallel(write, range(count), advance, jobs)
    except BiRefNetError as error:
        raise ClickException(printable(str(error))) from error
    click.echo(printable(f"{counted(count, 'pair')}: {folder}"))


_DRAWN_FOLDERS = ("gt", "im")


def _check_vacant(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with anything in it or, to overwrite, with anything but drawings.

    Raises:
        OutputError: it is refused, or is no folder.
    """
    try:
        held = sorted(folder.iterdir()) if folder.exists() else []
        if held and not overwrite:
            raise OutputError(f"{folder}: is not empty: name another folder, or pass --overwrite to replace drawings")
        for entry in held:
            files = sorted(entry.iterdir()) if entry.name in _DRAWN_FOLDERS and entry.is_dir() else [entry]
            foreign = [file for file in files if not (file.parent == entry and file.name.startswith(f"{SPEC}-"))]
            if foreign:
                raise OutputError(f"{foreign[0]}: is no drawing, and is not overwritten: name another folder")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used as a folder ({error.strerror})") from error


@contextmanager
def _filled(folder: Path) -> Iterator[Path]:
    """Give a place to put im/ and gt/ into, which take the place of the folder's at the end, or leave no trace.

    Raises:
        OutputError: the operating system refused it.
    """
    made = not folder.exists()
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Within the folder, which may be a file system of its own, and is not replaced itself.
        with tempfile.TemporaryDirectory(prefix=".birefnet-", dir=folder) as name:
            place = Path(name)
            for kind in _DRAWN_FOLDERS:
                (place / kind).mkdir()
            yield place
            for kind in _DRAWN_FOLDERS:
                if (folder / kind).exists():
                    (folder / kind).rename(place / f"old-{kind}")
                (place / kind).rename(folder / kind)
            done = True
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        if made and not done:
            with suppress(OSError):
                folder.rmdir()
