from pathlib import Path

import pytest

from birefnet.classes import DIS5K_CLASSES
from birefnet.data.pairs import class_of, discover, find_pairs, split_spec
from birefnet.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def kinds(place: Path, masks: Path | None = None) -> list[tuple[str, str]]:
    return [(problem.kind, Path(problem.file).name) for problem in discover(place, masks).problems]


def test_pairs_match_by_stem_whatever_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "im", "b.JPG", "a.jpeg", "c-1.x.webp", "notes.txt", ".hidden.jpg", ".hidden/a.jpg")
    touch(tmp_path / "gt", "a.png", "b.png", "c-1.x.bmp", "Thumbs.db")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "c-1.x"]
    assert pairs[1].image == tmp_path / "im" / "b.JPG"
    assert pairs[1].mask == tmp_path / "gt" / "b.png"
    assert [pair.source for pair in pairs] == ["a", "b", "c"]
    assert {pair.data for pair in pairs} == {tmp_path.name}
    assert discover(tmp_path).notes == ()


@pytest.mark.parametrize("missing", ["im", "gt"])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    touch(tmp_path / "im", "a.jpg")
    touch(tmp_path / "gt", "a.png")
    (tmp_path / missing).rename(tmp_path / "other")
    with pytest.raises(DataError, match=rf"{missing}: no such folder.*im/.*gt/") as caught:
        find_pairs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folder", "kind"), [("im", "photos"), ("gt", "masks")])
def test_folder_without_images(tmp_path: Path, folder: str, kind: str) -> None:
    touch(tmp_path, "im/a.jpg", "gt/a.png")
    next((tmp_path / folder).iterdir()).rename(tmp_path / folder / "readme.txt")
    with pytest.raises(DataError, match=rf"{folder}: holds no {kind}"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("folder", "message"), [("im", "photos have no mask"), ("gt", "masks have no photo")])
def test_files_without_partner_are_listed(tmp_path: Path, folder: str, message: str) -> None:
    touch(tmp_path / "im", "a.jpg")
    touch(tmp_path / "gt", "a.png")
    touch(tmp_path / folder, *(f"lonely{n}.jpg" for n in range(7)))
    with pytest.raises(DataError, match=rf"7 {message} \(lonely0\.jpg, .*lonely4\.jpg, \.\.\.\)"):
        find_pairs(tmp_path)
    found = discover(tmp_path)
    assert [pair.name for pair in found.pairs] == ["a"]
    kind = "no-mask" if folder == "im" else "no-photo"
    assert kinds(tmp_path) == [(kind, f"lonely{n}.jpg") for n in range(7)]
    assert all(problem.stops for problem in found.problems)


def test_two_photos_with_one_stem(tmp_path: Path) -> None:
    touch(tmp_path / "im", "a.jpg", "a.png")
    touch(tmp_path / "gt", "a.png")
    with pytest.raises(DataError, match=r"same stem as a\.jpg"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("image", "mask"), ("img", "gt"), ("im", "alpha")])
def test_other_names_of_the_folders_are_said(tmp_path: Path, images: str, masks: str) -> None:
    touch(tmp_path, f"{images}/a.jpg", f"{masks}/a.png")
    found = discover(tmp_path)
    assert [pair.image.parent.name for pair in found.pairs] == [images]
    assert found.notes == (f"{tmp_path}: photos are taken from {images}/, masks from {masks}/",)


def test_of_several_folders_the_reference_s_own_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "im/a.jpg", "images/b.jpg", "gt/a.png")
    (note,) = discover(tmp_path).notes
    assert note.endswith("from im/, masks from gt/; not used: images/")


def test_folders_below_are_part_of_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "im/x/a-1.jpg", "im/y/a-1.jpg", "gt/x/a-1.png", "gt/y/a-1.png")
    (tmp_path / "im" / "x" / "round").symlink_to(tmp_path / "im")
    pairs = find_pairs(tmp_path)
    assert [(pair.name, pair.source) for pair in pairs] == [("x/a-1", "a"), ("y/a-1", "a")]


def test_one_letter_written_in_two_ways(tmp_path: Path) -> None:
    touch(tmp_path, "im/caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", "gt/cafe\N{COMBINING ACUTE ACCENT}.png")
    assert len(find_pairs(tmp_path)) == 1


def test_joined_sets(tmp_path: Path) -> None:
    root = tmp_path / "a+b" / "DIS5K"
    touch(root, "TR/im/a.jpg", "TR/gt/a.png", "VD+1/im/a.jpg", "VD+1/gt/a.png")
    touch(tmp_path, "COD/im/c.jpg", "COD/gt/c.png")
    pairs = find_pairs(f"{root}/TR+VD+1+{tmp_path}/COD")
    assert [(pair.data, pair.name) for pair in pairs] == [("TR", "a"), ("VD+1", "a"), ("COD", "c")]
    assert split_spec(root / "VD+1") == [root / "VD+1"]
    for spec in (f"{root}/TR+VD", f"{root}/VD+TR", f"{root}/TR+"):
        with pytest.raises(DataError, match="no such folder or file: a data set has"):
            find_pairs(spec)


