"""`birefnet export`: files for other programs, compared with the network before they are written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from birefnet._extras import require
from birefnet.config import MAX_SIDE
from birefnet.errors import BiRefNetError, ConfigError, InputError, OutputError
from birefnet.sources import locate

if TYPE_CHECKING:
    from birefnet.export.verify import ExportReport
    from birefnet.model import BiRefNet

PATH = click.Path(path_type=Path)

FORMATS = {
    "onnx": (".onnx", ("precision", "half", "decompose_deform", "opset", "int8", "calibration")),
    "openvino": (".xml", ("half", "int8", "calibration")),
    "torch-export": (".pt2", ("aot",)),
    "safetensors": (".safetensors", ("precision",)),
}
"""Format -> (suffix of its files, the options that it has besides those of all)."""

PRECISIONS = {"onnx": ("float32", "float16"), "safetensors": ("float32", "float16", "bfloat16")}
"""Format -> what `--precision` may be."""

CLASHES = (
    ("int8", "precision"),
    ("int8", "half"),
    ("int8", "decompose_deform"),
    ("int8", "opset"),
    ("half", "precision"),
)
"""Options that exclude each other."""

EPILOG = """
Examples:

\b
  birefnet export nano --to onnx -o nano.onnx
  birefnet export general-lite --to onnx -o lite.onnx --decompose-deform   for browsers and older runtimes
  birefnet export general-lite --to openvino -o lite.xml --photos PHOTOS
  birefnet export mine.safetensors --to onnx -o mine.onnx --int8 --calibration PHOTOS

docs/export.md says what runs where, and how fast.
"""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        format: a key of `FORMATS`.
        output: the file to write.
        photos: what to compare on, None for drawn pictures.
        options: values of the options in `FORMATS`, by name.
        given: names of those that were typed.
    """

    format: str
    output: Path
    photos: Path | None
    options: dict[str, Any]
    given: frozenset[str]

    def check(self) -> None:
        """Refuse what cannot be before anything takes long.

        Raises:
            ConfigError: an option does not fit; the message says what does.
            OutputError: the file's name does not fit the format, or it cannot be written there.
            InputError: there is no such folder of photos, or it holds none.
            DataError: the folder of photos cannot be read.
            ImageError: a photo cannot be read.
        """
        suffix, known = FORMATS[self.format]
        for name in sorted(self.given):
            if name not in known:
                fitting = [other for other, (_, options) in FORMATS.items() if name in options]
                raise ConfigError(f"{_spelt(name)} is no option of --to {self.format}, but of {', '.join(fitting)}")
        precision = self.options["precision"]
        if "precision" in self.given and precision not in PRECISIONS[self.format]:
            allowed = ", ".join(PRECISIONS[self.format])
            raise ConfigError(f"--precision {precision} is none of --to {self.format}: choose from {allowed}")
        if self.output.suffix != suffix:
            raise OutputError(f"{self.output}: --to {self.format} writes {suffix} files: choose such a name")
        if not self.output.parent.is_dir():
            raise OutputError(
                f"{self.output}: cannot be written, there is no folder {self.output.parent}: make it first"
            )
        if self.output.is_dir():
            raise OutputError(f"{self.output}: cannot be written, a folder has this name: choose another")
        if not os.access(self.output.parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"{self.output}: cannot be written, {self.output.parent} is read-only: choose another folder"
            )
        for place in (self.photos, self.options["calibration"]):
            if place is not None and not place.exists():
                raise InputError(f"{place}: no such folder: name one that holds photos")
        if self.options["int8"] != ("calibration" in self.given):
            raise ConfigError("--int8 goes with --calibration FOLDER, which holds photos like those to be segmented")
        for one, other in CLASHES:
            if {one, other} <= self.given:
                raise ConfigError(f"{_spelt(one)} does not go with {_spelt(other)}: leave one of them out")
        from birefnet.export.checks import check_weights_place, read_photos

        if self.format == "openvino":
            check_weights_place(self.output)
        if self.photos is not None:
            read_photos(self.photos)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.argument("model")
