"""The log of a run as curves; needs no torch."""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from birefnet._atomic import write_whole
from birefnet._extras import require
from birefnet.errors import DataError
from birefnet.training.log import (
    NO_LOSSES,
    Line,
    duration,
    flattened,
    is_lower_better,
    read_log,
    training_lines,
    validation_lines,
)

CURVES = "curves.png"

Numbers = NDArray[np.float64]

# The palette of Okabe and Ito, which colour-blind people can tell apart; black is the sum of the losses.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A800")

_POINTS_SMOOTHED = 40  # about so many independent points are left of a curve
_MOST_SIZES = 6
_MUCH_LARGER = 5
_HEADROOM = 0.25


def plot_curves(run: Path) -> Path:
    """Draw the log of a run: losses, validation, learning rate, gradient and speed over the steps.

    Faint lines are what the log holds, strong ones are smoothed. A dotted vertical line marks where the run was
    resumed.

    Returns:
        The file, curves.png in the folder of the run.

    Raises:
        DataError: there is no such folder, or the log is damaged.
        OutputError: the picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such folder: name the folder of a run")
    lines = read_log(run)
    # Figures of its own and a canvas without a screen: nothing of matplotlib's global state is touched.
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(16, 8.4), layout="constrained")
    require("matplotlib.backends.backend_agg", extra="train").FigureCanvasAgg(figure)
    trained, validated = training_lines(lines), validation_lines(lines)
    panels: Sequence[tuple[str, Callable[[Any], None]]] = (
        ("losses", lambda axes: _draw_losses(axes, trained)),
        ("validation: higher is better", lambda axes: _draw_validation(axes, validated, lower=False)),
        ("validation: lower is better", lambda axes: _draw_validation(axes, validated, lower=True)),
        ("learning rate", lambda axes: _draw_rate(axes, trained)),
        ("norm of the gradient", lambda axes: _draw_norm(axes, trained)),
        ("images a second", lambda axes: _draw_speed(axes, trained)),
    )
    resumed = sorted({line["step"] for line in lines if line.get("event") == "resumed"})
    last = max((line["step"] for line in lines), default=0)
    for axes, (title, draw) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="#7F7F7F")
            axes.tick_params(labelleft=False, labelbottom=False)
            continue
        axes.set_xlim(0, max(1, last) * 1.02)
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(_thousands)
        for step in resumed:
            axes.axvline(step, color="#7F7F7F", linewidth=1, linestyle=":", zorder=0)
    figure.suptitle(_headline(trained, validated, len(resumed)), fontsize=13, x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_whole(run / CURVES, buffer.getvalue())
    return run / CURVES


def _draw_losses(axes: Any, lines: Sequence[Line]) -> None:
    """The loss and its terms; on a log scale, where all are above 0, because terms differ by orders of magnitude."""
    names = [name for name in _names(lines) if name not in NO_LOSSES and _is_number(lines, name)]
    names.sort(key=lambda name: name != "loss")
    positive = True
    for name, colour in zip(names, ("#000000", *_COLOURS, *_COLOURS), strict=False):
        steps, values = _series(lines, name)
        _curve(axes, steps, values, colour, name, width=2.2 if name == "loss" else 1.5)
        positive = positive and bool((values[np.isfinite(values)] > 0).all())
    if not names:
        return
    if positive:
        axes.set_yscale("log")
    # Room above the curves, which fall, for the legend and the sizes.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** _HEADROOM if positive else high + (high - low) * _HEADROOM)
    if positive:
        _plain_log_ticks(axes)
    columns = {"columnspacing": 1.0, "ncols": 3 if len(names) > 4 else 2, "loc": "upper right"}
    _legend(axes, len(names), **columns, bbox_to_anchor=(1, 0.96))
    _mark_sizes(axes, lines)


def _draw_validation(axes: Any, lines: Sequence[Line], *, lower: bool) -> None:
    """Measures of one direction, each with its best value marked and told."""
    flat = [{"step": line["step"], **flattened(line["val"])} for line in lines]
    names = [name for name in _names(flat) if name != "step" and is_lower_better(name) == lower]
    curves = []
    for name in names[: len(_COLOURS)]:
        steps, values = _series(flat, name)
        known = np.isfinite(values)
        if known.any():
            curves.append((name, steps[known], values[known], (values[known].min if lower else values[known].max)()))
    if not curves:
        return
    bests = [abs(best) for *_, best in curves]
    # Measures of very different size, as a loss and the MAE are, share a panel by what they are of their best.
    relative = min(bests) > 0 and max(bests) > _MUCH_LARGER * min(bests)
    for (name, steps, values, best), colour in zip(curves, _COLOURS, strict=False):
        shown = values / best if relative else values
        first = int((values == best).argmax())
        axes.plot(steps, shown, color=colour, linewidth=1.6, marker="o", markersize=3.5)
        axes.plot(
            *(steps[first], shown[first]),
            **{"color": colour, "marker": "*", "markersize": 13, "markeredgecolor": "w"},
            label=f"{_label(name)}   best {best:.4g}",
        )
    if relative:
        axes.set_ylabel("times the best")
    _legend(axes, len(curves))


def _draw_rate(axes: Any, lines: Sequence[Line]) -> None:
    steps, values = _series(lines, "rate")
    if len(steps):
        axes.plot(steps, values, color=_COLOURS[0], linewidth=2, marker="o" if len(steps) == 1 else None)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_norm(axes: Any, lines: Sequence[Line]) -> None:
    """The mean norm, and the worst of each interval; ticks below tell of skipped steps."""
    steps, values = _series(lines, "norm")
    if not np.isfinite(values).any():
        return
    worst_steps, worst = _series(lines, "worst_norm")
    if np.isfinite(worst).any():
        style = {"linewidth": 0.8, "alpha": 0.6, "marker": "o" if len(worst) == 1 else None}
        axes.plot(worst_steps, worst, color=_COLOURS[1], label="worst of each interval", **style)
    _curve(axes, steps, values, _COLOURS[0], "mean")
    axes.set_yscale("log")
    _plain_log_ticks(axes)
    skips = [line["step"] for line in lines if line.get("skipped")]
    if skips:
        count = sum(line["skipped"] for line in lines if line.get("skipped"))
        axes.plot(
            *(skips, [0.015] * len(skips)),
            transform=axes.get_xaxis_transform(),
            **{"color": "#C00000", "marker": "|", "markersize": 12, "linestyle": "none"},
            label=f"{count} steps skipped",
        )
    _legend(axes, 3)


def _draw_speed(axes: Any, lines: Sequence[Line]) -> None:
    """Images a second, and on the right the share of time waited for data."""
    steps, values = _series(lines, "images_per_second")
    if not len(steps):
        return
    _curve(axes, steps, values, _COLOURS[2], "images a second")
    axes.set_ylim(bottom=0)
    waits = [
        {"step": line["step"], "wait": 100 * line["share_of_time"]["data"]}
        for line in lines
        if "data" in line.get("share_of_time", {})
    ]
    if waits:
        right = axes.twinx()
        right.spines[["top", "left", "right"]].set_visible(False)
        _curve(right, *_series(waits, "wait"), _COLOURS[4], "waiting")
        right.set_ylim(0, 100)
        right.set_ylabel("% of time waiting for data", color=_COLOURS[4])
        right.tick_params(axis="y", colors=_COLOURS[4])
    axes.set_ylabel("images a second", color=_COLOURS[2])
    axes.tick_params(axis="y", colors=_COLOURS[2])


def _curve(axes: Any, steps: Numbers, values: Numbers, colour: str, name: str, width: float = 1.8) -> None:
    """A faint line of what was measured and a strong one of its running mean; a dot for a single value."""
    few = len(steps) < 4
    marker = "o" if len(steps) == 1 else None
    if not few:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    strong = values if few else smoothed(values)
    axes.plot(steps, strong, color=colour, linewidth=width, marker=marker, markersize=5, label=_label(name))


def smoothed(values: Numbers) -> Numbers:
    """Running mean that leaves about 40 independent points: (N,) -> (N,). It skips, and stays, where values are NaN.

    The mean is over what came before, with weights that fall off exponentially and sum to 1 from the first value on.
    """
    keep = 1 - 1 / max(1.0, len(values) / _POINTS_SMOOTHED)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        if weight:
            result[i] = total / weight
    return result


def _mark_sizes(axes: Any, lines: Sequence[Line]) -> None:
    """Tell where the photos got larger, which moves losses and speed; not where each line has another size."""
    changes: list[tuple[int, str]] = []
    before, sizes = 0, [(line["step"], line["size"]) for line in lines if line.get("size")]
    for step, size in sizes:
        name = str(size) if isinstance(size, int) else str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"
        if not changes or changes[-1][1] != name:
            changes.append((before, name))
        before = step
    if len(changes) > _MOST_SIZES:
        return
    for step, name in changes:
        if step:
            axes.axvline(step, color="#000000", linewidth=0.7, alpha=0.4)
        axes.annotate(
            *(f" {name} px", (step, 1.0)),
            xycoords=axes.get_xaxis_transform(),
            **{"va": "top", "fontsize": 8, "color": "#555555"},
        )


def _headline(trained: Sequence[Line], validated: Sequence[Line], resumed: int) -> str:
    if not trained:
        return "no step logged yet" if not validated else f"step {validated[-1]['step']:,}"
    line = trained[-1]
    parts = [f"step {line['step']:,}" + (f" of {line['steps']:,}" if "steps" in line else "")]
    if "epoch" in line:
        parts.append(f"epoch {line['epoch']:g}")
    if "samples" in line:
        parts.append(f"{line['samples']:,} images")
    if line.get("seconds"):
        parts.append(duration(line["seconds"]))
    if resumed:
        parts.append(f"resumed {resumed} time{'s' if resumed > 1 else ''}")
    best = [line for line in validated if line.get("best")]
    if best:
        parts.append(f"best validation at step {best[-1]['step']:,}")
    return "    ".join(parts)


def _series(lines: Iterable[Line], name: str) -> tuple[Numbers, Numbers]:
    """Steps and values of the lines that have a figure; null is NaN, which leaves a gap."""
    pairs = [(line["step"], math.nan if line[name] is None else line[name]) for line in lines if name in line]
    array = np.array(pairs, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _names(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line))


def _is_number(lines: Iterable[Line], name: str) -> bool:
    kinds = {type(line[name]) for line in lines if line.get(name) is not None}
    return bool(kinds) and kinds <= {int, float}


def _label(name: str) -> str:
    # matplotlib hides labels that begin with an underscore, and takes dollars for formulas.
    return name.lstrip("_").replace("$", r"\$")


def _legend(axes: Any, count: int, **places: Any) -> None:
    style = {"fontsize": 9, "edgecolor": "none", "framealpha": 0.85, "handlelength": 1.4}
    axes.legend(**{"ncols": 1 if count <= 4 else 2, **style, **places})


def _plain_log_ticks(axes: Any) -> None:
    """Write 0.02 and 30 in place of powers of ten, and enough of them where less than a decade is shown."""
    ticker = require("matplotlib.ticker", extra="train")
    low, high = axes.get_ylim()
    marks = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=marks, numticks=20))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _thousands(value: float, _position: int) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
