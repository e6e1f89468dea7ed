"""`birefnet cutout`: photos in, masks out."""

from pathlib import Path

import click
from click import ClickException
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from birefnet.config import InputSpec
from birefnet.errors import BiRefNetError, ConfigError, OutputError
from birefnet.imaging.io import read_rgb, write_mask
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
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
def cutout(
    inputs: tuple[Path, ...],
    weights: Path,
    kind: str,
    output: Path | None,
    size: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Cut the foreground out of photos.

    A photo that cannot be read or written is reported at the end, and the others are done all the same; the exit
    status is 1 then.
    """
    targets = plan_targets(inputs, output, kind)
    try:
        predictor = load_predictor(weights, size, device)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    failures: list[str] = []
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=len(targets) < 2 or not console.is_terminal,
    ) as progress:
        for source, target in progress.track(targets, description="cutout"):
            try:
                if target.exists() and not overwrite:
                    raise OutputError(f"{target}: exists already; pass --overwrite to replace it")
                write_mask(predictor.predict(read_rgb(source)), target)
            except BiRefNetError as error:
                failures.append(str(error))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if len(targets) > 1:
        click.echo(f"{len(targets) - len(failures)} of {len(targets)} photos done", err=True)
    if failures:
        raise SystemExit(1)


def plan_targets(inputs: tuple[Path, ...], output: Path | None, kind: str) -> list[tuple[Path, Path]]:
    """Pair each photo with the file to write.

    Raises:
        click.UsageError: one file for several photos, two photos for one file, or a photo that would be replaced.
    """
    if output is not None and len(inputs) > 1 and not output.is_dir():
        raise click.UsageError(f"-o {output}: {len(inputs)} photos need a folder that exists")
    photos = {source.resolve() for source in inputs}
    targets: dict[Path, Path] = {}
    for source in inputs:
        if output is not None and not output.is_dir():
            target = output
        else:
            target = (output or source.parent) / f"{source.stem}-{kind}.png"
        if target.resolve() in photos:
            raise click.UsageError(f"{target}: is a photo to cut out and would be replaced")
        if target in targets:
            raise click.UsageError(f"{targets[target]} and {source} would both be written to {target}")
        targets[target] = source
    return [(source, target) for target, source in targets.items()]


def load_predictor(weights: Path, size: int | None, device: str) -> Predictor:
    """Load weights into the PyTorch back end.

    Raises:
        BiRefNetError: the weights do not load, or the size or device is impossible; torch is not installed.
    """
    from birefnet._extras import require

    require("torch", extra="torch")
    from dataclasses import replace

    from birefnet.engines.torch_engine import TorchEngine
    from birefnet.weights import load_model

    model = load_model(weights)
    spec: InputSpec = model.input_spec
    if size is not None:
        try:
            spec = replace(spec, size=(size, size))
        except ConfigError as error:
            raise ConfigError(f"--size {size}: must be a positive multiple of 32") from error
    return Predictor(TorchEngine(model, device), spec)