def test_a_folder_of_sets_names_them(tmp_path: Path) -> None:
    touch(tmp_path, "DIS5K/TR/gt/a.png", "DIS5K/VD/gt/a.png")
    with pytest.raises(DataError, match=r"holds 2 data sets, and is none.*DIS5K/TR\+VD$"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("mark", ["_mask", "-alpha", "_matte", ".GT", "_Mask"])
def test_masks_may_carry_marks(tmp_path: Path, mark: str) -> None:
    touch(tmp_path, "im/a.jpg", f"gt/a{mark}.png")
    (pair,) = find_pairs(tmp_path)
    assert (pair.name, pair.mask.name) == ("a", f"a{mark}.png")
    (tmp_path / "gt" / f"a{mark}.png").rename(tmp_path / "im" / f"a{mark}.png")
    (pair,) = find_pairs(tmp_path / "im")
    assert (pair.name, pair.image.name, pair.mask.name) == ("a", "a.jpg", f"a{mark}.png")


def test_a_mark_may_be_part_of_the_photo_s_name(tmp_path: Path) -> None:
    touch(tmp_path, "im/a.jpg", "im/a_mask.jpg", "im/mask.jpg", "gt/a.png", "gt/a_mask.png", "gt/mask.png")
    assert [(pair.name, pair.mask.name) for pair in find_pairs(tmp_path)] == [
        ("a", "a.png"),
        ("a_mask", "a_mask.png"),
        ("mask", "mask.png"),
    ]


def test_two_masks_for_one_photo_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "im/a.jpg", "im/b.jpg", "gt/a.png", "gt/a_mask.png", "gt/b.png", "gt/b.tif")
    with pytest.raises(DataError, match=r"a\.jpg: has 2 masks \(a\.png, a_mask\.png\): keep one of them \(2 such"):
        find_pairs(tmp_path)
    assert kinds(tmp_path) == [("several-masks", "a.jpg"), ("several-masks", "b.jpg")]


def test_separate_folders(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "elsewhere/labels/a.png", "elsewhere/labels/b.png")
    assert kinds(tmp_path / "photos", tmp_path / "elsewhere/labels") == [("no-photo", "b.png")]
    with pytest.raises(DataError, match="none: no such folder: name the one that holds the masks"):
        discover(tmp_path / "photos", tmp_path / "none")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "x/b.jpg", "x/a.jpg", "y/1.png", "y/1#1#1#Ant#2.png")
    rows = [
        ["Image", "note", "mask", "class"],
        ["x/b.jpg", "", str(tmp_path / "y/1.png"), "Bag"],
        [],
        ["x/a.jpg", "", "y/1#1#1#Ant#2.png", ""],
    ]
    table = tmp_path / "set.csv"
    table.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    first, second = find_pairs(table)
    assert (first.name, first.data, first.category) == ("x/a", "set", DIS5K_CLASSES.index("Ant"))
    assert (second.mask, second.category) == (tmp_path / "y/1.png", DIS5K_CLASSES.index("Bag"))


def test_what_is_wrong_with_a_table_is_listed_with_its_lines(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    table = tmp_path / "set.csv"
    table.write_text("image,mask,class\na.jpg,a.png,218\na.jpg,a.png,0\nb.jpg,a.png,\na.jpg,b.png,\n")
    found = discover(table)
    assert len(found.pairs) == 1
    assert [problem.kind for problem in found.problems] == ["same-name", "missing-file", "missing-file"]
    assert "line 4" in found.problems[1].detail
    table.write_text("image,mask,class\na.jpg,a.png,Unicorn\n")
    with pytest.raises(DataError, match=r"set\.csv: line 2: unknown class 'Unicorn'"):
        find_pairs(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg,a.png\n", "first line must name the columns image and mask, not 'a.jpg,a.png'"),
        (b"image,mask\n", "holds no photos"),
        (b"image,mask\na.jpg\n", "line 2 lacks a photo or a mask"),
        (b"", "first line must name"),
        (b"\xff\xfe\x00", "cannot be read as a table"),
        (b'image,mask\n"a.jpg,a.png\n', "cannot be read as a table"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    table = tmp_path / "set.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        find_pairs(table)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    touch(tmp_path, "set.txt")
    with pytest.raises(DataError, match=r"set\.txt: a file that is no \.csv"):
        find_pairs(tmp_path / "set.txt")


def test_classes_of_dis5k() -> None:
    assert class_of("1#Accessories#1#Bag#3292738108_d1827bc0ef_o.png") == DIS5K_CLASSES.index("Bag")
    assert class_of("17#Non-motor Vehicle#5#Yacht#1.png") == len(DIS5K_CLASSES) - 1
    assert class_of("a#b#c#Ant.png") == 1
    assert [class_of(name) for name in ("bag.png", "1#2#3.png", "1#2#3#Unicorn#4.png")] == [None] * 3


def test_pairs_know_their_class(tmp_path: Path) -> None:
    name = "1#Accessories#1#Bag#3"
    touch(tmp_path, f"im/{name}.jpg", f"gt/{name}.png")
    assert find_pairs(tmp_path)[0].category == DIS5K_CLASSES.index("Bag")
