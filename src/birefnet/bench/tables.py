"""What was measured, for a person: rows of text, Markdown, JSON and a chart."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from birefnet._atomic import write_whole
from birefnet._extras import require
from birefnet.bench.measure import Row
from birefnet.errors import OutputError

FORMAT = "birefnet-bench"
VERSION = 1

# The palette of Okabe and Ito, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

HEADER = (
    "model",
    "engine",
    "precision",
    "size",
    "batch",
    "seconds",
    "ratio",
    "images/s",
    "first call",
    "peak memory",
    "GMACs",
    "matrix product",
    "efficiency",
)
LEFT = 4
"""Columns of words; the rest are figures."""


def cells(row: Row) -> list[str]:
    """A row as text, one cell for each of `HEADER`; what is not known is empty."""
    size = row.size or row.case.size
    return [
        row.case.model,
        row.engine or row.case.engine,
        row.precision or row.case.precision,
        "" if size is None else f"{size[0]}x{size[1]}",
        str(row.case.batch),
        "failed" if row.error else _text(row.median, "{:.3f}"),
        "1" if row.against is None and row.median is not None else _text(row.ratio, "{:.2f}"),
        _text(row.images_per_second, "{:.2f}"),
        _text(row.first_ratio, "{:.2f} x"),
        _text(row.peak, "{:.2f} GB", 1e9),
        _text(row.macs, "{:.1f}", 1e9),
        _text(row.product, "{:.0f} GFLOP/s", 1e9),
        _text(row.efficiency, "{:.0%}"),
    ]


def _text(value: float | None, form: str, unit: float = 1.0) -> str:
    return "" if value is None else form.format(value / unit)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def remarks(rows: Iterable[Row]) -> list[str]:
    """Notes and errors of the rows, each once, in lines that name the case."""
    lines = [f"{row.case.name}: {line}" for row in rows for line in (*row.notes, *([row.error] if row.error else ()))]
    return list(dict.fromkeys(lines))


def to_json(rows: Sequence[Row], runs: int, machine: Mapping[str, Any]) -> str:
    """Everything that was measured, with all single times. Times are in seconds, memory in bytes."""
    content = {"format": FORMAT, "version": VERSION, "machine": machine, "runs": runs}
    return json.dumps({**content, "rows": [row.to_dict() for row in rows]}, indent=2) + "\n"


def draw(rows: Sequence[Row], path: str | Path, machine: Mapping[str, Any]) -> None:
    """Draw seconds an image as bars, a panel for each model and size, the compared cases of each beside one another.

    Raises:
        OutputError: the file's name does not end in .png, or it cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    check_picture(path)
    figure_type = require("matplotlib.figure", extra="train").Figure
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.median is not None:
            model, _, _, size, batch, *_ = cells(row)
            panels.setdefault(f"{model}, {size}" + f", batches of {batch}" * (batch != "1"), []).append(row)
    count = max(len(panels), 1)
    heights = [len(panel) + 1.2 for panel in panels.values()] or [2.0]
    figure = figure_type(figsize=(9, 1 + 0.45 * sum(heights)), layout="constrained")
    require("matplotlib.backends.backend_agg", extra="train").FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, panel)
    if not panels:
        axes[0].text(0.5, 0.5, "nothing was measured", ha="center", va="center")
        axes[0].set_axis_off()
    figure.supxlabel(f"seconds an image on {machine['cpu']}, {machine['cores']} cores", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())


def check_picture(path: str | Path) -> None:
    """Refuse what no chart can be drawn to, before anything is measured.

    Raises:
        OutputError: it does not end in .png.
        MissingExtraError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() != ".png":
        raise OutputError(f"{path}: the chart is a PNG: choose a name that ends in .png")
    require("matplotlib", extra="train")


def _draw_panel(axis: Any, title: str, panel: Sequence[Row]) -> None:
    names = [f"{row.engine} {row.precision}" for row in panel]
    times = [(row.median or 0.0) / row.case.batch for row in panel]
    places = range(len(panel))
    bars = axis.barh(places, times, color=[_COLOURS[place % len(_COLOURS)] for place in places], height=0.7)
    labels = []
    for row, seconds in zip(panel, times, strict=True):
        parts = [f"{seconds:.3g} s"]
        if row.ratio is not None:
            parts.append(f"{row.ratio:.2f} x")
        if row.efficiency is not None:
            parts.append(f"{row.efficiency:.0%} of the peak")
        labels.append("  " + ", ".join(parts))
    axis.bar_label(bars, labels, fontsize=9)
    # matplotlib takes dollars for formulas.
    axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, fontweight="bold")
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45 * max(times))
    axis.spines[["top", "right"]].set_visible(False)
