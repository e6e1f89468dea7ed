"""The report's files: what is in the page, that names cannot become markup, what happens where files are missing."""

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import DataError, InputError, OutputError
from birefnet.evaluation.report import ranked, show, write_report
from birefnet.evaluation.report_curves import figures
from birefnet.evaluation.report_pictures import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    Case,
    error_map,
    file_name,
    make_pictures,
    object_share,
)

NASTY = '<img src=x onerror="alert(1)">&"\'</script><script>alert(2)</script>'


class Page(HTMLParser):
    """The elements of a page, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def curve(level: float) -> dict[str, list[float]]:
    falling = [1 - 0.6 * (position / 255) ** 2 * level for position in range(256)]
    return {"precision": [level * (2 - value) / 2 for value in falling], "recall": falling, "F": falling, "E": falling}


def scores(count: int, folder: Path, methods: tuple[str, ...] = ("first", "second")) -> dict[str, Any]:
    """Results whose files exist: image n of a method is worse the higher n is."""
    for kind in ("im", "gt", *methods):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        truth = np.zeros((40, 60), np.uint8)
        truth[10:30, 10 : 20 + number] = 255
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"im/{number:02}.jpg")
        Image.fromarray(truth).save(folder / f"gt/{number:02}.png")
        for method in methods:
            Image.fromarray(np.roll(truth, number, axis=1)).save(folder / f"{method}/{number:02}.png")
    rows = []
    for place, method in enumerate(methods):
        images = [
            {
                "name": f"{number:02}",
                "image": str(folder / f"im/{number:02}.jpg"),
                "truth": str(folder / f"gt/{number:02}.png"),
                "prediction": str(folder / f"{method}/{number:02}.png"),
                "size": [40, 60],
                "values": {"wF": 1 - number / 50 - place / 100, "MAE": number / 100 + place / 50, "HCE": None},
                "notes": [],
            }
            for number in range(count)
        ]
        summary = {"wF": 0.9 - place / 10, "MAE": 0.05 + place / 10, "HCE": None}
        row = {"method": method, "set": "pets", "task": None, "count": count, "summary": summary}
        rows.append({**row, "curves": curve(0.9), "images": images, "problems": []})
    return {"birefnet": "1.2.3", "conventions": {"a": {"b": 1}}, "measures": ["wF", "MAE", "HCE"], "rows": rows}


def data_of(page: Path, name: str) -> Any:
    (path,) = page.parent.glob(f"report-*/{name}.js")
    text = path.read_text("ascii")
    head = f'birefnetReport("{name}",'
    assert text.startswith(head)
    assert text.endswith(");\n")
    return json.loads(text[len(head) : -3])


def about_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="about">(.*?)</script>', page.read_text("utf-8"))
    assert found
    return json.loads(found[1])


@pytest.fixture
def change(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Write a report of six images after a change of the results."""

    def written(how: Callable[[dict[str, Any]], Any]) -> Path:
        results = scores(6, tmp_path / "data")
        how(results)
        return write_report(results, tmp_path / "report", cases=2)

    return written


def test_the_page_holds_scores_curves_and_everything_it_needs(tmp_path: Path) -> None:
    page = write_report(scores(6, tmp_path / "data"), tmp_path / "report", cases=4)
    assert page == tmp_path / "report" / "index.html"
    text = page.read_text("utf-8")
    html = Page(text)
    assert "{{" not in text
    assert "2 methods on 1 set" in html.texts
    assert not [each for each in html.all("script") if "src" in each]
    assert [each["href"] for each in html.all("link")] == ["data:,"]
    assert not re.search(r"https?://", text)
    drawings = [each for each in html.all("svg") if each.get("role") == "img"]
    assert len(drawings) == 3
    ids = [each["id"] for _, each in html.elements if each.get("id")]
    assert len(set(ids)) == len(ids)
    for drawing in drawings:
        assert set((drawing["aria-labelledby"] or "").split()) <= set(ids)
    for target in (each["href"] for each in html.all("a")):
        assert (target or "").removeprefix("#") in ids
    # Marked is the best of each measure that has values.
    assert text.count('<strong class="best">') == 1 + 2
    assert '<strong class="best">.9000<span' in text
    assert '<strong class="best">.0500<span' in text
    assert "<dt>a / b</dt><dd>1</dd>" in text


def test_pictures_are_made_of_the_worst_and_the_best(tmp_path: Path) -> None:
    page = write_report(scores(9, tmp_path / "data"), tmp_path / "report", cases=4)
    data = data_of(page, "set-0")
    assert data["names"] == [f"{number:02}" for number in range(9)]
    assert sorted(data["pictures"], key=int) == ["0", "1", "7", "8"]
    (beside,) = page.parent.glob("report-*")
    assert about_of(page)["folder"] == beside.name
    expected = set()
    for case in data["pictures"].values():
        assert case["views"] == ["photo", "truth", "p0", "e0", "p1", "e1"]
        assert case["size"] == [40, 60]
        for view in case["views"]:
            expected |= {file_name(case["id"], view), file_name(case["id"], view, large=True)}
    assert {path.name for path in (beside / "pictures").iterdir()} == expected
    assert data["shares"] == pytest.approx([20 * (10 + number) / 2400 for number in range(9)], rel=1e-4)


