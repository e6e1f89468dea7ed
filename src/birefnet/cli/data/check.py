"""`birefnet data check`: all that is the matter with photos and masks."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from click import ClickException

from birefnet.cli.data.options import HELP, choosing, find
from birefnet.cli.data.output import STOPPED, STREAM, counted, printable, say, write_json
from birefnet.cli.progress import shown_progress
from birefnet.data.check import KINDS, SMALLEST, check_pairs, sort_problems
from birefnet.data.pairs import Found, Problem, discover
from birefnet.errors import BiRefNetError


@click.command(context_settings=HELP)
@choosing
@click.option("--val", metavar="SPEC", help="Data to validate on: checked too, and for photos that both hold.")
@click.option("--binary", is_flag=True, help="Report masks with levels between 0 and 255.")
@click.option(
    "--smallest",
    type=click.IntRange(min=1),
    default=SMALLEST,
    show_default=True,
    metavar="PX",
    help="Report photos with a shorter side.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
def check(
    spec: str | None,
    images: Path | None,
    masks: Path | None,
    jobs: int | None,
    output: str | None,
    val: str | None,
    binary: bool,
    smallest: int,
    strict: bool,
) -> None:
    """List all that is the matter with a data set: what does not match, cannot be read, differs in size, is empty.

    SPEC is explained in  birefnet data --help . Errors would stop a training or spoil it; warnings are worth a look.
    The exit status is 1 where there are errors.
    """
    try:
        found = find(spec, images, masks)
        held_out = discover(val) if val is not None else Found(())
        with shown_progress(len(found.pairs) + len(held_out.pairs), "check", STOPPED) as advance:
            seen = check_pairs(
                found.pairs, held_out.pairs, binary=binary, smallest=smallest, jobs=jobs, advance=advance
            )
        problems = sort_problems([*found.problems, *held_out.problems, *seen])
        for note in (*found.notes, *held_out.notes):
            say(note)
        if output is not None:
            write_json(output, _as_json(found, held_out, problems))
    except BiRefNetError as error:
        raise ClickException(printable(str(error))) from error
    errors = sum(problem.stops for problem in problems)
    if output != STREAM:
        _show_problems(problems)
        more = f" and {len(held_out.pairs)} to validate on" if val is not None else ""
        warnings = len(problems) - errors
        click.echo(
            f"{counted(len(found.pairs), 'pair')}{more}: {counted(errors, 'error')}, {counted(warnings, 'warning')}"
        )
    if errors or (strict and problems):
        raise SystemExit(1)


def _as_json(found: Found, held_out: Found, problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "pairs": len(found.pairs),
        "validation": len(held_out.pairs),
        "notes": [*found.notes, *held_out.notes],
        "errors": sum(problem.stops for problem in problems),
        "warnings": sum(not problem.stops for problem in problems),
        "problems": [vars(problem) for problem in problems],
    }


def _show_problems(problems: Sequence[Problem]) -> None:
    """Print every problem, kind by kind."""
    for (stops, kind), members in groupby(problems, key=lambda p: (p.stops, p.kind)):
        files = list(members)
        title = f"{'error' if stops else 'warning'} {kind} ({len(files)}): {KINDS[kind]}"
        click.secho(title, fg="red" if stops else "yellow", bold=True)
        for problem in files:
            click.echo(printable(f"  {problem.file}: {problem.detail}"))
