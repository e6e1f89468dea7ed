"""`birefnet evaluate checkpoints`: which weights of a training run are the best."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click import ClickException

from birefnet import __version__
from birefnet.cli.evaluate.options import HELP, PATH, Common, read_data, refuse_twins, running
from birefnet.cli.evaluate.output import STOPPED, STREAM, conclude, forget_predictions, say, show, write
from birefnet.cli.progress import shown_progress
from birefnet.errors import BiRefNetError, DataError, OutputError
from birefnet.evaluation.checkpoints import copy_weights, find_checkpoints, rank
from birefnet.evaluation.model import Model, open_model
from birefnet.evaluation.results import to_json
from birefnet.evaluation.run import conventions_of, count_units, evaluate_entries
from birefnet.evaluation.score import VALUES, Settings
from birefnet.evaluation.sets import (
    Entry,
    TruthSet,
    match_photos,
)
from birefnet.evaluation.tables import (
    choose_measures,
    shown,
    summary_table,
)


@click.command(context_settings=HELP)
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--data", multiple=True, required=True, metavar="[NAME=]DIR", help="Data set with im/ and gt/; repeatable."
)
@click.option("--measure", default="wF", show_default=True, metavar="NAME", help="Measure that tells the best.")
@click.option("--link", type=PATH, metavar="FILE", help="Copy the best weights to this file.")
@running
def checkpoints(run: Path, data: tuple[str, ...], measure: str, link: Path | None, **common: Any) -> None:
    """Score all weights (.safetensors, .pth) of a training run, and name the best.

    With several data sets the mean over these decides. A file that does not load is reported at the end, and the
    others are scored all the same; the exit status is 1 then.
    """
    options = Common(**common)
    failures: list[str] = []
    try:
        truths = [found for text in data for found in read_data(text)]
        refuse_twins([found.name for found in truths], "sets", "--data NAME=DIR")
        (judge,) = choose_measures(measure, VALUES)[:1]
        settings = options.settings(truths, also=[judge])
        found = [path for path in find_checkpoints(run) if link is None or path.resolve() != link.resolve()]
        if not found:
            raise DataError(f"{run}: holds no weights but {link}")
        if link is not None and link.suffix not in {path.suffix for path in found}:
            raise click.UsageError(f"--link {link}: must end as the weights do, {found[0].suffix}")
        rows: list[dict[str, Any]] = []
        content: dict[str, Any] = {"birefnet": __version__, "conventions": conventions_of(settings)}
        content |= {"measures": list(settings.measures), "how": asdict(options.how), "rows": rows}
        for path in found:
            try:
                rows += score_checkpoint(path, path.relative_to(run).as_posix(), truths, settings, options)
            except BiRefNetError as error:
                failures.append(str(error))
        ranked = rank(rows, judge)
        places = {name: place for place, (name, _) in enumerate(ranked)}
        rows.sort(key=lambda row: places.get(row["method"], len(places)))
        if options.output is not None:
            write(options.output, to_json(content))
        if options.output != STREAM and rows:
            show(summary_table(content))
        if ranked:
            name, mean = ranked[0]
            say(f"best by {judge}: {run / name} ({shown(judge, mean)})")
            if link is not None:
                if link.suffix != (run / name).suffix:
                    raise OutputError(f"{link}: the best weights are {run / name}; end the name as theirs")
                copy_weights(run / name, link)
                say(f"copied to {link}")
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    conclude(content, options, failures)


def score_checkpoint(
    path: Path, name: str, truths: Sequence[TruthSet], settings: Settings, options: Common
) -> list[dict[str, Any]]:
    """Score one weights file on some sets.

    Raises:
        BiRefNetError: it does not load.
    """
    with tempfile.TemporaryDirectory(prefix="birefnet-") as scratch:
        opened = open_model(path, options.how, Path(scratch), tell=lambda note: say(f"{name}: {note}"))
        entries: list[tuple[Entry, Model | None]] = [
            (entry, opened) for found in truths for entry in options.parted(match_photos(name, found))
        ]
        with shown_progress(count_units(entries), name, STOPPED) as advance:
            results = evaluate_entries(entries, settings, jobs=options.jobs, cache=options.kept, advance=advance)
        forget_predictions(results, Path(scratch))
    rows: list[dict[str, Any]] = results["rows"]
    return rows
