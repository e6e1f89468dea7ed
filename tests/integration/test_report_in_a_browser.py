"""The report as a reader sees it: a real browser opens it from the disk, without a network."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from birefnet.evaluation.report import write_report
from birefnet.evaluation.report_pictures import FALSE_NEGATIVE, FALSE_POSITIVE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    # Where a browser is promised, as in continuous integration, its absence is a failure.
    pytest.mark.skipif(
        BROWSER is None and "BIREFNET_NEEDS_BROWSER" not in os.environ,
        reason="NO BROWSER, so the report is not seen: install one (apt-get install chromium)",
    ),
]

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
MEASURES = ("wF", "MAE", "SAD")


class Seen(HTMLParser):
    """A page's elements after its script ran, each with its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "inside": [each.get("id") for each in self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, inside: str | None = None, **attributes: str) -> list[dict[str, Any]]:
        return [
            each
            for each in self.elements
            if each["tag"] == tag
            and (inside is None or inside in each["inside"])
            and all(each.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    def rows(self, inside: str) -> list[str]:
        return [each["text"] for each in self.all("button", inside, class_="name")]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., tuple[str, list[str]]]:
    """Run the browser on a page: what it prints, and the messages of its console."""

    def run(page: Path, fragment: str = "", *arguments: str) -> tuple[str, list[str]]:
        assert BROWSER is not None
        command = [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=10000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *(arguments or ("--dump-dom",)),
            page.as_uri() + fragment,
        ]
        # The browser's launcher and its processes share a group, so that a hanging one is ended with all of these.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                output, log = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                raise
        assert process.returncode == 0, log.decode()
        messages = [line for line in log.decode(errors="replace").splitlines() if "CONSOLE" in line]
        return output.decode(), messages

    return run


def curves(level: float) -> dict[str, list[float]]:
    recall = [position / 255 for position in range(256)]
    high = [level * (0.7 + 0.3 * (value * (1 - value) * 4)) for value in recall]
    return {"precision": high[::-1], "recall": recall, "F": high, "E": high}


def results_of(images: dict[str, list[dict[str, Any]]], problems: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Results of some methods on one set."""
    rows = []
    for place, (method, each) in enumerate(images.items()):
        summary = {name: float(np.mean([image["values"][name] for image in each])) for name in MEASURES}
        row = {"method": method, "set": "photos", "task": None, "count": len(each), "summary": summary}
        rows.append({**row, "curves": curves(0.9 - place / 10), "images": each, "problems": problems or []})
    return {"birefnet": "1", "conventions": {"truth_above": 128}, "measures": list(MEASURES), "rows": rows}


@pytest.fixture
def two_photos(tmp_path: Path, astronaut: Path, chelsea: Path) -> dict[str, Any]:
    """Two real photos and two methods; the first finds the left half, the truth is the upper half."""
    images: dict[str, list[dict[str, Any]]] = {"halves": [], "nothing": []}
    for number, photo in enumerate((astronaut, chelsea)):
        with Image.open(photo) as opened:
            width, height = opened.size
        truth = np.zeros((height, width), np.uint8)
        truth[: height // 2] = 255
        left = np.zeros_like(truth)
        left[:, : width // 2] = 255
        Image.fromarray(truth).save(tmp_path / f"{photo.stem}-truth.png")
        for place, (method, mask) in enumerate({"halves": left, "nothing": np.zeros_like(truth)}.items()):
            Image.fromarray(mask).save(tmp_path / f"{photo.stem}-{method}.png")
            values = {"wF": 0.8 - number / 10 - place / 2, "MAE": 0.2 - number / 10 + place / 2, "SAD": 12.0 + number}
            images[method].append(
                {
                    "name": f"<b>{photo.stem}</b>",
                    "image": str(photo),
                    "truth": str(tmp_path / f"{photo.stem}-truth.png"),
                    "prediction": str(tmp_path / f"{photo.stem}-{method}.png"),
                    "size": [height, width],
                    "values": values,
                    "notes": ["<i>note</i>"],
                }
            )
    return results_of(images, [{"kind": "odd", "file": "<u>x</u>.png", "detail": "something"}])


def test_a_report_of_two_photos(
    tmp_path: Path, two_photos: dict[str, Any], browse: Callable[..., tuple[str, list[str]]]
) -> None:
    page = write_report(two_photos, tmp_path / "report")
    text, messages = browse(page, "#sort=MAE")
    seen = Seen(text)
    assert messages == []
    assert seen.all("html")[0].get("data-ready") == "yes"
    assert "hidden" in seen.all("p", id="alarm")[0]
    assert seen.rows("images") == ["<b>chelsea</b>", "<b>astronaut</b>"]
    assert [each["text"] for each in seen.all("th", "images", **{"aria-sort": "ascending"})] == ["MAE"]
    assert [each["text"].strip() for each in seen.all("h4", "worst")] == ["1. <b>chelsea</b> wF .7000"]
    assert [each["text"].strip() for each in seen.all("h4", "best")] == ["1. <b>astronaut</b> wF .8000"]
    for tag in ("b", "i", "u"):
        assert not [each for each in seen.all(tag) if each["text"] in ("chelsea", "astronaut", "note", "x")]
    pictures = seen.all("img", "cases")
    assert len(pictures) == 2 * 6
    for picture in pictures:
        assert picture["loading"] == "lazy"
        with Image.open(page.parent / picture["src"]) as image:
            assert max(image.size) == 480 or max(image.size) == 451
    assert not [each for each in seen.elements if each.get("class") == "none"]


def test_the_best_case_can_be_opened_by_its_address(
    tmp_path: Path, two_photos: dict[str, Any], browse: Callable[..., tuple[str, list[str]]]
) -> None:
    page = write_report(two_photos, tmp_path / "report")
    seen = Seen(browse(page, "#method=1&image=<b>astronaut</b>")[0])
    assert "open" in seen.all("dialog")[0]
    assert seen.all("button", "viewer", **{"aria-pressed": "true"})[0]["text"] == "nothing: errors"
    (picture,) = seen.all("img", "viewer")
    assert picture["src"].endswith("e1-large.jpg")


# What a reader does, and what is then there; a file beside the page, as the page runs no script but its own.
ACTIONS = """
const wait = () => new Promise((done) => setTimeout(done, 300));
// What is shown a little later may take a busy machine longer.
const until = async (holds) => { for (let i = 0; i < 20 && !holds(); i += 1) await wait(); };
const $ = (selector) => document.querySelector(selector);
const names = () => [...document.querySelectorAll("#images button.name")].map((button) => button.textContent);
const methods = () => [...document.querySelectorAll("#scores tbody th")].map((cell) => cell.textContent);
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const tab = () => $("#viewer [aria-pressed=true]").textContent;
const found = {};
addEventListener("load", async () => {
  await wait();
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  $("#scores [data-key=MAE]").click();
  found.ascending = methods();
  $("#scores [data-key=MAE]").click();
  found.descending = methods();
  $("#problems").open = true;
  await wait();
  found.problems = $("#problems tbody").textContent;
  $("#images [data-key=wF]").click();
  found.sorted = names();
  $("[name=filter]").value = "CHEL";
  $("[name=filter]").dispatchEvent(new Event("input"));
  await until(() => names().length === 1);
  found.filtered = names();
  found.address = decodeURIComponent(location.hash);
  const canvas = $("#scatter canvas");
  canvas.focus();
  press("End");
  found.told = $("#told").textContent;
  press("Enter");
  await wait();
  found.opened = [$("#viewer").open, $("#viewer-name").textContent, tab()];
  press("ArrowRight");
  found.turned = tab();
  press("p");
  found.before = $("#viewer-name").textContent;
  $("#viewer .close").click();
  found.closed = $("#viewer").open;
  const box = canvas.getBoundingClientRect();
  const dot = { x: parseFloat($(".ring").style.left), y: parseFloat($(".ring").style.top) };
  const at = { clientX: box.left + dot.x + 3, clientY: box.top + dot.y };
  canvas.dispatchEvent(new MouseEvent("click", { ...at, bubbles: true }));
  await wait();
  found.clicked = $("#viewer-name").textContent;
  $("#viewer .close").click();
  $("[name=x]").value = "MAE";
  $("[name=x]").dispatchEvent(new Event("change"));
  $("[name=other]").value = "1";
  $("[name=other]").dispatchEvent(new Event("change"));
  await wait();
  found.axes = canvas.getAttribute("aria-label");
  $("#best .picture:nth-child(2) button").click();
  await wait();
  found.enlarged = [$("#viewer-name").textContent, tab(), $(".stage img").naturalWidth];
  document.title = JSON.stringify(found);
});
"""


def test_what_a_reader_does(
    tmp_path: Path, two_photos: dict[str, Any], browse: Callable[..., tuple[str, list[str]]]
) -> None:
    page = write_report(two_photos, tmp_path / "report")
    (page.parent / "actions.js").write_text(ACTIONS)
    acted = page.with_name("acted.html")
    acted.write_text(page.read_text("utf-8").replace("</body>", '<script src="actions.js"></script></body>'), "utf-8")
    text, messages = browse(acted, "", "--window-size=1280,900", "--dump-dom")
    assert messages == []
    title = Seen(text).all("title")[0]["text"]
    assert title.startswith("{"), title
    assert json.loads(title) == {
        "wide": True,
        "ascending": ["halves", "nothing"],
        "descending": ["nothing", "halves"],
        "problems": "odd<u>x</u>.pngsomethinghalvesphotos" + "odd<u>x</u>.pngsomethingnothingphotos",
        "sorted": ["<b>astronaut</b>", "<b>chelsea</b>"],
        "filtered": ["<b>chelsea</b>"],
        "address": "#sort=wF&down=1&filter=CHEL",
        "told": "<b>astronaut</b>: wF .8000, position in sorted order 2",
        "opened": [True, "<b>astronaut</b>", "halves: errors"],
        "turned": "nothing: prediction",
        "before": "<b>chelsea</b>",
        "closed": False,
        "clicked": "<b>astronaut</b>",
        "axes": "2 images: wF of halves over MAE of nothing",
        "enlarged": ["<b>astronaut</b>", "truth", 512],
    }


def coloured(picture: Path, colour: tuple[int, int, int]) -> float:
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return float((abs(pixels - colour).max(-1) < 12).mean())


@pytest.mark.parametrize("prepared", [True, False])
def test_errors_look_the_same_prepared_and_painted_by_the_browser(
    tmp_path: Path, two_photos: dict[str, Any], browse: Callable[..., tuple[str, list[str]]], prepared: bool
) -> None:
    # With a single case, the worst photo is prepared and the other is painted from its own files.
    page = write_report(two_photos, tmp_path / "report", cases=1)
    name = "chelsea" if prepared else "astronaut"
    picture = tmp_path / "seen.png"
    _, messages = browse(page, f"#image=<b>{name}</b>", "--window-size=1280,900", f"--screenshot={picture}")
    assert [message for message in messages if "written to file" not in message] == []
    # A quarter each of the picture, which fills most of the height or of the width.
    positive, negative = coloured(picture, FALSE_POSITIVE), coloured(picture, FALSE_NEGATIVE)
    assert positive == pytest.approx(negative, rel=0.1)
    assert positive > 0.05


def test_a_report_without_the_folder_beside_it_says_so(
    tmp_path: Path, two_photos: dict[str, Any], browse: Callable[..., tuple[str, list[str]]]
) -> None:
    page = write_report(two_photos, tmp_path / "report")
    alone = tmp_path / "alone.html"
    shutil.copy(page, alone)
    (alarm,) = Seen(browse(alone)[0]).all("p", id="alarm")
    assert "hidden" not in alarm
    assert re.search(r"report-\w+/set-0\.js is missing: keep it beside this page", alarm["text"])


def test_five_thousand_images_stay_readable(tmp_path: Path, browse: Callable[..., tuple[str, list[str]]]) -> None:
    count = 5000
    rng = np.random.default_rng(0)
    truth = tmp_path / "truth.png"
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(truth)
    methods = {
        f"method {place}": [
            {
                "name": f"photo {number:04}",
                "image": None,
                "truth": str(truth),
                "prediction": str(truth),
                "size": [64, 64],
                "values": {name: float(rng.random()) for name in MEASURES},
                "notes": [],
            }
            for number in range(count)
        ]
        for place in range(3)
    }
    problems = [{"kind": "soft-truth", "file": f"{number}.png", "detail": "soft"} for number in range(count)]
    results = results_of(methods, problems)
    page = write_report(results, tmp_path / "report")
    text, messages = browse(page, "#sort=wF&page=1&method=1")
    seen = Seen(text)
    assert messages == []
    assert seen.all("html")[0].get("data-ready") == "yes"
    values = [image["values"]["wF"] for image in methods["method 1"]]
    order = sorted(range(count), key=values.__getitem__)
    assert seen.rows("images") == [f"photo {number:04}" for number in order[50:100]]
    assert seen.all("canvas", "scatter")[0]["aria-label"].startswith("5000 images: wF of method 1")
    assert len(seen.elements) < 3000
    assert len(seen.all("article", "worst")) == len(seen.all("article", "best")) == 12
