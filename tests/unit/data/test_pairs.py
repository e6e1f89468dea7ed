from pathlib import Path

import pytest

from birefnet.data.pairs import find_pairs
from birefnet.errors import DataError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_pairs_match_by_stem_whatever_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "im", "b.JPG", "a.jpeg", "c-1.x.webp", "notes.txt", ".hidden.jpg")
    touch(tmp_path / "gt", "a.png", "b.png", "c-1.x.bmp", "Thumbs.db")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "c-1.x"]
    assert pairs[1].image == tmp_path / "im" / "b.JPG"
    assert pairs[1].mask == tmp_path / "gt" / "b.png"
    assert [pair.source for pair in pairs] == ["a", "b", "c"]


@pytest.mark.parametrize("missing", ["im", "gt"])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    touch(tmp_path / "im", "a.jpg")
    touch(tmp_path / "gt", "a.png")
    (tmp_path / missing).rename(tmp_path / "other")
    with pytest.raises(DataError, match=rf"{missing}: no such folder.*im/.*gt/") as caught:
        find_pairs(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_without_images(tmp_path: Path) -> None:
    touch(tmp_path / "im", "readme.txt")
    touch(tmp_path / "gt", "a.png")
    with pytest.raises(DataError, match=r"im: holds no photos"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("folder", "message"), [("im", "photos have no mask"), ("gt", "masks have no photo")])
def test_files_without_partner_are_listed(tmp_path: Path, folder: str, message: str) -> None:
    touch(tmp_path / "im", "a.jpg")
    touch(tmp_path / "gt", "a.png")
    touch(tmp_path / folder, *(f"lonely{n}.jpg" for n in range(7)))
    with pytest.raises(DataError, match=rf"7 {message} \(lonely0\.jpg, .*lonely4\.jpg, \.\.\.\)"):
        find_pairs(tmp_path)


def test_two_photos_with_one_stem(tmp_path: Path) -> None:
    touch(tmp_path / "im", "a.jpg", "a.png")
    touch(tmp_path / "gt", "a.png")
    with pytest.raises(DataError, match=r"same stem as a\.jpg"):
        find_pairs(tmp_path)
