"""`birefnet cutout`: photos in; cut-outs, masks, composites or trimaps out."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from click import ClickException
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from birefnet.batch.pipeline import Result, run
from birefnet.batch.plan import Job, plan
from birefnet.batch.watch import watch
from birefnet.cli.engine_options import engine_options
from birefnet.cli.progress import progress_columns
from birefnet.errors import BiRefNetError, InputError, OutputError
from birefnet.imaging.io import MAX_PIXELS, check_suffix, encode_image, read_photo, write_image
from birefnet.imaging.matte import Matte, parse_colour
from birefnet.loading import load
from birefnet.predictor import Predictor
from birefnet.tasks import TASKS, choose_model

STREAM = "-"
KINDS = ("cutout", "mask", "composite", "trimap")
DEFAULT_MODEL = "nano"


@dataclass(frozen=True)
class Finish:
    """What becomes of a matte: how its alpha is changed, and what is made of it."""

    kind: str
    background: str | Image.Image | None
    crop: int | None
    levels: tuple[float, float] | None
    threshold: float | None
    feather: float
    grow: int
    decontaminate: bool

    def __call__(self, matte: Matte) -> Image.Image:
        """Change the alpha, then cut to the box, then make the image."""
        if self.levels is not None:
            matte = matte.levels(*self.levels)
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
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model",
    metavar="NAME",
    help="Model to use: one that comes with the package, a published one ('birefnet models list') or OWNER/REPOSITORY "
    f"on the Hugging Face hub.  [default: that of --task, else {DEFAULT_MODEL}]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to use in place of --model, .safetensors, .pth, .onnx or .xml.",
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    help="What the photos are cut out for: chooses the model, and how its alpha is treated where no option says so.",
)
@engine_options
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="cutout",
    show_default=True,
    help="What to write: the object on nothing, its mask, the object on --background, or a trimap.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="File, folder or pattern with {stem} and {kind} to write to, or - for standard output; by default "
    "PHOTO-KIND.png beside each photo and, for a folder, its tree in FOLDER-KIND.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "webp", "tiff", "jpeg"]),
    help="Format of what -o does not name.  [default: png]",
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
@click.option(
    "--levels",
    nargs=2,
    type=click.FloatRange(0, 1),
    metavar="LOW HIGH",
    help="Make alpha 0 up to LOW and 1 from HIGH on, so that half-transparent insides become solid.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="T", help="Make alpha 1 from T on, and 0 below.")
@click.option("--feather", type=click.FloatRange(min=0), default=0.0, metavar="PX", help="Soften the edge.")
@click.option("--grow", type=click.IntRange(-1000, 1000), default=0, metavar="PX", help="Move the edge outward.")
@click.option(
    "--decontaminate/--no-decontaminate",
    default=None,
    help="Show the object's own colours at soft edges, or keep the photo's.  [default: decontaminate, except for "
    "--task cod]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=1, metavar="N", help="Photos a run of the network.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, metavar="N", help="Threads that read, and that write.")
@click.option(
    "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True, help="Refuse larger photos."
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--skip-existing", is_flag=True, help="Leave out photos whose result exists.")
@click.option("--watch", "watching", is_flag=True, help="Go on with new photos in a folder until stopped by Ctrl-C.")
def cutout(
    inputs: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    task: str | None,
    kind: str,
    output: str | None,
    form: str | None,
    background: str | None,
    crop: int | None,
    levels: tuple[float, float] | None,
    threshold: float | None,
    feather: float,
    grow: int,
    decontaminate: bool | None,
    batch_size: int,
    jobs: int,
    max_pixels: int,
    overwrite: bool,
    skip_existing: bool,
    watching: bool,
    **running: Any,
) -> None:
    """Cut the foreground out of photos.

    INPUT is a photo, a folder of photos (searched through, its tree is kept), a pattern such as '*.jpg', or - for
    standard input. A photo that cannot be read or written is reported at the end, and the others are done all the
    same; the exit status is 1 then.
    """
    if (kind == "composite") != (background is not None):
        raise click.UsageError("--kind composite and --background go together")
    if overwrite and skip_existing:
        raise click.UsageError("--overwrite and --skip-existing exclude each other")
    if watching and (len(inputs) != 1 or not Path(inputs[0]).is_dir()):
        raise click.UsageError("--watch takes one folder")
    if STREAM in (*inputs, output) and len(inputs) > 1:
        raise click.UsageError(f"{STREAM} stands for a single photo; name no other beside it")
    if levels is not None and levels[0] >= levels[1]:
        raise click.UsageError(f"--levels {levels[0]:g} {levels[1]:g}: the lower one comes first")
    preset = TASKS["general" if task is None else task]
    if levels is None and threshold is None:  # either says what the alpha is to be, in place of both of the task's
        levels, threshold = preset.levels, preset.threshold
    if decontaminate is None:
        decontaminate = preset.decontaminate
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels is what counts
    suffix = f".{form or 'png'}"
    try:
        behind = None if background is None else read_background(background)
        finish = Finish(kind, behind, crop, levels, threshold, feather, grow, decontaminate)
        chosen = choose_model(task, model=model, weights=weights, default=DEFAULT_MODEL)

        def ready() -> Predictor:
            predictor = load(chosen, **running)
            told = tell_notes(predictor)
            # What comes up in the runs, also in those that failed or were stopped.
            click.get_current_context().call_on_close(lambda: tell_notes(predictor, told))
            return predictor

        if STREAM in (*inputs, output):
            target = None if output in (None, STREAM) else Path(output)
            check_suffix(target or suffix, transparent=kind == "cutout")
            cut_stream(inputs[0], target, suffix, ready(), finish, max_pixels)
            return
        planned = [] if watching else plan(inputs, output, kind=kind, suffix=suffix)
        for job in planned:
            check_suffix(job.target, transparent=kind == "cutout")
        predictor = ready()
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    carry_out = partial(
        run, predictor=predictor, finish=finish, batch_size=batch_size, workers=jobs, max_pixels=max_pixels
    )
    if watching:
        follow(inputs[0], partial(plan, inputs, output, kind=kind, suffix=suffix), carry_out, overwrite=overwrite)
        return
    existing = set() if overwrite else {job for job in planned if os.path.lexists(job.target)}
    wanted = [job for job in planned if job not in existing]
    kept = [] if skip_existing else [job for job in planned if job in existing]
    failures = [f"{job.target}: exists already; pass --overwrite or --skip-existing" for job in kept]
    report(carry_out(wanted), len(wanted), failures, skipped=len(existing) - len(kept))


def tell_notes(predictor: Predictor, told: Sequence[str] = ()) -> tuple[str, ...]:
    """Print a predictor's remarks, less those told already, and give all of them."""
    notes = predictor.notes
    for note in notes:
        if note not in told:
            click.echo(note, err=True)
    return notes


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


