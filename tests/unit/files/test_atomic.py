import os
from pathlib import Path

import pytest

from birefnet import _atomic
from birefnet._atomic import atomic_path, write_whole
from birefnet.errors import OutputError


@pytest.fixture(params=["nameless", "fallback"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of writing: with a file that has no name at first, and where the system knows none."""
    if request.param == "fallback":
        monkeypatch.setattr(_atomic, "_write_nameless", lambda *_: False)
    return request.param


@pytest.mark.usefixtures("way")
def test_files_are_written_and_replaced_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    usual = tmp_path / "usual.bin"
    usual.touch()
    for content in (b"first", b"", b"x" * 3_000_000):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert path.stat().st_mode == usual.stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.bin", "usual.bin"]


@pytest.mark.usefixtures("way")
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "file"):
        with pytest.raises(OutputError) as error:
            write_whole(path, b"content")
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_the_file_has_no_name_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a process that is killed at this moment would leave behind.
    seen: list[list[str]] = []
    link, replace = os.link, Path.replace

    def spied_link(*args: object, **kwargs: object) -> None:
        seen.append([p.name for p in tmp_path.iterdir()])
        link(*args, **kwargs)  # type: ignore[arg-type]

    def spied_replace(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"content"
        return replace(self, target)

    monkeypatch.setattr(os, "link", spied_link)
    monkeypatch.setattr(Path, "replace", spied_replace)
    write_whole(tmp_path / "file", b"content")
    if not seen:
        pytest.skip("this file system knows no files without a name")
    assert seen == [[]]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_error_on_the_way_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
