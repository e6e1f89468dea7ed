import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from birefnet.config import InputSpec
from birefnet.engines.testing import FakeEngine
from birefnet.errors import OutputError
from birefnet.evaluation import run
from birefnet.evaluation.cache import Cache, default_folder
from birefnet.evaluation.model import HowToRun, Model, open_model
from birefnet.evaluation.run import evaluate_entries
from birefnet.evaluation.score import VALUES, Failure, Scored, Settings, score_files
from birefnet.evaluation.sets import Entry, by_source, match_photos, match_predictions, named_set
from birefnet.metrics import MEASURES, PYSODMETRICS, Scorer
from birefnet.predictor import Predictor

ALL = Settings(VALUES)
RAMP = np.arange(0, 240, 5, np.uint8).reshape(6, 8)


def save(array: np.ndarray, path: Path, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture(scope="module")
def data(astronaut: Path, chelsea: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of real photos, with masks that are thresholds of them, and predictions that are blurred masks."""
    folder = tmp_path_factory.mktemp("data") / "set"
    random = np.random.default_rng(0)
    for number, source in enumerate([astronaut, chelsea] * 3):
        with Image.open(source) as image:
            photo = image.convert("RGB").resize((96 + 8 * number, 80))
        truth = np.where(np.asarray(photo.convert("L")) > 70 + 15 * number, 255, 0).astype(np.uint8)
        soft = cv2.GaussianBlur(truth, (0, 0), 2).astype(float) + random.normal(0, 12, truth.shape)
        name = f"{'cat' if number % 2 else 'woman'}-{number}"
        save(np.asarray(photo), folder / "im" / f"{name}.jpg")
        save(truth, folder / "gt" / f"{name}.png")
        save(soft.clip(0, 255).astype(np.uint8), folder.parent / "pred" / f"{name}.png")
    return folder


def entry_of(data: Path) -> Entry:
    return match_predictions("m", data.parent / "pred", named_set(None, data), only=True)


def without_paths(results: dict[str, Any]) -> str:
    """Everything but where the predictions lay."""
    for row in results["rows"]:
        for image in row["images"]:
            image["prediction"] = None
    return json.dumps(results)


# --- reading ---


# --- one pair ---


def test_two_files_have_the_scores_of_their_arrays(data: Path) -> None:
    item = entry_of(data).items[0]
    assert item.prediction is not None
    scored = score_files(item.truth, item.prediction, ALL)
    assert isinstance(scored, Scored)
    scorer = Scorer(MEASURES)
    values = scorer.update(np.asarray(Image.open(item.prediction)), np.asarray(Image.open(item.truth)))
    assert scored.values == values
    assert scored.size == (80, 104)
    assert {name: curve.tolist() for name, curve in scored.curves.items()} == {
        name: curve.tolist() for name, curve in scorer.curves().items()
    }
    again = Scored.from_json(json.loads(json.dumps(scored.to_json())))
    assert again.values == scored.values
    assert all(np.array_equal(again.curves[name], curve) for name, curve in scored.curves.items())


def test_another_size_is_an_error_unless_it_is_to_be_resized(tmp_path: Path) -> None:
    truth = save(np.where(RAMP > 100, 255, 0).astype(np.uint8), tmp_path / "t.png")
    small = RAMP[::2, ::2]
    prediction = save(small, tmp_path / "p.png")
    failure = score_files(truth, prediction, ALL)
    expected = "3 x 4, and its truth is 6 x 8 (height x width)"
    assert failure == Failure("size-differs", str(prediction), expected)
    scored = score_files(truth, prediction, Settings(("MAE", "wF"), resize=True))
    assert isinstance(scored, Scored)
    assert [note.kind for note in scored.prediction_notes] == ["resized"]
    resized = cv2.resize(small, (8, 6), interpolation=cv2.INTER_LINEAR)
    assert scored.values == Scorer(["MAE", "wF"]).update(resized, np.asarray(Image.open(truth)))


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    good = save(RAMP, tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("")
    assert isinstance(failure := score_files(tmp_path / "bad.png", good, ALL), Failure)
    assert (failure.kind, failure.file) == ("unreadable-truth", str(tmp_path / "bad.png"))
    assert isinstance(failure := score_files(good, tmp_path / "bad.png", ALL), Failure)
    assert (failure.kind, failure.detail) == ("unreadable-prediction", "not an image, or of a kind that cannot be read")


# --- whole sets ---


def test_a_set_is_summed_up_as_the_scorer_does_to_the_last_bit(data: Path) -> None:
    entry = entry_of(data)
    (row,) = evaluate_entries([(entry, None)], ALL)["rows"]
    scorer = Scorer(MEASURES)
    for item, image in zip(entry.items, row["images"], strict=True):
        assert item.prediction is not None
        values = scorer.update(np.asarray(Image.open(item.prediction)), np.asarray(Image.open(item.truth)))
        assert image["values"] == {name: values[name] for name in VALUES}
        assert image["name"] == item.name
    expected = scorer.compute()
    assert row["summary"] == {name: expected[name] for name in VALUES}
    curves = scorer.curves()
    assert {"precision", "recall", "F", "E"} <= curves.keys()
    assert row["curves"] == {name: curve.tolist() for name, curve in curves.items()}
    assert row["count"] == 6


def test_two_processes_find_what_one_finds(data: Path, tmp_path: Path) -> None:
    entries = [(part, None) for part in by_source(entry_of(data))]
    one = evaluate_entries(entries, ALL, jobs=1)
    two = evaluate_entries(entries, ALL, jobs=2, cache=Cache(tmp_path / "cache"))
    assert json.dumps(one) == json.dumps(two)
    assert [row["set"] for row in one["rows"]] == ["set", "set/cat", "set/woman"]
    assert [row["count"] for row in one["rows"]] == [6, 3, 3]


def test_nothing_is_scored_twice_and_nothing_else_is_taken_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    real = run.score_and_keep

    def counted(truth: Path, *rest: Any) -> Scored | Failure:
        scored.append(truth)
        return real(truth, *rest)

    monkeypatch.setattr(run, "score_and_keep", counted)
    pred = tmp_path / "pred"
    pred.mkdir()
    for path in (data.parent / "pred").iterdir():
        (pred / path.name).write_bytes(path.read_bytes())
    cache, settings = Cache(tmp_path / "cache"), Settings(("maxF", "MAE"))

    def scores(settings: Settings) -> tuple[int, str]:
        scored.clear()
        entry = match_predictions("m", pred, named_set(None, data), only=True)
        results = evaluate_entries([(entry, None)], settings, cache=cache)
        return len(scored), json.dumps(results)

    first = scores(settings)
    assert first[0] == 6
    assert scores(settings) == (0, first[1])
    assert scores(Settings(("MAE", "meanF")))[0] == 0  # values of the same measures
    assert scores(Settings(("MAE", "wF")))[0] == 6
    assert scores(Settings(("maxF", "MAE"), PYSODMETRICS))[0] == 6
    # A copy under another name is the same content; a changed file is not.
    one = sorted(pred.iterdir())[0]
    save(255 - np.asarray(Image.open(one)), one)
    assert scores(settings)[0] == 1
    # What is damaged is computed anew.
    for path in (tmp_path / "cache").glob("??/*.json"):
        path.write_text('{"size": [1]}')
    assert scores(settings)[0] == 6
    assert scores(settings)[0] == 0


def test_a_cache_that_cannot_be_written_is_an_error_with_a_remedy(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="name another folder with --cache, or pass --no-cache"):
        evaluate_entries([(entry_of(data), None)], Settings(("MAE",)), cache=Cache(tmp_path / "file"))


def test_the_cache_is_where_the_system_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "birefnet" / "evaluation"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "birefnet" / "evaluation"


def test_problems_are_listed_whole_and_the_rest_is_scored(tmp_path: Path) -> None:
    pred, truth = tmp_path / "pred", tmp_path / "truth"
    ramp = np.where(RAMP > 100, 255, 0).astype(np.uint8)
    for name in ("good", "empty", "wide", "text", "soft"):
        save(ramp, truth / f"{name}.png")
        save(RAMP, pred / f"{name}.png")
    save(ramp * 0, truth / "empty.png")
    save(RAMP, truth / "soft.png")
    save(RAMP[:, :-1], pred / "wide.png")
    (pred / "text.png").write_text("no image")
    entry = match_predictions("m", pred, named_set(None, truth), only=True)
    (row,) = evaluate_entries([(entry, None)], ALL)["rows"]
    assert [image["name"] for image in row["images"]] == ["empty", "good", "soft"]
    assert row["count"] == 3
    found = {
        (problem["kind"], Path(problem["file"]).parent.name, Path(problem["file"]).stem) for problem in row["problems"]
    }
    assert found == {
        ("empty-truth", "truth", "empty"),
        ("soft-truth", "truth", "soft"),
        ("size-differs", "pred", "wide"),
        ("unreadable-prediction", "pred", "text"),
    }
    assert row["images"][0]["notes"] == ["truth: nothing is above 128, the greatest level is 0"]
    assert all(value is not None for value in row["images"][0]["values"].values())
    # The truth of a matte is soft because it is meant to be.
    matte = Entry("m", "truth", "matting", entry.items)
    (row,) = evaluate_entries([(matte, None)], ALL)["rows"]
    assert "soft-truth" not in {problem["kind"] for problem in row["problems"]}


def test_a_set_without_scores_has_no_means() -> None:
    (row,) = evaluate_entries([(Entry("m", "s", None, ()), None)], ALL)["rows"]
    assert (row["count"], row["curves"]) == (0, {})
    assert set(row["summary"].values()) == {None}


# --- models ---


class CountingEngine(FakeEngine):
    """Counts the photos it has seen."""

    seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        return super().__call__(images)


def test_a_model_is_scored_as_its_masks_are_and_predicts_nothing_twice(data: Path, tmp_path: Path) -> None:
    engine = CountingEngine()
    loaded = []

    def load() -> Predictor:
        loaded.append(1)
        return Predictor(engine, InputSpec(size=(64, 64)))

    entry, cache = match_photos("fake", named_set(None, data)), Cache(tmp_path / "cache")

    def scores(masks: str, *, identity: str = "one", keep: bool = False, settings: Settings = ALL) -> tuple[int, str]:
        engine.seen = 0
        model = Model(load, identity, tmp_path / masks, keep)
        results = evaluate_entries([(part, model) for part in by_source(entry)], settings, cache=cache)
        return engine.seen, without_paths(results)

    first = scores("a", keep=True)
    assert first[0] == 6
    files = match_predictions("fake", tmp_path / "a", named_set(None, data), only=True)
    again = evaluate_entries([(part, None) for part in by_source(files)], ALL)
    assert without_paths(again) == first[1]
    assert len(loaded) == 1
    assert scores("b") == (0, first[1])
    assert len(loaded) == 1  # not even loaded
    assert not (tmp_path / "b").exists()
    assert scores("a", keep=True) == (0, first[1])
    assert scores("c", keep=True) == (6, first[1])  # the masks are wanted
    assert len(list((tmp_path / "c" / "set").iterdir())) == 6
    assert scores("a", settings=Settings(("MAE",)))[0] == 0  # the masks are there to be measured otherwise
    assert scores("d", settings=Settings(("MAE", "S")))[0] == 6
    assert scores("e", identity="two")[0] == 6


def test_a_photo_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    save(RAMP, tmp_path / "set/im/good.png", "RGB")
    (tmp_path / "set/im/bad.png").write_text("no image")
    for name in ("good", "bad"):
        save(np.where(RAMP > 100, 255, 0).astype(np.uint8), tmp_path / f"set/gt/{name}.png")
    model = Model(lambda: Predictor(FakeEngine(), InputSpec(size=(64, 64))), None, tmp_path / "masks")
    (row,) = evaluate_entries([(match_photos("m", named_set(None, tmp_path / "set")), model)], ALL)["rows"]
    assert [image["name"] for image in row["images"]] == ["good"]
    assert [(p["kind"], p["detail"]) for p in row["problems"]] == [
        ("unreadable-image", "not an image, or of a kind that cannot be read")
    ]


def test_the_bundled_model_is_known_by_its_files_and_how_it_is_run(tmp_path: Path) -> None:
    told: list[str] = []
    first = open_model("nano", HowToRun(), tmp_path, tell=told.append)
    assert first.identity == open_model("nano", HowToRun(), tmp_path / "other").identity
    assert first.identity != open_model("nano", HowToRun(refine=True), tmp_path).identity
    assert first.identity != open_model("nano", HowToRun(mirror=False), tmp_path).identity
    assert first.identity != open_model("nano", HowToRun(crf=0.5), tmp_path).identity
    assert first.identity != open_model("nano", HowToRun(keep_aspect=False), tmp_path).identity
    assert first.identity != open_model("nano", HowToRun(size=128), tmp_path).identity
    assert first.ready().spec.size == (384, 384)
    assert open_model("nano", HowToRun(size=128, refine=True), tmp_path).ready().refine
    for mirror in (False, True):
        assert open_model("nano", HowToRun(mirror=mirror), tmp_path).ready().mirror is mirror
    assert open_model("nano", HowToRun(crf=0.5), tmp_path).ready().spec.crf == 0.5
    assert json.dumps(first.identity)
