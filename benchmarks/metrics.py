"""Compare the speed of our measures with PySODMetrics: python benchmarks/metrics.py.

Needs the extra `eval`. Both score the same made-up masks with thin structures: PySODMetrics what it has of the field's
measures (S, MAE, E, F, weighted F, HCE) in one process, ours those and also MSE, mean boundary accuracy and boundary
IoU, in one process and in several. In one process they take turns at each mask, so that both meet the same load of the
machine; values are checked to be equal. Then ours are timed at 1, 4 and 16 megapixels.
"""

import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import py_sod_metrics
from numpy.typing import NDArray

from birefnet.metrics import MASK_MEASURES, MATTE_MEASURES, MEASURES, PYSODMETRICS, Scorer

Mask = NDArray[np.uint8]
Times = dict[str, list[float]]

COMMON = ("S", "MAE", "E", "F", "wF", "HCE")


def scene(height: int, width: int, seed: int) -> tuple[Mask, Mask]:
    """A prediction, soft, noisy, lost in part, and its truth: a body with holes, lines and rings of a few pixels."""
    random = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.uint8)
    size = min(height, width)
    centre = (int(width * random.uniform(0.35, 0.65)), int(height * random.uniform(0.4, 0.6)))
    axes = (int(size * random.uniform(0.2, 0.35)), int(size * random.uniform(0.2, 0.35)))
    cv2.ellipse(truth, centre, axes, int(random.integers(180)), 0, 360, 255, -1)
    places = random.integers(0, [width, height], (60, 2, 2)).tolist()
    for start, end in places:
        cv2.line(truth, start, end, 255, int(random.integers(1, 5)))
    for place in random.integers(0, [width, height], (40, 2)).tolist():
        cv2.circle(truth, place, int(size * random.uniform(0.01, 0.06)), 255, int(random.integers(1, 4)))
    for place in random.integers(0, [width, height], (8, 2)).tolist():
        cv2.circle(truth, place, int(size * random.uniform(0.003, 0.03)), 0, -1)
    coarse = random.standard_normal((height // 8, width // 8)).astype(np.float32)
    field = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 2), (width, height))
    unit = np.asarray(field / field.std(), np.float32)
    prediction = cv2.GaussianBlur(truth, (0, 0), 2).astype(np.float32) + 25 * unit
    prediction[(truth > 0) & (unit > 1.7)] = 20
    prediction[(truth == 0) & (unit > 2.6)] = 230
    return prediction.clip(0, 255).astype(np.uint8), truth


def theirs(prediction: Mask, truth: Mask, times: Times) -> dict[str, float]:
    """Measure a pair with PySODMetrics and note the time of each measure."""
    f = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    measures: dict[str, Any] = {
        "S": py_sod_metrics.Smeasure(),
        "MAE": py_sod_metrics.MAE(),
        "E": py_sod_metrics.Emeasure(),
        "F": py_sod_metrics.FmeasureV2({"f": f}),
        "wF": py_sod_metrics.WeightedFmeasure(),
        "HCE": py_sod_metrics.HumanCorrectionEffortMeasure(),
    }
    results: dict[str, Any] = {}
    for name, measure in measures.items():
        times[f"theirs {name}"].append(timed(measure.step, prediction, truth))
        results |= measure.get_results()
    e, fm = results["em"], results["f"]
    values = {"S": results["sm"], "MAE": results["mae"], "wF": results["wfm"], "HCE": results["hce"]}
    values |= {"maxE": e["curve"].max(), "meanE": e["curve"].mean(), "adpE": e["adp"]}
    values |= {"maxF": fm["dynamic"].max(), "meanF": fm["dynamic"].mean(), "adpF": fm["adaptive"]}
    return values


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Do something and tell the seconds that it took."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def score_files(paths: list[Path]) -> Scorer:
    """Score some stored pairs, as one of several processes."""
    cv2.setNumThreads(1)  # the processes share the cores
    scorer = Scorer()
    for path in paths:
        with np.load(path) as pair:
            scorer.update(pair["prediction"], pair["truth"])
    return scorer


def peak_memory(who: str, path: Path) -> int:
    """MiB that scoring a stored pair adds to a new process, at its peak; on Linux only."""
    with np.load(path) as pair:
        prediction, truth = pair["prediction"], pair["truth"]
    before = memory("VmRSS")
    if who == "ours":
        Scorer().update(prediction, truth)
    else:
        theirs(prediction, truth, defaultdict(list))
    return memory("VmHWM") - before


