"""Results as tables: in the order of the papers' columns, for people, papers and spreadsheets."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from birefnet.config import unknown_name
from birefnet.metrics import LOWER_IS_BETTER

_REST = ("IoU", "Dice", "SAD", "matteMSE", "Grad", "Conn")

PAPER_ORDER: dict[str, tuple[str, ...]] = {
    # The first columns are the papers' own tables of each task; the others follow as the reference's evaluation
    # prints them.
    "dis": (
        *("maxF", "wF", "MAE", "S", "meanE", "HCE"),
        *("maxE", "meanF", "adpE", "adpF", "mBA", "maxBIoU", "meanBIoU", "MSE", *_REST),
    ),
    "cod": (
        *("S", "wF", "MAE", "meanE", "meanF", "maxE", "maxF", "adpE", "adpF"),
        *("HCE", "mBA", "maxBIoU", "meanBIoU", "MSE", *_REST),
    ),
    "sod": (
        *("S", "maxF", "meanE", "MAE", "maxE", "meanF", "wF", "adpE", "adpF"),
        *("HCE", "mBA", "maxBIoU", "meanBIoU", "MSE", *_REST),
    ),
    "matting": (
        *("S", "maxF", "meanE", "MSE", "maxE", "meanF", "wF", "adpE", "adpF"),
        *("HCE", "mBA", "maxBIoU", "meanBIoU", "SAD", "matteMSE", "Grad", "Conn", "MAE", "IoU", "Dice"),
    ),
}
"""Task -> all measures in the order of its tables. "general" and sets of no known task are shown as "dis"."""

PRESETS: dict[str, tuple[str, ...]] = {
    "dis": PAPER_ORDER["dis"][:6],
    "cod": PAPER_ORDER["cod"][:4],
    "sod": PAPER_ORDER["sod"][:4],
    # The reference's cards of matting models, and what papers on matting report.
    "matting": ("S", "maxF", "meanE", "MSE", "SAD", "matteMSE", "Grad", "Conn"),
}
"""Name that stands for several measures -> these."""

# Measures that are counts or sums, with the number of decimals that papers give them.
_DECIMALS = {"HCE": 0, "SAD": 2, "Grad": 2, "Conn": 2}


def choose_measures(words: str, known: Sequence[str]) -> list[str]:
    """Find the measures that a user names: "all", a preset, or names parted by commas, in any mixture.

    Args:
        words: such as "all", "dis" or "maxF,MAE"; upper and lower case are alike.
        known: names of all measures.

    Raises:
        ConfigError: there is no such measure.
    """
    plain = {name.lower(): name for name in known}
    chosen: list[str] = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        if word.lower() == "all":
            chosen += known
        elif word.lower() in PRESETS:
            chosen += [name for name in PRESETS[word.lower()] if name in known]
        elif word.lower() in plain:
            chosen.append(plain[word.lower()])
        else:
            raise unknown_name("measure", word, [*known, *PRESETS, "all"])
    if not chosen:
        raise unknown_name("measure", words, [*known, *PRESETS, "all"])
    return list(dict.fromkeys(chosen))


def in_order(measures: Iterable[str], task: str | None) -> list[str]:
    """Sort measures as the tables of a task have them; those that no table has come last, as they were given."""
    order = PAPER_ORDER.get(task or "dis", PAPER_ORDER["dis"])
    return sorted(measures, key=lambda name: order.index(name) if name in order else len(order))


def shown(measure: str, value: float | None, *, digits: int = 4, sign: bool = False) -> str:
    """Write a value with the decimals that papers give the measure; "-" where there is none.

    Args:
        measure: its name.
        value: what to write.
        digits: decimals of a measure from 0 to 1.
        sign: write a plus, too, and one decimal more of what papers give none, as for differences.
    """
    if value is None:
        return "-"
    return f"{value:{'+' if sign else ''}.{max(_DECIMALS.get(measure, digits), int(sign))}f}"


def best_rows(rows: Sequence[Mapping[str, Any]], measure: str, *, digits: int = 4) -> set[int]:
    """Find the rows that are best, as shown, in a measure among those of the same set, if it has several rows."""
    sign = -1 if measure in LOWER_IS_BETTER else 1
    best = set()
    for data in {row["set"] for row in rows}:
        ranked = [
            (sign * float(shown(measure, row["summary"][measure], digits=digits)), index)
            for index, row in enumerate(rows)
            if row["set"] == data and row["summary"][measure] is not None
        ]
        if len(ranked) > 1:
            best |= {index for value, index in ranked if value == max(ranked)[0]}
    return best


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: titles of the columns.
        rows: their cells.
        left: how many of the first columns hold names; the others hold numbers.
        bold: (row, column) of cells to stress.
    """

    header: list[str]
    rows: list[list[str]]
    left: int
    bold: frozenset[tuple[int, int]] = frozenset()

    @property
    def width(self) -> int:
        """Characters that its longest line needs, two between columns."""
        columns = zip(self.header, *self.rows, strict=True)
        return sum(max(map(len, column)) + 2 for column in columns) - 2

    def turned(self) -> "Table":
        """The same with rows for columns, for where it is too wide."""
        cells = [list(column) for column in zip(self.header, *self.rows, strict=True)]
        bold = frozenset((column - 1, row + 1) for row, column in self.bold)
        return Table(cells[0], cells[1:], 1, bold)


