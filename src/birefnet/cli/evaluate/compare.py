"""`birefnet evaluate compare`: how two evaluations differ, image by image."""

from pathlib import Path

import click
from click import ClickException

from birefnet.cli.evaluate.options import HELP, PATH
from birefnet.cli.evaluate.output import say, show
from birefnet.errors import BiRefNetError
from birefnet.evaluation.compare import (
    RESAMPLES,
    Difference,
    compare_images,
    differing_conventions,
    paired_rows,
    values_of,
)
from birefnet.evaluation.results import read_results
from birefnet.evaluation.tables import (
    Table,
    choose_measures,
    shown,
)

_CHANGES = 5


@click.command(context_settings=HELP)
@click.argument("first_file", metavar="A.json", type=PATH)
@click.argument("second_file", metavar="B.json", type=PATH)
@click.option(
    "--measure", "measures", multiple=True, metavar="NAME", help="Measure to compare.  [default: all in both]"
)
@click.option("--first", metavar="METHOD", help="Method of A.json, where it has several.")
@click.option("--second", metavar="METHOD", help="Method of B.json, which may be the same file.")
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Of the interval.")
@click.option(
    "--resamples", type=click.IntRange(100, 1_000_000), default=RESAMPLES, show_default=True, help="Of the bootstrap."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--largest", type=click.IntRange(min=0), default=_CHANGES, show_default=True, help="Most changed images to name."
)
def compare(
    first_file: Path,
    second_file: Path,
    measures: tuple[str, ...],
    first: str | None,
    second: str | None,
    level: float,
    resamples: int,
    seed: int,
    largest: int,
) -> None:
    """Compare two evaluations, image by image.

    The mean difference B - A over the images that both have, with its bootstrap interval, and the share of images in
    which B is better. Maxima over thresholds are those of each image here, so their means differ from the tables',
    which are the maximum of the mean curve.
    """
    try:
        before, after = read_results(first_file), read_results(second_file)
        shared = [name for name in before.content["measures"] if name in after.content["measures"]]
        chosen = choose_measures(",".join(measures), shared) if measures else shared
        for line in differing_conventions(before, after):
            say(f"the conventions differ, so the values may not be comparable: {line}")
        pairs = paired_rows(before, after, (first, second))
        rows, changes = [], []
        for old, new in pairs:
            if old["set"] != new["set"]:
                say(f"{old['set']} and {new['set']} are compared by the names of their images: are they the same set?")
            for name in chosen:
                values = values_of(old, name), values_of(new, name)
                found = compare_images(*values, name, level=level, resamples=resamples, seed=seed, largest=largest)
                rows.append([old["set"], *difference_cells(found)])
                listed = ", ".join(f"{image} {shown(name, change, sign=True)}" for image, change in found.changes)
                changes += [f"{old['set']}, {name}: {listed}"] * bool(listed)
            lonely = {image["name"] for image in old["images"]} ^ {image["name"] for image in new["images"]}
            if lonely:
                say(f"{old['set']}: {len(lonely)} images are in one of the results only and left out")
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    names = [str(row["method"]) for row in pairs[0]]
    names = names if names[0] != names[1] else ["A", "B"]
    header = [
        "set",
        "measure",
        "images",
        *names,
        "difference",
        f"{level:.1%} interval".replace(".0%", "%"),
        "better",
        "verdict",
    ]
    show(Table(header, rows, 2))
    if changes:
        click.echo("\nlargest changes")
        for line in changes:
            click.echo(line)


def difference_cells(found: Difference) -> list[str]:
    """Write a difference as the cells of a table's row."""
    name = found.measure
    interval = " to ".join(shown(name, end, sign=True) for end in (found.low, found.high))
    means = [shown(name, found.first), shown(name, found.second), shown(name, found.mean, sign=True)]
    return [name, str(found.count), *means, interval, f"{found.better:.0%}", found.verdict]
