"""What files, folders and a cache do while they are looked at."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import InputError, OutputError
from birefnet.evaluation.cache import Cache
from birefnet.evaluation.model import HowToRun, open_model
from birefnet.evaluation.report import write_report
from birefnet.evaluation.results import to_json, write_text
from birefnet.evaluation.run import evaluate_entries
from birefnet.evaluation.score import Settings, score_and_keep, score_key
from birefnet.evaluation.sets import Entry, match_photos, match_predictions, named_set
from birefnet.metrics import Scorer
from birefnet.metrics.pair import Pair

SETTINGS = Settings(("MAE", "wF"))


def mask(path: Path, left: int = 10) -> Path:
    levels = np.zeros((40, 50), np.uint8)
    levels[10:30, left : left + 20] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)
    return path


def test_a_file_that_changes_meanwhile_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    truth, prediction = mask(tmp_path / "gt/a.png"), mask(tmp_path / "pred/a.png")
    cache = tmp_path / "cache"
    key = score_key(truth, prediction, SETTINGS)
    mask(prediction, left=25)
    score_and_keep(truth, prediction, SETTINGS, cache, key)
    assert Cache(cache).get(key) is None
    score_and_keep(truth, prediction, SETTINGS, cache, score_key(truth, prediction, SETTINGS))
    assert Cache(cache).get(score_key(truth, prediction, SETTINGS)) is not None


def test_no_prediction_replaces_a_mask_or_a_photo(tmp_path: Path) -> None:
    truth = mask(tmp_path / "set/gt/a.png")
    mask(tmp_path / "set/im/a.png")
    before = truth.read_bytes()
    data = named_set("gt", tmp_path / "set")
    model = open_model("nano", HowToRun(), tmp_path / "set", keep=True)
    with pytest.raises(OutputError, match="would be replaced by a prediction") as error:
        evaluate_entries([(match_photos("nano", data), model)], SETTINGS)
    assert "\n" not in str(error.value)
    assert truth.read_bytes() == before


def entry(folder: Path) -> Entry:
    return match_predictions("mine", folder / "pred", named_set(None, folder / "gt"), only=True)


def test_links_in_a_circle_and_pipes_are_passed_by(tmp_path: Path) -> None:
    for name in ("gt/a.png", "pred/a.png"):
        mask(tmp_path / name)
    for name in ("one", "two"):
        (tmp_path / "gt" / name).symlink_to(".")
    os.mkfifo(tmp_path / "gt" / "pipe.png")
    found = entry(tmp_path)
    assert [item.name for item in found.items] == ["a"]
    assert not [problem for problem in found.problems if problem.kind == "missing-prediction"]


def test_photos_of_one_name_are_told(tmp_path: Path) -> None:
    mask(tmp_path / "gt/a.png")
    for suffix in ("png", "bmp"):
        mask(tmp_path / f"im/a.{suffix}")
    kinds = [problem.kind for problem in match_photos("nano", named_set(None, tmp_path)).problems]
    assert kinds == ["duplicate-image"]


def test_damaged_entries_of_the_cache_are_made_anew(tmp_path: Path) -> None:
    for name in ("gt/a.png", "pred/a.png"):
        mask(tmp_path / name)
    cache = Cache(tmp_path / "cache")
    settings = Settings(("MAE", "HCE"))
    expected = to_json(evaluate_entries([(entry(tmp_path), None)], settings, cache=cache))
    random = np.random.default_rng(0)
    for _ in range(60):
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_file():
                content = bytearray(path.read_bytes())
                content[random.integers(len(content))] ^= int(random.integers(1, 256))
                path.write_bytes(content)
        assert to_json(evaluate_entries([(entry(tmp_path), None)], settings, cache=cache)) == expected


def test_results_go_through_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "{}")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "{}"
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(30)
    assert read == ["through"]
    write_text(Path("/dev/null"), "nothing")
    assert not Path("/dev/null").is_file()


def test_names_that_are_no_utf_8_are_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    write_text(tmp_path / "results.json", to_json({"name": name, "other": "ä"}))
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["name"] == name
    write_text(tmp_path / "values.csv", name)
    assert (tmp_path / "values.csv").read_bytes() == b"\xff\xfe.png"


def test_a_page_of_another_s_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>mine</p>")
    row = {"method": "a", "set": "b", "task": None, "count": 0, "summary": {"wF": 1.0}, "curves": {}, "images": []}
    results = {"birefnet": "1", "conventions": {}, "measures": ["wF"], "rows": [row]}
    with pytest.raises(OutputError, match="is no report of ours"):
        write_report(results, tmp_path)
    assert (tmp_path / "index.html").read_text() == "<p>mine</p>"


@pytest.mark.parametrize("levels", [np.array([[0, 1, 2]], np.uint8), np.array([[0.0, 0.5, 1.0]])])
def test_a_trimap_of_other_levels_is_refused(levels: np.ndarray) -> None:
    image = np.zeros((1, 3), np.uint8)
    with pytest.raises(InputError, match="a trimap is uint8"):
        Pair(image, image, trimap=levels)


def test_a_failed_update_leaves_no_half_of_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.write_text("a file")
    truth = np.zeros((40, 50), np.uint8)
    truth[10:30, 10:30] = 255
    scorer = Scorer(["MAE", "HCE"], cache=folder)
    with pytest.raises(OutputError):
        scorer.update(255 - truth, truth)
    folder.unlink()
    scorer.update(truth, truth)
    assert scorer.images == 1
    assert scorer.compute()["MAE"] == 0
