"""`birefnet cutout`: photos in; cut-outs, masks, composites or trimaps out."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from click import ClickException
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from birefnet.errors import BiRefNetError, OutputError
from birefnet.imaging.io import FORMATS, MAX_PIXELS, check_target, read_photo, write_image
from birefnet.imaging.matte import Matte, parse_colour
from birefnet.loading import load


@dataclass(frozen=True)
class Finish:
    """What becomes of a matte: how its alpha is changed, and what is made of it."""

    kind: str
    background: str | Image.Image | None
    crop: int | None
    threshold: float | None
    feather: float
    grow: int
    decontaminate: bool

    def __call__(self, matte: Matte) -> Image.Image:
        """Change the alpha, then cut to the box, then make the image."""
        if self.threshold is not None:
            matte = matte.harden(self.threshold)
        matte = matte.grow(self.grow).feather(self.feather)
        if self.crop is not None:
            matte = matte.crop(self.crop)
        if self.background is not None:
            return matte.composite(self.background, decontaminate=self.decontaminate)
        makers: dict[str, Callable[[], Image.Image]] = {
            "cutout": lambda: matte.cutout(decontaminate=self.decontaminate),
            "mask": matte.mask,
            "trimap": matte.trimap,
        }
        return makers[self.kind]()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO...")
@click.option(
    "--weights",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to use, .safetensors or .pth.",
)
@click.option(
    "--kind",
    type=click.Choice(["cutout", "mask", "composite", "trimap"]),
    default="cutout",
    show_default=True,
    help="What to write: the object on nothing, its mask, the object on --background, or a trimap.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write or, for several photos, the folder; by default PHOTO-KIND.png beside each photo.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(
        sorted({"jpeg" if name == "jpg" else name for name in (s[1:] for s in FORMATS) if name != "tif"})
    ),
    help="Format of files that -o does not name.  [default: png]",
)
@click.option("--background", metavar="COLOUR|IMAGE|blur", help="What to put the object on, for --kind composite.")
@click.option(
    "--crop",
    is_flag=False,
    flag_value=0,
    default=None,
    type=click.IntRange(min=0),
    metavar="[MARGIN]",
    help="Cut to the object's box, with a margin in pixels.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="T", help="Make alpha 1 from T on, and 0 below.")
@click.option("--feather", type=click.FloatRange(min=0), default=0.0, metavar="PX", help="Soften the edge.")
@click.option("--grow", type=click.IntRange(-1000, 1000), default=0, metavar="PX", help="Move the edge outward.")
@click.option("--no-decontaminate", is_flag=True, help="Keep the photo's colours at soft edges.")
@click.option("--size", type=int, metavar="N", help="Side of the network's input, a multiple of 32.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1, mps.")
@click.option(
    "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True, help="Refuse larger photos."
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
def cutout(
    inputs: tuple[Path, ...],
    weights: Path,
    kind: str,
    output: Path | None,
    suffix: str | None,
    background: str | None,
    crop: int | None,
    threshold: float | None,
    feather: float,
    grow: int,
    no_decontaminate: bool,
    size: int | None,
    device: str,
    max_pixels: int,
    overwrite: bool,
) -> None:
    """Cut the foreground out of photos.

    A photo that cannot be read or written is reported at the end, and the others are done all the same; the exit
    status is 1 then.
    """
    if (kind == "composite") != (background is not None):
        raise click.UsageError("--kind composite and --background go together")
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels is what counts
    try:
        behind = None if background is None else read_background(background)
        finish = Finish(kind, behind, crop, threshold, feather, grow, not no_decontaminate)
        targets = plan_targets(inputs, output, kind, suffix)
        predictor = load(weights, size=size, device=device)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    failures: list[str] = []
    try:
        for source, target in with_progress(targets):
            try:
                if os.path.lexists(target) and not overwrite:
                    raise OutputError(f"{target}: exists already; pass --overwrite to replace it")
                photo = read_photo(source, max_pixels=max_pixels)
                for notice in photo.notices:
                    click.echo(f"{source}: {notice}", err=True)
                write_image(finish(predictor.predict(photo)), target)
            except BiRefNetError as error:
                failures.append(str(error))
    finally:  # also when the rest is interrupted
        for failure in failures:
            click.echo(f"Error: {failure}", err=True)
    if len(targets) > 1:
        click.echo(f"{len(targets) - len(failures)} of {len(targets)} photos done", err=True)
    if failures:
        raise SystemExit(1)


def read_background(background: str) -> str | Image.Image:
    """Tell what --background names: an image file that exists, "blur", or a colour.

    Raises:
        BiRefNetError: neither a file that can be read nor a colour.
    """
    if os.path.exists(background):  # noqa: PTH110 - pathlib raises where a text is no possible path
        return Image.fromarray(read_photo(background).rgb)
    if background != "blur":
        parse_colour(background)
    return background


def with_progress(targets: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """Go through the photos, with a progress bar where there are several and somebody looks on."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    hidden = len(targets) < 2 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield from progress.track(targets, description="cutout")


def plan_targets(
    inputs: tuple[Path, ...], output: Path | None, kind: str, suffix: str | None
) -> list[tuple[Path, Path]]:
    """Pair each photo with the file to write.

    Raises:
        click.UsageError: one file for several photos, two photos for one file, or a photo that would be replaced.
        OutputError: a file that no such image can be written to.
    """
    # os.path, because pathlib raises where a path is too long or may not be looked at.
    into_folder = output is not None and os.path.isdir(output)  # noqa: PTH112
    if output is not None and len(inputs) > 1 and not into_folder:
        raise click.UsageError(f"-o {output}: {len(inputs)} photos need a folder that exists")
    photos = {os.path.realpath(source) for source in inputs}
    taken: dict[str, Path] = {}
    targets = []
    for source in inputs:
        if output is not None and not into_folder:
            target = output
        else:
            target = (output or source.parent) / f"{source.stem}-{kind}.{suffix or 'png'}"
        real = os.path.realpath(target)
        if real in photos:
            raise click.UsageError(f"{target}: is a photo to cut out and would be replaced")
        if real in taken:
            raise click.UsageError(f"{taken[real]} and {source} would both be written to {target}")
        check_target(target, transparent=kind == "cutout")
        taken[real] = source
        targets.append((source, target))
    return targets
