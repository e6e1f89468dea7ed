"""Score a network on photos with known masks: python benchmarks/quality.py --weights FILE --data DIR.

Needs the extras `torch` and `eval`. Each photo of DIR/im goes through the predictor that the command line uses; its
alpha, at the size of the truth in DIR/gt (foreground above 127), is scored as 8-bit map with PySODMetrics: maximal
F-measure of the mean curve (beta² 0.3), S-measure, weighted F-measure and mean absolute error. Sources are told
apart by the part of a name before the first "-".
"""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from py_sod_metrics import MAE, FmeasureHandler, FmeasureV2, Smeasure, WeightedFmeasure

import birefnet
from birefnet import BiRefNetError
from birefnet.data.pairs import Pair, find_pairs
from birefnet.imaging.postprocess import restore
from birefnet.predictor import Predictor


@dataclass(frozen=True)
class Score:
    """How well one photo was predicted; `curve` is the F-measure at each of 256 thresholds."""

    source: str
    mae: float
    s: float
    weighted_f: float
    curve: NDArray[np.float64]


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Weights file.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with im/ and gt/.")
@click.option("--size", type=int, help="Side of the square to predict at; by default what the weights say.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes.")
def main(weights: Path, data: Path, size: int | None, jobs: int) -> None:
    """Print the scores of WEIGHTS on DATA as a Markdown table, in all and by source."""
    try:
        pairs = find_pairs(data)
        predictor = birefnet.load(weights, size=size)  # here too, so that a wrong file is reported once and at once
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error
    height, width = predictor.spec.size
    click.echo(f"{weights.name}, {len(pairs)} photos of {data.name}, input {height} x {width}\n")
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    with ProcessPoolExecutor(jobs, context, initializer=start_worker, initargs=(weights, size)) as pool:
        scores = list(pool.map(score_pair, pairs, chunksize=4))
    click.echo(table(scores))


_predictor: Predictor


def start_worker(weights: Path, size: int | None) -> None:
    """Load the network once in each process, which has one thread: the processes share the cores."""
    global _predictor  # the one way to hand an initialiser's result to the calls
    torch.set_num_threads(1)
    _predictor = birefnet.load(weights, size=size)


def score_pair(pair: Pair) -> Score:
    """Predict a photo and score the prediction."""
    with Image.open(pair.mask) as file:
        truth = np.where(np.asarray(file.convert("L")) > 127, 255, 0).astype(np.uint8)
    alpha = _predictor.predict(pair.image).alpha
    prediction = np.rint(restore(alpha, (truth.shape[0], truth.shape[1])) * 255).astype(np.uint8)
    f = FmeasureV2({"f": FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3)})
    mae, s, weighted_f = MAE(), Smeasure(), WeightedFmeasure()
    for measure in (f, mae, s, weighted_f):
        measure.step(prediction, truth)
    return Score(
        source=pair.source,
        mae=float(mae.get_results()["mae"]),
        s=float(s.get_results()["sm"]),
        weighted_f=float(weighted_f.get_results()["wfm"]),
        curve=np.asarray(f.get_results()["f"]["dynamic"], np.float64),
    )


def table(scores: list[Score]) -> str:
    """Average the scores, in all and by source, as a Markdown table."""
    rows = ["| photos | number | maxF | S | wF | MAE |", "|---|---|---|---|---|---|", row("all", scores)]
    sources = sorted({score.source for score in scores})
    if len(sources) > 1:
        rows += [row(source, [score for score in scores if score.source == source]) for source in sources]
    return "\n".join(rows)


def row(name: str, scores: list[Score]) -> str:
    """Average some scores as one row."""
    max_f = float(np.mean([score.curve for score in scores], axis=0).max())
    figures = (max_f, *(mean(getattr(score, field) for score in scores) for field in ("s", "weighted_f", "mae")))
    return f"| {name} | {len(scores)} | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |"


def mean(values: Iterable[float]) -> float:
    """Average some numbers."""
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main()
