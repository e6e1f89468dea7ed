from pathlib import Path

import pytest
from PIL import Image

from birefnet.errors import DataError
from birefnet.evaluation.sets import (
    Entry,
    Item,
    Problem,
    TruthSet,
    by_source,
    data_sets,
    match_photos,
    match_predictions,
    named_set,
)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(path)
    return folder


def test_predictions_are_matched_by_stem_and_what_is_left_over_is_told(tmp_path: Path) -> None:
    truth = fill(tmp_path / "gt", "b.png", "a.png", "deep/c.png", "d.1.png", ".hidden.png")
    (truth / "notes.txt").write_text("no image")
    made = fill(tmp_path / "pred", "a.jpg", "deep/c.png", "d.1.png", "x.png", "a.png")
    entry = match_predictions("m", made, TruthSet("set", truth), only=True)
    assert [item.name for item in entry.items] == ["a", "d.1", "deep/c"]
    assert entry.items[0] == Item("a", truth / "a.png", None, made / "a.jpg")
    assert entry.problems == (
        Problem("missing-prediction", str(made / "b"), f"there is no such file for {truth / 'b.png'}"),
        Problem("extra-prediction", str(made / "x.png"), f"no mask of this name in {truth}"),
        Problem("duplicate-prediction", str(made / "a.png"), "not used: there is another of its name"),
    )


def test_predictions_of_a_set_lie_in_a_folder_of_its_name(tmp_path: Path) -> None:
    one, two = (
        TruthSet("one", fill(tmp_path / "1", "a.png")),
        TruthSet("two", fill(tmp_path / "2", "a.png"), task="dis"),
    )
    made = fill(tmp_path / "pred", "one/a.png", "DIS5K/two/a.png", "a.png")
    assert match_predictions("m", made, one, only=False).items[0].prediction == made / "one" / "a.png"
    assert match_predictions("m", made, two, only=False).items[0].prediction == made / "DIS5K" / "two" / "a.png"
    other = TruthSet("other", one.truth)
    assert match_predictions("m", made, other, only=True).items[0].prediction == made / "a.png"
    with pytest.raises(DataError, match="pred: holds no folder other: where there are several sets"):
        match_predictions("m", made, other, only=False)


def test_a_file_is_matched_with_a_file(tmp_path: Path) -> None:
    fill(tmp_path, "mine.png", "true.png", "gt/a.png")
    entry = match_predictions("m", tmp_path / "mine.png", named_set(None, tmp_path / "true.png"), only=True)
    assert (entry.data, entry.items) == ("true", (Item("true", tmp_path / "true.png", None, tmp_path / "mine.png"),))
    with pytest.raises(DataError, match="one is a file, the other a folder"):
        match_predictions("m", tmp_path / "mine.png", named_set(None, tmp_path / "gt"), only=True)


def test_a_layout_tells_sets_and_tasks(tmp_path: Path) -> None:
    for place in ("DIS5K/DIS-VD", "COD/CAMO", "plain"):
        fill(tmp_path / place, "im/a.jpg", "gt/a.png")
    found = {data.name: data for data in data_sets(tmp_path)}
    assert {name: data.task for name, data in found.items()} == {"DIS-VD": "dis", "CAMO": "cod", "plain": None}
    assert [data.name for data in data_sets(tmp_path / "DIS5K")] == ["DIS-VD"]
    assert data_sets(tmp_path / "plain") == [TruthSet("plain", tmp_path / "plain/gt", tmp_path / "plain/im")]
    assert named_set(None, tmp_path / "COD/CAMO/gt") == found["CAMO"]
    assert named_set("mine", tmp_path / "COD/CAMO").name == "mine"
    with pytest.raises(DataError, match="no data set"):
        data_sets(tmp_path / "plain/im")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        data_sets(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        named_set(None, tmp_path / "nowhere")


def test_photos_without_truth_and_the_reverse_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "set", "im/a.jpg", "im/x.jpg", "gt/a.png", "gt/b.png")
    entry = match_photos("m", named_set(None, tmp_path / "set"))
    assert entry.items == (Item("a", tmp_path / "set/gt/a.png", tmp_path / "set/im/a.jpg"),)
    assert [(p.kind, Path(p.file).name) for p in entry.problems] == [("missing-image", "b"), ("missing-truth", "x.jpg")]
    with pytest.raises(DataError, match="no photos: a data set has its photos in im/"):
        match_photos("m", TruthSet("t", tmp_path / "set/gt"))


@pytest.mark.parametrize(("names", "message"), [((), "holds no masks"), (("a.png", "a.jpg"), "same name as another")])
def test_truth_must_be_there_once(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    truth = fill(tmp_path / "gt", *names)
    truth.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        match_predictions("m", fill(tmp_path / "pred", "a.png"), TruthSet("t", truth), only=True)
    with pytest.raises(DataError, match=r"nowhere: no such file or folder: name the one with the predictions of m"):
        match_predictions("m", tmp_path / "nowhere", TruthSet("t", truth), only=True)


def test_a_mixed_set_is_parted_by_source() -> None:
    items = tuple(Item(name, Path(name)) for name in ("cat-1", "cat-2", "dog-1"))
    whole, cats, dogs = by_source(Entry("m", "set", "dis", items))
    assert (whole.items, cats.items, dogs.items) == (items, items[:2], items[2:])
    assert (cats.data, cats.part_of, cats.task, dogs.data) == ("set/cat", "set", "dis", "set/dog")
    assert len(by_source(Entry("m", "set", None, items[:2]))) == 1
