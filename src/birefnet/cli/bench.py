"""`birefnet bench`: how fast and how large models are on this machine."""

import errno
import os
import signal
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
from click import ClickException
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from birefnet._atomic import write_whole
from birefnet.bench import tables
from birefnet.bench.case import RANDOM, parse_size, plan
from birefnet.bench.machine import machine
from birefnet.bench.measure import Bench, Row
from birefnet.engines.metadata import PRECISIONS
from birefnet.errors import BiRefNetError, OutputError
from birefnet.loading import ENGINES

DEFAULT_MODEL = "nano"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES),
    help="What runs the network; may be given several times.  [default: auto]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="What it computes in; may be given several times.  [default: auto]",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="N|HxW",
    help="Size of the network's input; may be given several times.  [default: that of the weights]",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    help="Images in a run; may be given several times.  [default: 1]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the network.  [default: one a core]")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Timed runs of each.")
@click.option(
    "--against",
    metavar="ENGINE[:PRECISION]",
    help="What all are compared with, in pairs of alternating runs; by default the first of each model and size.",
)
@click.option(
    "--random-weights",
    "drawn",
    multiple=True,
    metavar="NAME",
    help="Measure the network of a backbone or of a published model with drawn weights, without fetching any; may be "
    f"given several times. The same as the model {RANDOM}NAME.",
)
@click.option("--accept-licence", is_flag=True, help="Use weights that are for non-commercial use only.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures to it.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw a bar chart.")
def bench(
    models: tuple[str, ...],
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    sizes: tuple[str, ...],
    batches: tuple[int, ...],
    threads: int | None,
    runs: int,
    against: str | None,
    drawn: tuple[str, ...],
    accept_licence: bool,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Time models on this machine, by default the one that comes with the package.

    Every combination of model, engine, precision, size and batch is loaded by a fresh process. Two of them take turns,
    so that whatever else the machine does hits both, and the ratio of a pair is what to quote. Beside each run stands
    a large matrix product of the same type: the efficiency is what the network's own multiplications reach of its
    speed. An engine that runs files gets the network exported, which is said.
    """
    names = (*models, *(RANDOM + name for name in drawn)) or (DEFAULT_MODEL,)
    try:
        groups = plan(
            names,
            engines=engines or ("auto",),
            precisions=precisions or ("auto",),
            sizes=[parse_size(size) for size in sizes] or [None],
            batches=batches or (1,),
            threads=threads,
            against=against,
            accept_licence=accept_licence,
        )
        check_outputs(names, json_file, plot)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    work = Bench(groups, runs)
    stopped = carry_out(work)
    show(work.rows)
    written = save(work.rows, runs, json_file, plot)
    if stopped:
        raise SystemExit(130)
    if not written or any(row.error for row in work.rows):
        raise SystemExit(1)


def check_outputs(models: Sequence[str], json_file: Path | None, plot: Path | None) -> None:
    """Refuse, before anything is measured, files that could not be written after it, or that must not be.

    Raises:
        OutputError: a file is one of the models, the other file, or not to be written.
        MissingExtraError: matplotlib is not installed, and a chart is wanted.
    """
    if plot is not None:
        tables.check_picture(plot)
        if json_file is not None and json_file.resolve() == plot.resolve():
            raise OutputError(f"{plot}: --json and --plot are the same file: choose another name for one of them")
    for output in filter(None, (json_file, plot)):
        try:
            if output.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if output.exists() and any(map(output.samefile, _files_of(models))):
                raise OutputError(f"{output}: is part of a model that is measured: choose another name")
            tempfile.TemporaryFile(dir=output.parent).close()
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{output}: cannot be written ({error.strerror or error}): choose another name"
            ) from error


def _files_of(models: Sequence[str]) -> list[Path]:
    """List what lies on this machine of models: files, with the weights beside a `.xml`, and what folders hold."""
    found: list[Path] = []
    for path in map(Path, models):
        found += path.iterdir() if path.is_dir() else [path]
        if path.suffix.lower() == ".xml":
            found.append(path.with_suffix(".bin"))
    return [path for path in found if path.is_file()]


def save(rows: list[Row], runs: int, json_file: Path | None, plot: Path | None) -> bool:
    """Write what is wanted, each file whatever becomes of the other; returns whether all could be."""
    facts = machine()
    writers: list[partial[None]] = []
    if json_file is not None:
        writers.append(partial(write_whole, json_file, tables.to_json(rows, runs, facts).encode()))
    if plot is not None:
        writers.append(partial(tables.draw, rows, plot, facts))
    written = True
    for write in writers:
        try:
            write()
        except BiRefNetError as error:
            ClickException(str(error)).show()
            written = False
    return written


def carry_out(work: Bench) -> bool:
    """Measure under a line that says what is going on; returns whether it was stopped."""
    console = Console(stderr=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("starting", total=None)
            for row in work.run():
                done = sum(bool(other.seconds or other.error) for other in work.rows)
                progress.update(task, description=f"{done} measured, the last was {row.case.name}")
    except KeyboardInterrupt:
        click.echo("stopped: what was measured until now follows", err=True)
        return True
    finally:
        signal.signal(signal.SIGTERM, before)
    return False


def show(rows: list[Row]) -> None:
    """Print the table, as Markdown into a file or a pipe, and on standard error what is to be known of its rows."""
    begun = [row for row in rows if row.seconds or row.error]
    lines = [tables.cells(row) for row in begun]
    console = Console()
    if not console.is_terminal:
        click.echo(tables.markdown(tables.HEADER, lines), nl=False)
    else:
        # Columns in which nothing is known, or all is the default, take room only.
        shown = [i for i, title in enumerate(tables.HEADER) if {line[i] for line in lines} - {"", "1"}]
        table = Table(box=None, header_style="bold", pad_edge=False)
        for i in shown:
            table.add_column(tables.HEADER[i], justify="left" if i < tables.LEFT else "right")
        for line in lines:
            table.add_row(*(Text(line[i]) for i in shown))
        console.print(table)
    for remark in tables.remarks(rows):
        click.echo(remark, err=True)