def memory(field: str) -> int:
    """A field of what the kernel tells of this process, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) // 1024
    raise click.ClickException("the kernel does not tell how much memory a process takes")


@click.command()
@click.option("--masks", default=40, show_default=True, help="How many.")
@click.option("--height", default=2000, show_default=True)
@click.option("--width", default=3000, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Processes on our side.")
def main(masks: int, height: int, width: int, jobs: int) -> None:
    """Print speeds, as Markdown tables."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(jobs, spawn) as pool:
        paths = []
        for seed in range(masks):
            prediction, truth = scene(height, width, seed)
            paths.append(Path(folder) / f"{seed}.npz")
            np.savez(paths[-1], prediction=prediction, truth=truth)
        compare(paths, Path(folder) / "skeletons", pool, jobs)
        click.echo()
        for who in ("ours", "theirs"):
            with ProcessPoolExecutor(1, spawn) as one:
                click.echo(
                    f"Peak memory of {who}, beyond the images: {one.submit(peak_memory, who, paths[0]).result()} MiB"
                )
    click.echo()
    scaling()


def compare(paths: list[Path], cache: Path, pool: ProcessPoolExecutor, jobs: int) -> None:
    """Time both on stored pairs, and check that they agree."""
    cache.mkdir()
    times: Times = defaultdict(list)
    difference = 0.0
    for path in paths:
        with np.load(path) as pair:
            prediction, truth = pair["prediction"], pair["truth"]
        expected = theirs(prediction, truth, times)
        for name, measure in MEASURES.items():
            if name in MASK_MEASURES:
                times[f"alone {name}"].append(timed(measure().update, prediction, truth))
        times["all"].append(timed(Scorer().update, prediction, truth))
        Scorer(["HCE"], cache=cache).update(prediction, truth)
        times["HCE cached"].append(timed(Scorer(["HCE"], cache=cache).update, prediction, truth))
        values = Scorer(COMMON, PYSODMETRICS).update(prediction, truth)
        difference = max([difference, *(abs(values[name] - value) for name, value in expected.items())])
    list(pool.map(score_files, [paths[:1]] * jobs))  # start the processes
    shares = [paths[job::jobs] for job in range(jobs)]
    start = time.perf_counter()
    merged, *others = pool.map(score_files, shares)
    for scorer in others:
        merged.merge(scorer)
    together = time.perf_counter() - start
    assert merged.images == len(paths)

    mean = {name: sum(seconds) / len(paths) for name, seconds in times.items()}
    total = sum(mean[f"theirs {name}"] for name in COMMON)
    rows = [(name, mean[f"theirs {name}"], mean[f"alone {name}"]) for name in COMMON]
    rows.append(("HCE, skeleton cached", mean["theirs HCE"], mean["HCE cached"]))
    rows.append(("all, one process", total, mean["all"]))
    rows.append((f"all, {jobs} processes", total, together / len(paths)))
    click.echo(f"{len(paths)} masks; seconds a mask. `all` of ours has MSE, mBA and BIoU too.\n")
    click.echo("| measure | PySODMetrics | ours | ratio |\n|---|---|---|---|")
    for name, slow, quick in rows:
        click.echo(f"| {name} | {slow:.4f} | {quick:.4f} | {slow / quick:.1f} |")
    for name in sorted(set(MASK_MEASURES) - set(COMMON)):
        click.echo(f"| {name} | – | {mean[f'alone {name}']:.4f} | |")
    click.echo(f"\nGreatest difference of any value: {difference:.1e}")


def scaling() -> None:
    """Time ours at growing sizes of one scene."""
    click.echo("| megapixels | seconds, masks | a megapixel | seconds, mattes | a megapixel |\n|---|---|---|---|---|")
    for side in (1000, 2000, 4000):
        prediction, truth = scene(side, side, seed=0)
        area = side * side / 1e6
        cells = [f"{area:.0f}"]
        for measures in (MASK_MEASURES, MATTE_MEASURES):
            best = min(timed(Scorer(measures).update, prediction, truth) for _ in range(3))
            cells += [f"{best:.3f}", f"{best / area:.3f}"]
        click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