@click.option("--to", "target", type=click.Choice(tuple(FORMATS)), required=True, help="Format of the file.")
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The file to write.")
@click.option("--precision", default="float32", show_default=True, help="float32, float16; bfloat16 (safetensors).")
@click.option("--half", is_flag=True, help="Store the weights as float16 and compute in float32: half the size.")
@click.option("--decompose-deform", is_flag=True, help="ONNX without DeformConv: older runtimes, browsers, TensorRT.")
@click.option(
    "--opset", type=int, metavar="N", help="ONNX operator set  [default: 18, or 19 where it takes DeformConv]."
)
@click.option("--int8", is_flag=True, help="Quantise to 8-bit whole numbers, if that keeps the quality.")
@click.option("--calibration", type=PATH, metavar="DIR", help="Photos for --int8; with masks the loss is measured.")
@click.option("--aot", is_flag=True, help="Compile the program of torch-export for this CPU; needs a C++ compiler.")
@click.option("--size", metavar="PX", help="Size the file is made for: 512, or 1024x768 (height x width).")
@click.option("--photos", type=PATH, metavar="DIR", help="Photos to compare on  [default: drawn pictures].")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository of the hub.")
@click.option("--accept-licence", is_flag=True, help="Use weights that are for non-commercial use only.")
@click.pass_context
def export(context: click.Context, /, **values: Any) -> None:
    """Write MODEL as a file for other programs, once it gives the same masks there.

    MODEL is what `birefnet cutout --model` takes: a name of `birefnet models list`, a repository of the hub, a folder
    or a weights file. The file runs at any batch and size (multiples of 32; of more, with a refiner that works in
    tiles), holds how photos are to be prepared, and gives alpha. It is compared with the network at several sizes
    before it gets its name; nothing is left of one that differs.
    """
    names = ("precision", "half", "decompose_deform", "opset", "int8", "calibration", "aot")
    given = {name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    request = Request(
        values["target"],
        values["output"],
        values["photos"],
        {name: values[name] for name in names},
        frozenset(given),
    )
    try:
        request.check()
        _refuse_source(values["model"], values["output"], values["revision"], values["accept_licence"])
        model = _load(values["model"], values["size"], values["revision"], values["accept_licence"])
        for note in model.notes:
            click.echo(note, err=True)
        with _working(f"{values['target']}: tracing, writing and comparing"):
            report = _exporter(request)(model, request.output)
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error
    for line in described(report):
        click.echo(line)


def described(report: "ExportReport") -> list[str]:
    """What was written and verified, a line each."""
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in report.checked)
    lines = [str(report.path), f"alpha differs by at most {report.difference:.2g} at {shapes}", *report.notes]
    more = getattr(report, "lines", None)  # of an int8 report: its quality and speed
    return [*lines, *(more() if more is not None else ())]


def _exporter(request: Request) -> "Callable[[BiRefNet, Path], ExportReport]":
    """Find what writes the format, and import nothing else."""
    options, photos = request.options, request.photos
    if request.format == "onnx":
        for library in ("onnx", "onnxscript"):
            require(library, extra="export")
        if options["int8"]:
            from birefnet.export.int8 import quantise_onnx

            return lambda model, path: quantise_onnx(model, path, calibration=options["calibration"], photos=photos)
        from birefnet.export.onnx import export_onnx

        chosen = {name: options[name] for name in ("precision", "half", "decompose_deform", "opset")}
        return lambda model, path: export_onnx(model, path, photos=photos, **chosen)
    if request.format == "openvino":
        require("openvino", extra="openvino")
        if options["int8"]:
            from birefnet.export.int8 import quantise_openvino

            return lambda model, path: quantise_openvino(model, path, calibration=options["calibration"], photos=photos)
        from birefnet.export.openvino import export_openvino

        return lambda model, path: export_openvino(model, path, half=options["half"], photos=photos)
    if request.format == "torch-export":
        from birefnet.export.program import export_program

        return lambda model, path: export_program(model, path, aot=options["aot"], photos=photos)
    from birefnet.export.weights import export_safetensors

    return lambda model, path: export_safetensors(model, path, precision=options["precision"], photos=photos)


def _load(name: str, size: str | None, revision: str | None, accept_licence: bool) -> "BiRefNet":
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.model import BiRefNet

    if Path(name).suffix.lower() in (".onnx", ".xml", ".pt2"):
        raise ConfigError(f"{name}: is exported already: name the weights that it was made of")
    model = BiRefNet.from_pretrained(name, revision=revision, accept_licence=accept_licence)
    if size is not None:
        try:
            height, width = (int(side) for side in (size.split("x") if "x" in size else (size, size)))
            model.input_spec = replace(model.input_spec, size=(height, width))
        except ValueError as error:  # ConfigError is one
            raise ConfigError(
                f"--size {size}: must be a multiple of 32, from 32 to {MAX_SIDE}, or two: 512x768"
            ) from error
    return model


def _refuse_source(name: str, output: Path, revision: str | None, accept_licence: bool) -> None:
    """Refuse to write over the weights that are read.

    Raises:
        OutputError: the output is these, or its weights beside it are.
    """
    source = locate(name, revision=revision, accept_licence=accept_licence).path
    written = (output, output.with_suffix(".bin")) if output.suffix == ".xml" else (output,)
    for path in written:
        if path.exists() and source.exists() and source.samefile(path):
            raise OutputError(f"{path}: is what is exported: choose another name")


@contextmanager
def _working(title: str) -> Iterator[None]:
    """Show on a terminal that work goes on, and for how long."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(title, total=None)
        try:
            yield
        except KeyboardInterrupt:
            click.echo("stopped: nothing was written", err=True)
            raise SystemExit(130) from None


def _spelt(name: str) -> str:
    return "--" + name.replace("_", "-")