def test_links_lead_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = write_report(scores(3, Path("a b%")), Path("out/report"))
    data = data_of(page, "set-0")
    assert data["photos"] == {"start": "../../a%20b%25/im/0", "rest": ["0.jpg", "1.jpg", "2.jpg"]}
    assert data["methods"][1]["predictions"]["start"] == "../../a%20b%25/second/0"


def test_all_pictures_without_large_ones_and_progress(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    page = write_report(
        scores(5, tmp_path / "data"), tmp_path / "r", cases=0, large=0, progress=lambda *step: steps.append(step)
    )
    assert sorted(data_of(page, "set-0")["pictures"]) == list("01234")
    assert not list(page.parent.glob("report-*/pictures/*large*"))
    assert steps == [(number, 10) for number in range(1, 11)]  # five objects measured, five cases


def test_names_never_become_markup(change: Callable[..., Path]) -> None:
    def poison(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row["set"] = NASTY
            row["method"] = NASTY + row["method"]
            row["summary"][NASTY] = 1.0
            row["problems"] = [{"kind": NASTY, "file": NASTY, "detail": NASTY}]
            for image in row["images"]:
                image["name"] += NASTY
                image["notes"] = [NASTY]
        results["measures"].append(NASTY)
        results["conventions"] = {NASTY: NASTY}
        results["birefnet"] = NASTY

    page = change(poison)
    html = Page(page.read_text("utf-8"))
    assert html.all("img") == []
    assert len(html.all("script")) == 2
    assert about_of(page)["sets"] == [NASTY]
    for path in page.parent.glob("report-*/*.js"):
        assert "<" not in path.read_text("ascii")
    assert data_of(page, "set-0")["names"][0] == "00" + NASTY
    assert data_of(page, "problems")[0][2:] == [NASTY] * 3


def test_a_problem_is_listed_once_whatever_it_counts_in(change: Callable[..., Path]) -> None:
    def repeat(results: dict[str, Any]) -> None:
        problems = [{"kind": "soft-truth", "file": "gt/00.png", "detail": "grey"}]
        first = {**results["rows"][0], "problems": problems}
        results["rows"] = [first, {**first, "set": "pets/cats"}]

    page = change(repeat)
    assert len(data_of(page, "problems")) == 1
    assert "1 problem" in page.read_text("utf-8")


def test_a_template_mark_in_a_name_stays_text(change: Callable[..., Path]) -> None:
    page = change(lambda results: [row.update(set="{{script}}") for row in results["rows"]])
    assert page.read_text("utf-8").count("{{script}}") > 1


def test_names_that_are_no_text_are_shown_all_the_same(change: Callable[..., Path]) -> None:
    page = change(lambda results: results["rows"][0]["images"][0].update(name="caf\udce9"))
    assert any("caf\ufffd" in name for name in data_of(page, "set-0")["names"])


def test_values_that_are_missing_stay_so(change: Callable[..., Path]) -> None:
    def remove(results: dict[str, Any]) -> None:
        first = results["rows"][0]
        first["images"][5]["values"] = {"wF": None}
        first["curves"]["F"][3:9] = [None] * 6
        first["summary"] = dict.fromkeys(first["summary"])
        del results["rows"][1]["images"][0]
        results["rows"][1]["curves"] = None

    page = change(remove)
    data = data_of(page, "set-0")
    assert data["methods"][0]["values"]["wF"][5] is None
    assert data["methods"][1]["values"]["wF"][0] is None
    assert data["methods"][0]["values"]["HCE"] == [None] * 6
    assert page.read_text("utf-8").count('<td title="not defined">–</td>') == 3 + 1
    views = {number: case["views"] for number, case in data["pictures"].items()}
    assert views["0"] == ["photo", "truth", "p0", "e0"]


def test_what_cannot_be_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    results = scores(1, tmp_path / "data")
    (tmp_path / "data/im/00.jpg").unlink()
    (tmp_path / "data/first/00.png").write_bytes(b"no image")
    Image.new("L", (30, 20)).save(tmp_path / "data/second/00.png")
    (case,) = data_of(write_report(results, tmp_path / "report"), "set-0")["pictures"].values()
    assert case["views"] == ["truth", "p1", "e1"]
    missing, broken, stretched = case["notes"]
    assert missing == f"{tmp_path / 'data/im/00.jpg'}: no such file"
    assert "first/00.png: not an image" in broken
    assert stretched == "00.png: 30 x 20 was stretched to 60 x 40"


def test_nothing_to_see_at_all(tmp_path: Path) -> None:
    results = scores(2, tmp_path / "data")
    for row in results["rows"]:
        for image in row["images"]:
            image.update(image=None, truth=str(tmp_path / "gone.png"), prediction=None)
    data = data_of(write_report(results, tmp_path / "report"), "set-0")
    assert data["shares"] == [None, None]
    assert [case["views"] for case in data["pictures"].values()] == [[], []]
    assert data["photos"] == {"start": "", "rest": [None, None]}


def test_a_new_report_takes_the_old_ones_place_and_nothing_else(tmp_path: Path) -> None:
    results, folder = scores(4, tmp_path / "data"), tmp_path / "report"
    write_report(results, folder, cases=2)
    (folder / "results.json").write_text("kept")
    (folder / "report-0123456789ab").mkdir()  # of someone else
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(results, folder, cases=2)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    changed = copy.deepcopy(results)
    changed["rows"][0]["images"][0]["values"]["wF"] = 0.5
    page = write_report(changed, folder, cases=2)
    assert (folder / "results.json").read_text() == "kept"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["index.html", "results.json", "report-0123456789ab", about_of(page)["folder"]])
    assert about_of(page)["folder"] not in {path.parent.name for path in before}


def test_a_set_and_a_part_of_it_share_pictures(tmp_path: Path) -> None:
    results = scores(4, tmp_path / "data", ("only",))
    part = copy.deepcopy(results["rows"][0])
    part.update(set="pets/dogs", images=part["images"][:2])
    results["rows"].append(part)
    page = write_report(results, tmp_path / "report", large=0)
    whole, of_it = (data_of(page, f"set-{number}")["pictures"] for number in (0, 1))
    assert [case["id"] for case in of_it.values()] == [whole["0"]["id"], whole["1"]["id"]]
    assert len(list(page.parent.glob("report-*/pictures/*"))) == 4 * 4
    assert "only on pets, pets/dogs: 4 images" in page.read_text("utf-8")


def test_wrong_use_is_told_in_a_line(tmp_path: Path) -> None:
    results = scores(1, tmp_path / "data")
    with pytest.raises(InputError, match="measure 'wf' is not among the results: choose from wF, MAE, HCE"):
        write_report(results, tmp_path / "r", measure="wf")
    with pytest.raises(InputError, match="cases=-1"):
        write_report(results, tmp_path / "r", cases=-1)
    with pytest.raises(DataError, match=r"results\.json: 'rows' is missing"):
        write_report({"measures": ["wF"]}, tmp_path / "r")
    del results["rows"][1]["summary"]["MAE"]
    with pytest.raises(DataError, match=r"results\.json: 'MAE' is missing"):
        write_report(results, tmp_path / "r")
    with pytest.raises(DataError, match="no scores in it"):
        write_report({"measures": ["wF"], "rows": []}, tmp_path / "r")
    (tmp_path / "file").write_text("")
    results = scores(1, tmp_path / "data")
    with pytest.raises(OutputError, match="the report cannot be written"):
        write_report(results, tmp_path / "file")
    assert not (tmp_path / "r").exists()


def test_the_worst_come_first() -> None:
    assert ranked([0.5, None, 0.1, 0.9], "wF") == [2, 0, 3]
    assert ranked([0.5, None, 0.1, 0.9], "MAE") == [3, 0, 2]


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [("S", 0.98765, ".9877"), ("S", 1.0, "1.0000"), ("S", -0.5, "-.5000"), ("SAD", 12.346, "12.35"), ("HCE", 0.4, "0")],
)
def test_scores_are_shown_as_in_papers(measure: str, value: float, text: str) -> None:
    assert show(measure, value) == text


