"""The hub's cache on this machine, with the layout of `huggingface_hub`, and the environment that says where it is.

The environment is read when it is needed, not when something is imported.
"""

import os
import re
from pathlib import Path, PurePosixPath

from birefnet._atomic import write_whole
from birefnet.errors import ConfigError
from birefnet.zoo import HUB

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
# The hub's own rules for names, which also keep them from leaving the cache folder.
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_TRUE = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """Address of the hub: HF_ENDPOINT, such as that of a mirror, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to use the network."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def cache_folder() -> Path:
    """The hub's cache, where `huggingface_hub` has it: HF_HUB_CACHE, or `hub` in HF_HOME."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name])).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(os.environ["HF_HOME"])).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expandvars(base)).expanduser() / "huggingface" / "hub"


def repo_folder(repo: str) -> Path:
    """A repository's part of the cache: `blobs`, by checksum; `snapshots`, by commit; `refs`, by branch."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshot_folder(repo: str, revision: str | None) -> Path | None:
    """Folder of a revision's files in the cache, None when there is none."""
    folder, commit = repo_folder(repo), revision or MAIN
    if not COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def cached_file(repo: str, filename: str, revision: str | None = None) -> Path | None:
    """Path of a file in the cache, None when it is not there. Asks nobody."""
    check_names(repo, filename=filename, revision=revision)
    snapshot = snapshot_folder(repo, revision)
    path = snapshot / filename if snapshot else None
    return path if path and path.is_file() else None


def write_ref(repo: str, revision: str | None, commit: str) -> None:
    """Note which commit a branch is at, for the next time without network."""
    name = revision or MAIN
    path = repo_folder(repo) / "refs" / name
    if name != commit and not (path.is_file() and path.read_text(encoding="ascii") == commit):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, commit.encode())


def check_names(repo: str, *, filename: str = "file", revision: str | None = None) -> None:
    """Refuse what can name no repository, file or revision, and so must not become a path in the cache.

    Raises:
        ConfigError: one of the names is impossible.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{repo!r} is no repository of the hub: it must look like OWNER/NAME")
    for what, name in (("file", filename), ("revision", revision or MAIN)):
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
            raise ConfigError(f"{repo}: {name!r} is no name of a {what}")