def cut_stream(
    source: str,
    target: Path | None,
    suffix: str,
    predictor: Predictor,
    finish: Callable[[Matte], Image.Image],
    max_pixels: int,
) -> None:
    """Take one photo from standard input, or write its result to standard output, or both.

    Raises:
        BiRefNetError: the photo cannot be read, or the result not written.
    """
    photo = read_photo(sys.stdin.buffer.read() if source == STREAM else source, max_pixels=max_pixels)
    image = finish(predictor.predict(photo))
    if target is not None:
        write_image(image, target)
        return
    try:
        sys.stdout.buffer.write(encode_image(image, suffix))
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python would try to write the rest once more at exit, and complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def follow(
    folder: str,
    find: Callable[[], list[Job]],
    carry_out: Callable[[list[Job]], Iterable[Result]],
    *,
    overwrite: bool,
) -> None:
    """Cut out the photos of a folder and those that come, until SIGTERM or Ctrl-C."""

    def missing() -> list[Job]:
        try:
            found = find()
        except InputError:  # no photos yet
            return []
        return found if overwrite else [job for job in found if not os.path.lexists(job.target)]

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"watching {folder}; stop with Ctrl-C", err=True)
    done = failed = 0
    try:
        for ready in watch(missing):
            for result in carry_out(ready):
                for notice in result.notices:
                    click.echo(f"{result.job.source}: {notice}", err=True)
                if result.error is None:
                    done += 1
                    click.echo(f"{result.job.source} -> {result.job.target}", err=True)
                else:
                    failed += 1
                    click.echo(f"Error: {result.error}", err=True)
    except KeyboardInterrupt:
        click.echo(f"stopped: {done} done" + f", {failed} failed" * bool(failed), err=True)


def report(results: Iterable[Result], count: int, failures: list[str], *, skipped: int) -> None:
    """Carry jobs out under a progress bar, and say at the end what became of them; exit with 1 where some failed."""
    console = Console(stderr=True)
    started, done = time.monotonic(), 0
    try:
        with Progress(
            *progress_columns(), console=console, transient=True, disable=count < 2 or not console.is_terminal
        ) as progress:
            for result in progress.track(results, total=count, description="cutout"):
                for notice in result.notices:
                    console.print(f"{result.job.source}: {notice}", markup=False, highlight=False, soft_wrap=True)
                if result.error is None:
                    done += 1
                else:
                    failures.append(str(result.error))
    finally:  # also when the rest is interrupted
        for failure in failures:
            click.echo(f"Error: {failure}", err=True)
        if count + skipped > 1:
            seconds = time.monotonic() - started
            others = [f"{len(failures)} failed"] * bool(failures) + [f"{skipped} skipped"] * bool(skipped)
            rate = f" in {seconds:.1f} s ({done / seconds:.1f} a second)" if done else ""
            click.echo(", ".join([f"{done} done{rate}", *others]), err=True)
    if failures:
        raise SystemExit(1)
