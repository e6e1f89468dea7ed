"""Curves of a report, drawn as SVG that is read in light and dark, on paper, and by a screen reader."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLES = 8
"""How many curves can be told apart by colour and dashes; further ones start anew."""

_WIDTH, _HEIGHT = 380, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 12, 44
_TABLE_STEPS = 9
_CURVES = ("precision", "recall", "F", "E", "BIoU")

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One method's curve.

    Attributes:
        label: the method.
        style: its number, which chooses colour and dashes, the same in every figure of a set.
        x: where the points lie, from 0 to 1.
        y: their values, None where there is none.
    """

    label: str
    style: int
    x: Values
    y: Values


def figures(rows: Sequence[tuple[str, Mapping[str, Any]]], ident: str) -> str:
    """Draw the precision-recall, F, E and boundary IoU curves of one data set.

    Args:
        rows: the methods and their curves, as the results hold them.
        ident: what ids within the page start with.

    Returns:
        A legend, the figures beside each other and the same values as a folded table; a remark if there is no curve.
    """
    usable = [(label, style, curves) for style, (label, curves) in enumerate(rows) if curves]
    plots = []
    for key, title, x_label, y_label in (
        ("precision", "Precision over recall", "recall", "precision"),
        ("F", "F-measure over threshold", "threshold", "F-measure"),
        ("E", "E-measure over threshold", "threshold", "E-measure"),
        ("BIoU", "Boundary IoU over threshold", "threshold", "boundary IoU"),
    ):
        across = "recall" if key == "precision" else None
        series = [
            Series(label, style, curves[across] if across else _thresholds(len(curves[key])), curves[key])
            for label, style, curves in usable
            if curves.get(key) and (across is None or curves.get(across))
        ]
        if series:
            plots.append(_figure(title, x_label, y_label, series, f"{ident}-{key}"))
    if not plots:
        return '<p class="remark">These results hold no curves.</p>'
    legend = "".join(
        f'<li><svg class="swatch" viewBox="0 0 34 10" aria-hidden="true"><path class="line s{style % STYLES}" '
        f'd="M1 5H33"/></svg>{escape(label)}</li>'
        for label, style, _ in usable
    )
    return f'<ul class="legend">{legend}</ul><div class="plots">{"".join(plots)}</div>{_table(usable)}'


def _thresholds(count: int) -> list[float]:
    """The thresholds that a curve's points belong to: the highest first, as the measures have them."""
    return [1 - position / max(count - 1, 1) for position in range(count)]


def _figure(title: str, x_label: str, y_label: str, series: Sequence[Series], ident: str) -> str:
    low = _floor(series)
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + value * inner_width

    def up(value: float) -> float:
        return _TOP + (1 - (value - low) / (1 - low)) * inner_height

    parts = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(f'<path class="grid" d="M{across(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" class="mid">{tick:g}</text>')
    for tick in _ticks(low):
        parts.append(f'<path class="grid" d="M{_LEFT} {up(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" class="end">{tick:g}</text>')
    middle = _TOP + inner_height / 2
    parts.append(f'<text x="{_LEFT + inner_width / 2:g}" y="{_HEIGHT - 8}" class="mid axis">{x_label}</text>')
    parts.append(f'<text transform="translate(13 {middle:g}) rotate(-90)" class="mid axis">{y_label}</text>')
    parts.append(
        f'<clipPath id="{ident}-inside"><rect x="{_LEFT}" y="{_TOP - 2}" width="{inner_width + 2}" '
        f'height="{inner_height + 2}"/></clipPath><g clip-path="url(#{ident}-inside)">'
    )
    for curve in series:
        path = " ".join(_strokes(curve, across, up))
        name = escape(curve.label)
        parts.append(f'<path class="line s{curve.style % STYLES}" d="{path}"><title>{name}</title></path>')
    summary = "; ".join(_describe(curve, x_label) for curve in series)
    return (
        f'<figure class="plot"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{ident}-title {ident}-text">'
        f'<title id="{ident}-title">{title}</title><desc id="{ident}-text">{escape(summary)}</desc>'
        f"{''.join(parts)}</g></svg></figure>"
    )


def _floor(series: Sequence[Series]) -> float:
    """Where the vertical axis starts: curves that lie close together near 1 are to be told apart.

    The lowest tenth of each curve does not count, as it is steep at the outermost thresholds.
    """
    lows = []
    for curve in series:
        values = sorted(value for value in curve.y if value is not None)
        if values:
            lows.append(values[len(values) // 10])
    return max(0.0, min(0.9, math.floor(min(lows, default=0.0) * 10) / 10))


def _ticks(low: float) -> list[float]:
    step = 0.2 if low < 0.4 else 0.1 if low < 0.8 else 0.05 if low < 0.9 else 0.02
    count = math.floor((1 - low) / step + 1e-9)
    return [round(1 - position * step, 2) for position in range(count + 1)]


def _strokes(curve: Series, across: Any, up: Any) -> Iterator[str]:
    """The path's commands; a missing value interrupts the line."""
    command = "M"
    for x, y in zip(curve.x, curve.y, strict=True):
        if x is None or y is None:
            command = "M"
            continue
        yield f"{command}{across(x):.1f} {up(y):.1f}"
        command = "L"


def _describe(curve: Series, x_label: str) -> str:
    points = [(y, x) for x, y in zip(curve.x, curve.y, strict=True) if x is not None and y is not None]
    if not points:
        return f"{curve.label}: no values"
    best, where = max(points)
    return f"{curve.label}: at most {best:.3f}, at {x_label} {where:.2f}"


def _table(usable: Sequence[tuple[str, int, Mapping[str, Any]]]) -> str:
    """The curves' values at some thresholds, for those who cannot see the curves or want the numbers."""
    keys = [name for name in _CURVES if any(curves.get(name) for _, _, curves in usable)]
    rows = []
    for label, _, curves in usable:
        steps = _thresholds(max(len(curves.get(key) or ()) for key in keys))
        for part in range(_TABLE_STEPS):
            wanted = part / (_TABLE_STEPS - 1)
            at = min(range(len(steps)), key=lambda position: abs(steps[position] - wanted))
            cells = "".join(f"<td>{_number(curves[key][at]) if curves.get(key) else '–'}</td>" for key in keys)
            rows.append(f'<tr><th scope="row">{escape(label)}</th><td>{steps[at]:.2f}</td>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", "threshold", *keys))
    return (
        "<details><summary>The curves as numbers</summary>"
        f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
