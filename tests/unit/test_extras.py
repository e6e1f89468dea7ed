"""Optional dependencies that are missing, or there but broken."""

from pathlib import Path

import pytest

from birefnet._extras import require
from birefnet.errors import MissingExtraError


def test_what_is_not_installed_is_told_with_the_command() -> None:
    with pytest.raises(MissingExtraError, match=r"not_a_library is not installed: run  pip install 'birefnet\[x\]'"):
        require("not_a_library.part", extra="x")
    with pytest.raises(MissingExtraError, match="pip install 'birefnet'"):
        require("not_a_library", extra=None)


@pytest.mark.parametrize(
    "line",
    ["raise OSError('libcudart.so.12: cannot open\\nmore')", "import not_a_library", "None.x", "raise ImportError"],
)
def test_what_cannot_be_imported_is_told_in_one_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_broken_library.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="a_broken_library is installed but cannot be imported") as error:
        require("a_broken_library", extra="x")
    assert "\n" not in str(error.value)
    assert error.value.name == "a_broken_library"