def summary_table(results: Mapping[str, Any]) -> Table:
    """Lay out the rows of results; where methods compete on a set, the best values are stressed."""
    measures = results["measures"]
    arrows = [f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}" for name in measures]
    rows = [
        [row["method"], row["set"], str(row["count"]), *(shown(name, row["summary"][name]) for name in measures)]
        for row in results["rows"]
    ]
    bold = {(row, 3 + column) for column, name in enumerate(measures) for row in best_rows(results["rows"], name)}
    return Table(["method", "set", "images", *arrows], rows, 2, frozenset(bold))


def markdown(table: Table) -> str:
    """Write a table as Markdown."""
    lines = [
        "| " + " | ".join(table.header) + " |",
        "|" + "---|" * table.left + "--:|" * (len(table.header) - table.left),
    ]
    for number, row in enumerate(table.rows):
        cells = [cell.replace("|", r"\|") for cell in row]
        cells = [f"**{cell}**" if (number, column) in table.bold else cell for column, cell in enumerate(cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_SYMBOLS = {
    "maxF": r"$F_\beta^{x}$",
    "meanF": r"$F_\beta^{m}$",
    "adpF": r"$F_\beta^{a}$",
    "wF": r"$F_\beta^{\omega}$",
    "MAE": r"$\mathcal{M}$",
    "S": r"$\mathcal{S}_\alpha$",
    "maxE": r"$E_\phi^{x}$",
    "meanE": r"$E_\phi^{m}$",
    "adpE": r"$E_\phi^{a}$",
    "HCE": r"$HCE_\gamma$",
    "maxBIoU": r"BIoU$^{x}$",
    "meanBIoU": r"BIoU$^{m}$",
}


def latex(results: Mapping[str, Any]) -> str:
    r"""Write the rows as a LaTeX `tabular` (needs the package booktabs): methods down, sets in groups."""
    measures = results["measures"]
    arrows = [_SYMBOLS.get(m, m) + (r" $\downarrow$" if m in LOWER_IS_BETTER else r" $\uparrow$") for m in measures]
    lines = [
        rf"\begin{{tabular}}{{ll{'c' * len(measures)}}}",
        r"\toprule",
        " & ".join(["Set", "Method", *arrows]) + r" \\",
    ]
    best = {name: best_rows(results["rows"], name, digits=3) for name in measures}
    previous = None
    places = {data: place for place, data in enumerate(dict.fromkeys(row["set"] for row in results["rows"]))}
    for index, row in sorted(enumerate(results["rows"]), key=lambda pair: places[pair[1]["set"]]):
        if row["set"] != previous:
            lines.append(r"\midrule")
        cells = [_latex_value(shown(name, row["summary"][name], digits=3)) for name in measures]
        cells = [
            rf"\textbf{{{cell}}}" if index in best[name] else cell for name, cell in zip(measures, cells, strict=True)
        ]
        label = _latex_text(row["set"]) if row["set"] != previous else ""
        lines.append(" & ".join([label, _latex_text(row["method"]), *cells]) + r" \\")
        previous = row["set"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(results: Mapping[str, Any]) -> str:
    """Write every image's values as CSV, and in rows without a name those of each method and set, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "set", "image", *results["measures"]])
    for row in results["rows"]:
        writer.writerow([row["method"], row["set"], "", *(_plain(row["summary"][m]) for m in results["measures"])])
        for image in row["images"]:
            values = (_plain(image["values"][m]) for m in results["measures"])
            writer.writerow([row["method"], row["set"], image["name"], *values])
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)


def _latex_value(text: str) -> str:
    # Papers write .891; a count has no point.
    return text[1:] if text.startswith("0.") else text


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, rf"\{c}" if c in "&%$#_{}" else c) for c in text)
