"""Damaged image files: a photo or an ImageError, whatever the damage; benchmarks/fuzz_images.py reads many more."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("resource", reason="the script needs a Unix")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "fuzz_images.py"
    spec = importlib.util.spec_from_file_location("fuzz_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sound_files_are_read(fuzz: ModuleType) -> None:
    assert {fuzz.judge(content) for _, content in fuzz.make_seeds()} == {"read"}


def test_damaged_files_are_read_or_refused(fuzz: ModuleType, tmp_path: Path) -> None:
    seeds, path, verdicts = fuzz.make_seeds(), tmp_path / "photo", {}
    for index in range(400):
        _, content = fuzz.mutate(seeds, 3, index)
        path.write_bytes(content)
        verdicts[index] = fuzz.judge(path if index % 4 == 0 else content)
    assert set(verdicts.values()) == {"read", "refused"}, {
        index: verdict for index, verdict in verdicts.items() if verdict not in ("read", "refused")
    }


def test_what_is_neither_a_photo_nor_a_clean_refusal_is_told(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyError("a tag")

    def refuse(_: object) -> None:
        raise fuzz.ImageError("two\nlines")

    monkeypatch.setattr(fuzz, "read_photo", fail)
    assert fuzz.judge(b"") == "KeyError('a tag')"
    monkeypatch.setattr(fuzz, "read_photo", refuse)
    assert "printable" in fuzz.judge(b"")
