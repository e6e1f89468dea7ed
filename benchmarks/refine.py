"""Score the closer looks at large photos: python benchmarks/refine.py --data DIR [--model NAME] [--size N].

Each photo of DIR/im that is at least 1.25 times as large as the network's input is predicted twice, by a single look
and with `refine`, each mirrored as well where the model says so, and both are scored against DIR/gt (foreground above
127): mean boundary accuracy, maximal F-measure of the mean curve, weighted F-measure and mean absolute error. A small
input makes the same photos large relative to it.
Without --data, a drawing of 3000 x 2000 pixels goes through a network that is perfect at its own resolution: what the
looks restore when it makes no mistakes.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import birefnet
from birefnet import BiRefNetError
from birefnet.config import InputSpec
from birefnet.data.pairs import Pair, find_pairs
from birefnet.engines.base import Engine
from birefnet.engines.testing import FakeEngine
from birefnet.imaging.io import read_photo
from birefnet.metrics import Conventions, Scorer
from birefnet.predictor import Predictor, looks


class Counted:
    """An engine that counts its runs and the time they take.

    Attributes:
        images: how many images went through it.
        precision: that of the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.precision = engine.precision
        self.images = 0

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) -> (N, 1, H, W)."""
        self.images += len(images)
        return self.engine(images)


class Perfect:
    """A network without mistakes: what is brighter than half is foreground, decided at its own resolution.

    Attributes:
        precision: that of the brightness.
    """

    def __init__(self) -> None:
        self.brightness = FakeEngine()
        self.precision = self.brightness.precision

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) -> (N, 1, H, W)."""
        return (self.brightness(images) > 0.5).astype(np.float32)


@dataclass
class Score:
    """How well photos were predicted, and at what cost."""

    scorer: Scorer
    images: int = 0
    seconds: float = 0.0

    def merge(self, other: "Score") -> None:
        """Take in other photos."""
        self.scorer.merge(other.scorer)
        self.images += other.images
        self.seconds += other.seconds


def no_score() -> Score:
    """A score of no photos yet."""
    return Score(Scorer(["mBA", "F", "wF", "MAE"], Conventions(truth_above=127)))


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder with im/ and gt/.")
@click.option("--model", default="nano", show_default=True, help="Model, or weights file.")
@click.option("--size", type=int, help="Side of the network's input; by default what the weights say.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes.")
def main(data: Path | None, model: str, size: int | None, jobs: int) -> None:
    """Print the scores of MODEL on DATA with and without closer looks, or those of a perfect network on a drawing."""
    if data is None:
        click.echo(drawn())
        return
    try:
        predictor = birefnet.load(model, size=size)
        pairs = [pair for pair in find_pairs(data) if looks(size_of(pair), predictor.spec.size_of(*size_of(pair)))]
    except BiRefNetError as error:
        raise click.ClickException(str(error)) from error
    height, width = predictor.spec.size
    click.echo(f"{model}, {len(pairs)} photos of {data.name} larger than the input, {height} x {width}\n")
    context = multiprocessing.get_context("spawn")  # a forked runtime may hang in its thread pool
    with ProcessPoolExecutor(jobs, context, initializer=start_worker, initargs=(model, size)) as pool:
        scores = list(pool.map(score_pair, pairs, chunksize=4))
    click.echo(table(scores))


def size_of(pair: Pair) -> tuple[int, int]:
    """Tell the (height, width) of a photo without decoding it."""
    with Image.open(pair.image) as file:
        return file.height, file.width


_predictor: Predictor


def start_worker(model: str, size: int | None) -> None:
    """Load the network once in each process."""
    global _predictor  # the one way to hand an initialiser's result to the calls
    cv2.setNumThreads(1)  # the processes share the cores
    _predictor = birefnet.load(model, size=size)
    _predictor.engine = Counted(_predictor.engine)


def score_pair(pair: Pair) -> tuple[str, Score, Score]:
    """Predict a photo by a single run and with closer looks, and score both; returns its source too."""
    with Image.open(pair.mask) as file:
        truth = np.asarray(file.convert("L"))
    photo = read_photo(pair.image)
    single, refined = (score(_predictor, photo.rgb, truth, refine=refine) for refine in (False, True))
    return pair.source, single, refined


def score(predictor: Predictor, rgb: NDArray[np.uint8], truth: NDArray[np.uint8], *, refine: bool) -> Score:
    """Predict a photo and score the prediction as an 8-bit map.  (H, W, 3), (H, W)."""
    engine = predictor.engine
    assert isinstance(engine, Counted)
    before, started = engine.images, time.perf_counter()
    alpha = predictor.predict(rgb, refine=refine).alpha
    result = no_score()
    result.seconds = time.perf_counter() - started
    result.images = engine.images - before
    result.scorer.update(alpha, truth)
    return result


def table(scores: list[tuple[str, Score, Score]]) -> str:
    """Average the scores, in all and by source, as a Markdown table."""
    rows = [
        "| photos | number | looks | mBA | maxF | wF | MAE | runs | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sources = sorted({source for source, _, _ in scores})
    for name in ["all", *(sources if len(sources) > 1 else [])]:
        single, refined = no_score(), no_score()
        for source, one, closer in scores:
            if name in ("all", source):
                single.merge(one)
                refined.merge(closer)
        rows += [row(name, "one", single), row(name, "closer", refined)]
    return "\n".join(rows)


def row(name: str, how: str, score: Score) -> str:
    """Write a score as one row."""
    values, count = score.scorer.compute(), score.scorer.images
    figures = " | ".join(f"{values[measure]:.4f}" for measure in ("mBA", "maxF", "wF", "MAE"))
    return f"| {name} | {count} | {how} | {figures} | {score.images / count:.1f} | {score.seconds / count:.2f} |"


def drawn() -> str:
    """Score a perfect network of several input sizes on a drawing with straight, round and thin parts."""
    photo = np.zeros((2000, 3000, 3), np.uint8)
    white = (255, 255, 255)
    cv2.circle(photo, (1500, 1000), 500, white, -1)
    for angle in range(0, 360, 6):  # spokes, 24 to 1 pixels thick
        x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        thickness = 24 >> (angle // 6 % 5)
        end = round(1500 + 900 * x), round(1000 + 900 * y)
        cv2.line(photo, (round(1500 + 450 * x), round(1000 + 450 * y)), end, white, thickness)
    cv2.rectangle(photo, (100, 100), (500, 600), white, 9)
    truth = photo[..., 0]
    rows = ["| input | looks | mBA | maxF | wF | MAE | runs | seconds |", "|---|---|---|---|---|---|---|---|"]
    for side in (256, 512, 1024):
        predictor = Predictor(Counted(Perfect()), InputSpec(size=(side, side)))
        for refine, how in ((False, "one"), (True, "closer")):
            line = row("", how, score(predictor, photo, truth, refine=refine))
            rows.append(f"| {side} | " + line.split(" | ", 2)[2])
    return "\n".join(rows)


if __name__ == "__main__":
    main()
