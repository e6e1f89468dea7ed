"""The weights that a run has left behind, and which of them are best."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from birefnet._atomic import atomic_path, make_folder
from birefnet.errors import DataError
from birefnet.metrics import LOWER_IS_BETTER

SUFFIXES = (".safetensors", ".pth")


def find_checkpoints(run: Path) -> list[Path]:
    """List the weights files in a run's folder and below it, those of later epochs last.

    Raises:
        DataError: there is no such folder, or no weights in it.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such folder: name the one that a training run has written to")
    found = [path for path in run.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(run).parts)]
    if not found:
        raise DataError(f"{run}: holds no weights ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: _natural(path.relative_to(run).as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers in names by their value: epoch_9 before epoch_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def rank(rows: Sequence[Mapping[str, Any]], measure: str) -> list[tuple[str, float]]:
    """Sort methods by the mean of a measure over their sets, the best first; equal ones stay in order.

    Args:
        rows: of a results file.
        measure: by which.

    Returns:
        (method, mean) of each method that has a value on each of its sets.
    """
    values: dict[str, list[float | None]] = {}
    for row in rows:
        values.setdefault(row["method"], []).append(row["summary"][measure])
    means = [
        (method, sum(v for v in found if v is not None) / len(found))
        for method, found in values.items()
        if None not in found
    ]
    return sorted(means, key=lambda pair: pair[1], reverse=measure not in LOWER_IS_BETTER)


def copy_weights(source: Path, target: Path) -> None:
    """Copy a weights file, whole or not at all.

    Raises:
        OutputError: the copy cannot be written.
    """
    if target.exists() and target.samefile(source):
        return
    make_folder(target.parent)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
