"""`birefnet train`: train a network on photos and masks, go on with a run, and draw what it did."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from birefnet._extras import require
from birefnet.errors import BiRefNetError, ConfigError

if TYPE_CHECKING:
    from birefnet.cli.train_progress import TrainProgress
    from birefnet.training.plan import Plan
    from birefnet.training.run import Options

PATH = click.Path(path_type=Path)
STOPPED = 130

# Recipes by name, for the help: the functions need torch.
RECIPES = ("dis5k", "cod", "hrsod", "general", "general_2k", "matting", "finetune", "nano")

_SHORTCUTS = {
    "epochs": ("epochs", float, "N", "How often each photo is seen."),
    "samples": ("samples", int, "N", "How many photos are seen in all, in place of --epochs."),
    "batch": ("data.batch", int, "N", "Photos a step, of all processes together."),
    "size": ("data.sizes", str, "PX", "Size of the photos: 512, 384x512 (height x width), or 160:0.5,224:0.5."),
    "rate": ("optimizer.rate", float, "R", "Learning rate at its height."),
    "precision": ("precision", str, "NAME", "float32, bfloat16 or float16."),
    "backbone": ("model.backbone", str, "NAME", "Backbone of a network from random weights."),
    "pretrained-backbone": ("pretrained_backbone", str, "FILE", "Its weights: hub, or a file; none for random ones."),
    "metric": ("validation.metric", str, "NAME", "What the best weights are chosen by."),
    "seed": ("seed", int, "N", "Of everything random."),
}
"""Option -> the field of the recipe that it changes, its type, and what the help says of it."""

EPILOG = """
Examples:

\b
  birefnet train --data DATA -o runs/mine                       fine-tune the bundled network
  birefnet train --data DATA -o runs/mine --from general-lite   fine-tune published weights
  birefnet train --data DATA --dry-run                          what this would take, and nothing else
  birefnet train --resume runs/mine                             go on with a run that was stopped
  birefnet train --data DIS5K/DIS-TR -o runs/dis --recipe dis5k --set data.batch=4
  torchrun --nproc-per-node 8 -m birefnet train --data DATA -o runs/large --recipe general
  birefnet train plot runs/mine                                 draw the run's curves and masks again

Every setting of a recipe can be changed with --set; --dry-run shows them all. docs/finetune.md is a walk through.
"""


def _shortcuts(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (_, kind, metavar, text) in reversed(_SHORTCUTS.items()):
        command = click.option(f"--{name}", type=kind, metavar=metavar, help=text)(command)
    return command


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
    no_args_is_help=True,
)
@click.option("--data", metavar="SPEC", help="Photos and masks: a folder, ROOT/A+B, a CSV, drawn:2000, a .npz pack.")
@click.option("--masks", type=PATH, metavar="DIR", help="Folder of the masks, where --data is that of the photos.")
@click.option("--val", metavar="SPEC", help="The same, to validate on; by default a part of --data is held out.")
@click.option("--val-share", type=float, default=0.1, show_default=True, metavar="S", help="That part; 0 for none.")
@click.option("--groups", metavar="REGEX", help=r"Names with one match stay together when parted, such as '(.+)_\d+'.")
@click.option("--skip-bad", is_flag=True, help="Leave out photos that cannot be used, in place of refusing to start.")
@click.option("--no-check", is_flag=True, help="Do not look at every photo before the first step.")
@click.option(
    "-o", "--output", type=PATH, metavar="DIR", help="Folder of the run; one that the same command began goes on."
)
@click.option("--resume", type=PATH, metavar="DIR", help="Go on with the run in DIR, as it began.")
@click.option("--recipe", type=click.Choice(RECIPES), help="What to do  [default: finetune].")
@click.option(
    "--from", "start", metavar="MODEL", help="Weights to start from: a name, a repository, a file  [nano for finetune]."
)
@click.option("--config", "file", type=PATH, metavar="FILE", help="Recipe, or changes to it, as TOML.")
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a setting of the recipe.")
@_shortcuts
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--strategy",
    type=click.Choice(["ddp", "fsdp"]),
    default="ddp",
    show_default=True,
    help="Of several processes: whole networks, or shards.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads of each process.")
@click.option(
    "--workers", type=click.IntRange(0), metavar="N", help="Processes that prepare photos  [default: by the device]."
)
@click.option(
    "--cache", type=PATH, default=Path(".cache"), show_default=True, metavar="DIR", help="Folder for decoded photos."
)
@click.option("--no-cache", is_flag=True, help="Decode photos each time.")
@click.option(
    "--log-every",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Steps between two lines of the log.",
)
@click.option(
    "--save-seconds", type=float, default=300, show_default=True, metavar="S", help="Between two checkpoints."
)
@click.option("--max-seconds", type=float, metavar="S", help="Stop cleanly after this time.")
@click.option("--no-tensorboard", is_flag=True, help="Write nothing for TensorBoard.")
@click.option("--no-plots", is_flag=True, help="Draw no curves and masks at the end.")
@click.option("--dry-run", is_flag=True, help="Show the recipe and what it would take, and stop.")
@click.pass_context
def train(context: click.Context, /, **values: Any) -> None:
    """Train a network on photos and masks; fine-tune one on your own.

    The folder of the run receives weights (best.safetensors by validation, model.safetensors as of the last step), a
    checkpoint to go on from, the log, curves, masks to look at, and a draft of a model card. Ctrl-C and SIGTERM save
    first; the same command, or  birefnet train --resume DIR , goes on as if nothing had happened.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        _train(values)
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error


