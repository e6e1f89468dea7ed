"""The results file: everything an evaluation found, as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birefnet._atomic import write_whole
from birefnet.errors import DataError, OutputError

_NEEDED = ("conventions", "measures", "rows")
_NEEDED_ROW = ("method", "set", "summary", "images")


@dataclass(frozen=True, eq=False)
class Results:
    """A results file.

    Attributes:
        path: where it was read.
        content: what it holds; `docs/metrics.md` lists the fields.
    """

    path: Path
    content: dict[str, Any]


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        DataError: it is missing, no JSON, or was not written by `birefnet evaluate`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: write it with  birefnet evaluate ... -o {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not _is_results(content):
        raise DataError(f"{path}: no results of birefnet evaluate; write them with its option -o")
    return Results(path, content)


def _is_results(content: object) -> bool:
    if not isinstance(content, dict) or any(key not in content for key in _NEEDED):
        return False
    rows = content["rows"]
    return isinstance(rows, list) and all(isinstance(row, dict) and all(k in row for k in _NEEDED_ROW) for row in rows)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; missing folders are made.

    Raises:
        OutputError: the operating system refused to write.
    """
    # Names of files that are no UTF-8 are kept byte for byte.
    content = text.encode("utf-8", "surrogateescape")
    try:
        path = path.resolve()  # a link stays, and what it points to is written
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe or a device, which nothing can take the place of
            path.write_bytes(content)
            return
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    write_whole(path, content)


def to_json(results: Mapping[str, Any]) -> str:
    """Write results as JSON in which every number is finite."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        text = json.dumps(results, indent=1, allow_nan=False)  # a name that is no UTF-8, escaped
    return text + "\n"
