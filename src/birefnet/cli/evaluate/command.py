"""`birefnet evaluate`: how good predictions or a model are."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import click
from click import ClickException

from birefnet.cli.evaluate.checkpoints import checkpoints
from birefnet.cli.evaluate.compare import compare
from birefnet.cli.evaluate.options import HELP, PATH, Common, part, read_data, refuse_twins, running
from birefnet.cli.evaluate.output import STOPPED, STREAM, conclude, forget_predictions, say, show, write
from birefnet.cli.progress import shown_progress
from birefnet.errors import BiRefNetError
from birefnet.evaluation.model import Model, open_model
from birefnet.evaluation.report import write_report
from birefnet.evaluation.results import to_json
from birefnet.evaluation.run import count_units, evaluate_entries
from birefnet.evaluation.sets import (
    Entry,
    match_photos,
    match_predictions,
    named_set,
)
from birefnet.evaluation.tables import (
    comma_separated,
    latex,
    markdown,
    summary_table,
)


class Evaluate(click.Command):
    """Scores, unless the first word names one of its commands."""

    commands: ClassVar[dict[str, click.Command]] = {"checkpoints": checkpoints, "compare": compare}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Hand over to a command where the first word names one."""
        if args and args[0] in self.commands:
            command = self.commands[args[0]]
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run what the context was made for."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands after the options."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in self.commands.items()])
        super().format_epilog(ctx, formatter)


@click.command(cls=Evaluate, context_settings=HELP)
@click.argument("predictions", nargs=-1, metavar="[PRED]...", type=PATH)
@click.option("--truth", type=PATH, metavar="GT", help="Folder of the truth masks, or one that holds them in gt/.")
@click.option("--method", "methods", multiple=True, metavar="NAME=PRED", help="Predictions under a name of their own.")
@click.option("--set", "sets", multiple=True, metavar="NAME=GT", help="A truth under a name of its own; repeatable.")
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]DIR",
    help="A data set with photos in im/ and masks in gt/, or a folder of such sets (ROOT/TASK/SET); repeatable.",
)
@click.option("--model", metavar="NAME", help="Model to predict with, as in 'birefnet cutout'.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights to predict with: .safetensors, .pth, .onnx, .xml.")
@click.option("--save-masks", type=PATH, metavar="DIR", help="Keep the model's predictions, as DIR/SET/NAME.png.")
@running
@click.option("--csv", metavar="FILE", help="Write each image's values as CSV; - for standard output.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the table as Markdown; - as above.")
@click.option("--latex", "latex_file", metavar="FILE", help="Write the table as LaTeX; - as above.")
@click.option("--report", type=PATH, metavar="DIR", help="Write a report to open in a browser.")
@click.option(
    "--cases",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    metavar="N",
    help="Images the report has pictures of, half of them the worst and half the best; 0 for all.",
)
def evaluate(
    predictions: tuple[Path, ...],
    truth: Path | None,
    methods: tuple[str, ...],
    sets: tuple[str, ...],
    data: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    save_masks: Path | None,
    csv: str | None,
    markdown_file: str | None,
    latex_file: str | None,
    report: Path | None,
    cases: int,
    **common: Any,
) -> None:
    """Score predictions, or a model, against truth masks.

    PRED is a folder of predicted maps, matched with the masks of --truth, --set or --data by their names without
    suffix; of several sets, each in a folder of its name. With --model or --weights, the photos of --data are
    predicted and scored at the same time.

    The table has the columns of the task's papers. What is scored is kept, so that the same command goes on after an
    interruption, and computes nothing twice. Files that are missing, differ in size, or had to be converted are
    counted at the end and all listed in the results; the exit status is 1 where an image could not be scored.
    """
    options = Common(**common)
    streams = [name for name in (csv, markdown_file, latex_file, options.output) if name == STREAM]
    if len(streams) > 1:
        raise click.UsageError(f"{STREAM}: only one thing can go to standard output")
    if model is not None and weights is not None:
        raise click.UsageError("--model and --weights exclude each other")
    chosen = weights if weights is not None else model
    if save_masks is not None and chosen is None:
        raise click.UsageError("--save-masks goes with --model or --weights")
    if not predictions and not methods and chosen is None:
        raise click.UsageError("nothing to score: name predictions, --method NAME=PRED, --model or --weights")
    if truth is None and not sets and not data:
        raise click.UsageError("nothing to score against: name --truth GT, --set NAME=GT or --data DIR")
    named = [(path.resolve().stem if path.is_file() else path.resolve().name, path) for path in predictions]
    named += [part(text, "--method") for text in methods]
    try:
        truths = [] if truth is None else [named_set(None, truth)]
        truths += [named_set(*part(text, "--set")) for text in sets]
        truths += [found for text in data for found in read_data(text)]
        called = weights.stem if weights is not None else str(model)
        names = [name for name, _ in named] + [called] * (chosen is not None)
        refuse_twins(names, "methods", "--method NAME=PRED")
        refuse_twins([found.name for found in truths], "sets", "--set NAME=GT or --data NAME=DIR")
        settings, cache = options.settings(truths), options.kept
        with tempfile.TemporaryDirectory(prefix="birefnet-") as scratch:
            entries: list[tuple[Entry, Model | None]] = [
                (entry, None)
                for name, folder in named
                for found in truths
                for entry in options.parted(match_predictions(name, folder, found, only=len(truths) == 1))
            ]
            if chosen is not None:
                kept = save_masks or (None if report is None else report / "masks")
                opened = open_model(chosen, options.how, kept or Path(scratch), keep=kept is not None, tell=say)
                entries += [(e, opened) for found in truths for e in options.parted(match_photos(called, found))]
            with shown_progress(count_units(entries), "evaluate", STOPPED) as advance:
                results = evaluate_entries(entries, settings, jobs=options.jobs, cache=cache, advance=advance)
            if chosen is not None:
                results["how"] = asdict(options.how)
            if report is not None:
                say(f"report: {write_report(results, report, cases=cases)}")
        forget_predictions(results, Path(scratch))
        table = summary_table(results)
        if options.output is not None:
            write(options.output, to_json(results))
        if csv is not None:
            write(csv, comma_separated(results))
        if markdown_file is not None:
            write(markdown_file, markdown(table))
        if latex_file is not None:
            write(latex_file, latex(results))
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    if not streams:
        show(table)
    conclude(results, options)
