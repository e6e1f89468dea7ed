from pathlib import Path

import pytest

from birefnet.batch.plan import plan
from birefnet.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "a.jpg",
        "b.PNG",
        "set/1.jpg",
        "set/deep/2.webp",
        "set/deep/notes.txt",
        "set/.hidden.png",
        "set/.git/x.png",
        "twins/1.jpg",
        "twins/1.png",
        "empty/readme.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*inputs: str, output: str | None = None, suffix: str = ".png") -> list[tuple[str, str]]:
    jobs = plan(inputs, output, kind="mask", suffix=suffix)
    return [(str(job.source), str(job.target)) for job in jobs]


@pytest.mark.usefixtures("here")
def test_results_lie_beside_photos() -> None:
    assert planned("a.jpg", "set/1.jpg") == [("a.jpg", "a-mask.png"), ("set/1.jpg", "set/1-mask.png")]
    assert planned("a.jpg", suffix=".webp") == [("a.jpg", "a-mask.webp")]
    assert planned("missing.jpg") == [("missing.jpg", "missing-mask.png")]


@pytest.mark.usefixtures("here")
def test_results_go_where_they_are_sent() -> None:
    assert planned("a.jpg", output="x.webp") == [("a.jpg", "x.webp")]
    assert planned("a.jpg", output="out") == [("a.jpg", "out/a-mask.png")]
    assert planned("a.jpg", output="new/") == [("a.jpg", "new/a-mask.png")]
    assert planned("a.jpg", "b.PNG", output="cut/{stem}.{kind}.tiff") == [
        ("a.jpg", "cut/a.mask.tiff"),
        ("b.PNG", "cut/b.mask.tiff"),
    ]


def test_folders_keep_their_tree(here: Path) -> None:
    beside = str(here / "set-mask")
    assert planned("set") == [("set/1.jpg", f"{beside}/1.png"), ("set/deep/2.webp", f"{beside}/deep/2.png")]
    assert planned("set/", output="new") == [("set/1.jpg", "new/1.png"), ("set/deep/2.webp", "new/deep/2.png")]
    assert planned("twins", output="new") == [("twins/1.jpg", "new/1.jpg.png"), ("twins/1.png", "new/1.png.png")]


def test_patterns_are_expanded(here: Path) -> None:
    assert planned("*.jpg") == [("a.jpg", "a-mask.png")]
    assert [source for source, _ in planned("set/**/*.webp")] == ["set/deep/2.webp"]
    (here / "[odd].png").touch()
    assert planned("[odd].png") == [("[odd].png", "[odd]-mask.png")]  # a file of that name comes first


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (("empty",), None, "empty: no photos in this folder"),
        (("*.gif",), None, "no file matches"),
        (("a.jpg", "b.PNG"), "x.png", "2 photos cannot go into one file"),
        (("a.jpg",), "./a.jpg", "is a photo to cut out and would be replaced"),
        (("a.jpg", "set/../b.PNG"), "b.PNG/../{stem}.PNG", "would be replaced"),
        (("a.jpg", "./a.jpg"), None, "would both be written"),
        (("set/1.jpg", "twins/1.jpg"), "out", "would both be written"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_would_lose_something_is_refused(inputs: tuple[str, ...], output: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(inputs, output, kind="mask")
