"""`birefnet cutout`: photos in, masks out."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from click import ClickException
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from birefnet._extras import require
from birefnet.config import MAX_SIDE
from birefnet.errors import BiRefNetError, ConfigError, OutputError
from birefnet.imaging.io import MAX_PIXELS, check_mask_path, read_photo, write_mask
from birefnet.predictor import Predictor


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
    type=click.Choice(["mask"]),
    default="mask",
    show_default=True,
    help="What to write: the mask as an 8-bit grey image.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write or, for several photos, the folder; by default PHOTO-mask.png beside each photo.",
)
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
    size: int | None,
    device: str,
    max_pixels: int,
    overwrite: bool,
) -> None:
    """Cut the foreground out of photos.

    A photo that cannot be read or written is reported at the end, and the others are done all the same; the exit
    status is 1 then.
    """
    try:
        targets = plan_targets(inputs, output, kind)
        predictor = load_predictor(weights, size, device)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    failures: list[str] = []
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels is what counts
    try:
        for source, target in with_progress(targets):
            try:
                if os.path.lexists(target) and not overwrite:
                    raise OutputError(f"{target}: exists already; pass --overwrite to replace it")
                photo = read_photo(source, max_pixels=max_pixels)
                for notice in photo.notices:
                    click.echo(f"{source}: {notice}", err=True)
                write_mask(predictor.predict(photo), target, dpi=photo.dpi)
            except BiRefNetError as error:
                failures.append(str(error))
    finally:  # also when the rest is interrupted
        for failure in failures:
            click.echo(f"Error: {failure}", err=True)
    if len(targets) > 1:
        click.echo(f"{len(targets) - len(failures)} of {len(targets)} photos done", err=True)
    if failures:
        raise SystemExit(1)


def with_progress(targets: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """Go through the photos, with a progress bar where there are several and somebody looks on."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    hidden = len(targets) < 2 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield from progress.track(targets, description="cutout")


def plan_targets(inputs: tuple[Path, ...], output: Path | None, kind: str) -> list[tuple[Path, Path]]:
    """Pair each photo with the file to write.

    Raises:
        click.UsageError: one file for several photos, two photos for one file, or a photo that would be replaced.
        OutputError: a file that no mask can be written to.
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
            target = (output or source.parent) / f"{source.stem}-{kind}.png"
        real = os.path.realpath(target)
        if real in photos:
            raise click.UsageError(f"{target}: is a photo to cut out and would be replaced")
        if real in taken:
            raise click.UsageError(f"{taken[real]} and {source} would both be written to {target}")
        check_mask_path(target)
        taken[real] = source
        targets.append((source, target))
    return targets


def load_predictor(weights: Path, size: int | None, device: str) -> Predictor:
    """Load weights into the PyTorch back end.

    Raises:
        BiRefNetError: the weights do not load, or the size or device is impossible; torch is not installed.
    """
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.engines.torch_engine import TorchEngine
    from birefnet.weights import load_model

    model = load_model(weights)
    spec = model.input_spec
    if size is not None:
        try:
            spec = replace(spec, size=(size, size))
        except ConfigError as error:
            raise ConfigError(f"--size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}") from error
    return Predictor(TorchEngine(model, device), spec)
