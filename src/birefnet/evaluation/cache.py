"""Scores that were computed before, kept by the content of what they were computed from."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import birefnet
from birefnet._atomic import make_folder, write_whole

# What can move a value: the libraries that the measures stand on.
_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "scipy")
_ROOMS = ("metrics", "imaging/masks.py", "evaluation/score.py")


def default_folder() -> Path:
    """Where scores are kept unless a user says otherwise: below $XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "birefnet" / "evaluation"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: Any) -> str:
    """Name what depends on some JSON values and on the code that computes scores."""
    text = json.dumps([code_version(), *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_version() -> str:
    """Digest of the measures' own code and of the versions of the libraries under it."""
    root = Path(birefnet.__file__).parent
    places = [root / room for room in _ROOMS]
    return digest_of(
        [path for place in places for path in (sorted(place.glob("*.py")) if place.is_dir() else [place])], _LIBRARIES
    )


def digest_of(code: Iterable[Path], libraries: Iterable[str]) -> str:
    """Digest of some files and of the versions of some libraries, installed or not."""
    digest = hashlib.sha256()
    for path in code:
        digest.update(path.read_bytes())
    for library in libraries:
        try:
            digest.update(f"{library} {metadata.version(library)}".encode())
        except metadata.PackageNotFoundError:
            digest.update(library.encode())
    return digest.hexdigest()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


class Cache:
    """A folder of small JSON files below their checksum, each named by the digest of what it depends on.

    Attributes:
        folder: where they lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under a key, None where there is nothing or it is damaged."""
        if self.folder is None:
            return None
        try:
            digest, _, content = self._path(key).read_bytes().partition(b"\n")
            kept = json.loads(content)
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and digest == _digest(content) else None

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep JSON values under a key, whole or not at all.

        Raises:
            OutputError: the folder cannot be written to.
        """
        if self.folder is None:
            return
        path = self._path(key)
        make_folder(path.parent)
        content = json.dumps(value).encode()
        write_whole(path, _digest(content) + b"\n" + content)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        # Two letters a folder: no file system likes a million files in one.
        return self.folder / key[:2] / f"{key[2:]}.json"