@train.command("plot")
@click.argument("run", type=PATH)
def plot_command(run: Path) -> None:
    """Draw curves.png and masks.png of RUN, also while it goes on."""
    from birefnet.training.plot import plot

    try:
        for path in plot(run):
            click.echo(path)
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error


def _train(values: dict[str, Any]) -> None:
    for library in ("torch", "safetensors"):
        require(library, extra="torch")
    from birefnet.cli.train_progress import TrainProgress
    from birefnet.training.run import train

    plan, run = _plan(values)
    if values["dry_run"]:
        from birefnet.cli.train_plan import show_plan

        show_plan(plan, _options(values))
        return
    if run is None:
        raise ConfigError("name a folder for the run, such as -o runs/mine")
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        ending = train(plan, run, _options(values))
    else:
        with TrainProgress(plan.recipe.validation.metric) as progress:
            ending = train(plan, run, _options(values), _Teller(progress))
        _tell(ending, run)
    if ending == "signal":
        raise SystemExit(STOPPED)


def _plan(values: dict[str, Any]) -> "tuple[Plan, Path | None]":
    """Make the plan of a run, or read that of one that is to go on; with the folder of the run."""
    from birefnet.training.plan import Asked, make_plan, plan_of
    from birefnet.training.recipe import parse_changes
    from birefnet.training.sets import Choice

    changes = {field: values[_key(name)] for name, (field, *_) in _SHORTCUTS.items() if values[_key(name)] is not None}
    changes |= parse_changes(values["settings"])
    if changes.get("pretrained_backbone") == "none":
        changes["pretrained_backbone"] = None
    resumed: Path | None = values["resume"]
    if resumed is not None:
        fixed = ("data", "masks", "val", "val_share", "groups", "skip_bad", "recipe", "start", "file", "output")
        context = click.get_current_context()
        if changes or any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in fixed):
            raise ConfigError(f"{resumed}: a run goes on as it began: leave the settings out, or begin another with -o")
        return plan_of(resumed), resumed
    if values["data"] is None:
        raise ConfigError("name photos and masks to train on: --data DIR, a folder with im/ and gt/ in it")
    names = ("data", "masks", "val", "groups", "skip_bad")
    choice = Choice(**{name: values[name] for name in names}, share=values["val_share"], seed=changes.get("seed", 0))
    asked = Asked(values["recipe"], values["start"], values["file"], changes)
    return make_plan(asked, choice), values["output"]


def _options(values: dict[str, Any]) -> "Options":
    from birefnet.training.run import Options

    names = ("device", "strategy", "threads", "workers", "log_every", "save_seconds", "max_seconds")
    return Options(
        **{name: values[name] for name in names},
        cache=None if values["no_cache"] else values["cache"],
        tensorboard=False if values["no_tensorboard"] else None,
        check=not values["no_check"],
        plots=not values["no_plots"],
    )


def _key(option: str) -> str:
    return option.replace("-", "_")


class _Teller:
    """Shows a run on the terminal."""

    def __init__(self, progress: "TrainProgress") -> None:
        self._progress = progress
        self.report = progress.report
        self.note = progress.note
        self.work = progress.work

    def resume(self, run: Path) -> None:
        """Have the best and the last validation of a run that goes on on the screen from the start."""
        from birefnet.training.log import read_log

        self._progress.recall(read_log(run))


def _tell(ending: str, run: Path) -> None:
    best = run / "best.safetensors"
    weights = best if best.exists() else run / "model.safetensors"
    said = {
        "finished": "all steps are taken",
        "no-better": "stopped early: validations became no better",
        "time": "stopped after the time given",
        "signal": "stopped by a signal",
    }[ending]
    click.echo(f"{said}: {run}")
    if ending in ("time", "signal"):
        click.echo(f"go on with  birefnet train --resume {run}")
    click.echo(f"try it with  birefnet cutout PHOTO --model {weights}")
