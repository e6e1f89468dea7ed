import csv
import io
import re
from typing import Any

import pytest

from birefnet.errors import ConfigError
from birefnet.evaluation.score import VALUES
from birefnet.evaluation.tables import (
    PAPER_ORDER,
    PRESETS,
    best_rows,
    choose_measures,
    comma_separated,
    in_order,
    latex,
    markdown,
    shown,
    summary_table,
)
from birefnet.metrics import LOWER_IS_BETTER


def row(method: str, data: str, images: dict[str, tuple[float, ...]] | None = None, **summary: float | None) -> Any:
    listed = [
        {"name": name, "values": dict(zip(summary, found, strict=True))} for name, found in (images or {}).items()
    ]
    return {"method": method, "set": data, "count": 7, "summary": summary, "images": listed, "problems": []}


RESULTS = {
    "measures": ["maxF", "MAE", "HCE"],
    "rows": [
        row("a_1", "x", maxF=0.91204, MAE=0.031, HCE=1016.4),
        row("b|2", "x", maxF=0.91203, MAE=0.035, HCE=989.0),
        row("a_1", "y", maxF=1.0, MAE=0.0, HCE=None),
    ],
}


def test_columns_are_in_the_order_of_the_papers() -> None:
    assert in_order(VALUES, "dis")[:6] == ["maxF", "wF", "MAE", "S", "meanE", "HCE"]
    assert in_order(VALUES, "cod")[:4] == ["S", "wF", "MAE", "meanE"]
    assert in_order(VALUES, "sod")[:4] == ["S", "maxF", "meanE", "MAE"]
    assert in_order(VALUES, "matting")[:4] == ["S", "maxF", "meanE", "MSE"]
    assert in_order(VALUES, "general") == in_order(VALUES, None) == in_order(VALUES, "dis")
    assert in_order(["MAE", "S"], "cod") == ["S", "MAE"]
    for task, order in PAPER_ORDER.items():
        assert sorted(order) == sorted(VALUES), task
        assert [name for name in order if name in PRESETS[task]] == list(PRESETS[task]), task
    assert set(VALUES) >= LOWER_IS_BETTER


def test_measures_are_chosen_by_preset_and_name() -> None:
    assert choose_measures("all", VALUES) == list(VALUES)
    assert choose_measures("cod, hce ,S", VALUES) == ["S", "wF", "MAE", "meanE", "HCE"]
    with pytest.raises(ConfigError, match=r"unknown measure 'maxG': did you mean 'max\w'\? known are .*adpE.*matting"):
        choose_measures("S,maxG", VALUES)
    with pytest.raises(ConfigError, match="unknown measure"):
        choose_measures(" , ", VALUES)


def test_values_have_the_decimals_of_papers() -> None:
    assert [shown("HCE", 1016.4), shown("SAD", 12.345), shown("wF", 0.85449)] == ["1016", "12.35", "0.8545"]
    assert shown("S", None) == "-"
    assert [shown("HCE", -1.26, sign=True), shown("S", 0.1, sign=True), shown("SAD", 1, sign=True)] == [
        "-1.3",
        "+0.1000",
        "+1.00",
    ]


def test_the_best_of_each_set_is_stressed_by_what_is_shown() -> None:
    rows = RESULTS["rows"]
    assert best_rows(rows, "maxF") == {0, 1}  # alike to the decimals shown
    assert best_rows(rows, "MAE") == {0}
    assert best_rows(rows, "HCE") == {1}


def test_markdown() -> None:
    assert markdown(summary_table(RESULTS)) == (
        "| method | set | images | maxF ↑ | MAE ↓ | HCE ↓ |\n"
        "|---|---|--:|--:|--:|--:|\n"
        "| a_1 | x | 7 | **0.9120** | **0.0310** | 1016 |\n"
        "| b\\|2 | x | 7 | **0.9120** | 0.0350 | **989** |\n"
        "| a_1 | y | 7 | 1.0000 | 0.0000 | - |\n"
    )


def test_a_wide_table_can_be_turned() -> None:
    table = summary_table(RESULTS)
    assert table.width == len("method  set  images  maxF ↑   MAE ↓  HCE ↓")
    turned = table.turned()
    assert turned.header == ["method", "a_1", "b|2", "a_1"]
    assert turned.rows[2] == ["maxF ↑", "0.9120", "0.9120", "1.0000"]
    assert {(turned.rows[row][0], column) for row, column in turned.bold} == {
        ("maxF ↑", 1),
        ("maxF ↑", 2),
        ("MAE ↓", 1),
        ("HCE ↓", 2),
    }
    back = turned.turned()
    assert (back.header, back.rows, back.bold) == (table.header, table.rows, table.bold)


def test_latex() -> None:
    text = latex(RESULTS)
    assert text.startswith("\\begin{tabular}{llccc}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert (
        r"Set & Method & $F_\beta^{x}$ $\uparrow$ & $\mathcal{M}$ $\downarrow$ & $HCE_\gamma$ $\downarrow$ \\" in text
    )
    assert "\\midrule\nx & a\\_1 & \\textbf{.912} & \\textbf{.031} & 1016 \\\\\n & b|2 & " in text
    assert "\\midrule\ny & a\\_1 & 1.000 & .000 & - \\\\\n" in text
    # Every line of the body has as many cells.
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {4}
    assert not re.search(r"(?<!\\)_(?!\{)(?![a-z]*\\)", latex({"measures": [], "rows": RESULTS["rows"]}))


def test_csv_has_every_value_in_full() -> None:
    images = {"p,1": (0.1 + 0.2, 1 / 3), "q": (0.5, None)}
    text = comma_separated({"measures": ["S", "MAE"], "rows": [row("m", "x", images, S=0.4, MAE=None)]})
    read = list(csv.reader(io.StringIO(text)))
    assert read[0] == ["method", "set", "image", "S", "MAE"]
    assert read[1] == ["m", "x", "", "0.4", ""]
    assert read[2][2] == "p,1"
    assert [float(cell) for cell in read[2][3:]] == [0.1 + 0.2, 1 / 3]
    assert read[3] == ["m", "x", "q", "0.5", ""]