def test_errors_have_two_colours_and_the_object_is_darker() -> None:
    truth = np.float32([[1, 1, 0, 0]])
    prediction = np.float32([[1, 0, 1, 0]])
    right, missed, excess, background = error_map(prediction, truth)[0]
    assert tuple(missed) == FALSE_NEGATIVE
    assert tuple(excess) == FALSE_POSITIVE
    assert right.max() < background.min()
    assert right.min() == right.max()
    halfway = error_map(np.float32([[0.5]]), np.float32([[0]]))[0, 0].astype(int)
    assert abs(halfway - (np.int64(FALSE_POSITIVE) + background) / 2).max() <= 1


def test_large_pictures_are_made_smaller(tmp_path: Path) -> None:
    Image.new("L", (3000, 1500), 255).save(tmp_path / "truth.png")
    made = make_pictures(Case(None, str(tmp_path / "truth.png"), ()), 7, tmp_path, 1280)
    assert (made.size, made.views, made.notes) == ((240, 480), ["truth"], [])
    for name, size in (("7-truth.png", (480, 240)), ("7-truth-large.png", (1280, 640))):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size
    assert object_share(str(tmp_path / "truth.png")) == 1


def test_curves_say_in_words_where_they_are_best_and_break_where_there_is_nothing() -> None:
    drawn = figures([("a<b", {"E": [0.5, 0.6, None, 0.9, 0.8]}), ("c", {})], "set-3")
    assert "a&lt;b: at most 0.900, at threshold 0.25" in drawn
    assert re.search(r'class="line s0" d="M[\d. ]+L[\d. ]+M[\d. ]+L[\d. ]+"><title>', drawn)
    assert drawn.count("<figure") == 1
    assert '<th scope="row">a&lt;b</th><td>1.00</td><td>0.5000</td>' in drawn  # the highest threshold comes first
    assert figures([("a", {})], "x") == '<p class="remark">These results hold no curves.</p>'
