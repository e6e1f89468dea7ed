"""Weights from the Hugging Face hub, and to it.

Built on `huggingface_hub`, whose cache, environment variables and log-in are used as they are (HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, the proxies). Three things are added: a download that was cut or stopped goes on where it
ended, also in a later call (the library starts anew); a large file gets its name in the cache only once its checksum is
right; and whatever goes wrong is one line with the remedy.

What is in the cache is used without asking the hub, so a second run needs no network. Code from a repository is never
downloaded, let alone run.
"""

import difflib
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from birefnet._atomic import write_whole
from birefnet.errors import BiRefNetError, ConfigError, OutputError, WeightsError
from birefnet.zoo import HUB, ZOO, ZooModel, find

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
CARD = "README.md"
MAIN = "main"

RETRIES = 5
"""How often a connection may fail in a row without a single new byte."""
FIRST_WAIT = 1.0
"""Seconds before the first new attempt; each further one waits twice as long."""
BUSY = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that another attempt may cure."""
CHUNK = 1 << 20

_TRUE = {"1", "ON", "YES", "TRUE"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The hub's own rules for names, which also keep them from leaving the cache folder.
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$|\.index\.json$")


class HubUnreachableError(WeightsError):
    """The hub does not answer, or may not be asked."""


@dataclass(frozen=True)
class HubModel:
    """A model's files in the local cache.

    Attributes:
        repo: its repository, OWNER/NAME.
        commit: the repository's commit that the files are of.
        weights: the weights file.
        config: what its config.json says; None where it has none.
        preprocessor: what its preprocessor_config.json says; None where it has none.
        licence: the licence its model card states; None where it states none.
    """

    repo: str
    commit: str
    weights: Path
    config: dict[str, Any] | None
    preprocessor: dict[str, Any] | None
    licence: str | None


def fetch_file(
    repo: str, filename: str, *, revision: str | None = None, sha256: str | None = None, token: str | None = None
) -> Path:
    """Return the path of a repository's file in the cache, downloading it when it is not there.

    Args:
        repo: the repository, OWNER/NAME.
        filename: the file's path in it.
        revision: commit, tag or branch; by default the newest of the main branch.
        sha256: what the file must be, checked when it is downloaded. By default the hub's own checksum, where it has
            one (it does for large files).
        token: for gated and private repositories; by default HF_TOKEN, or that of `hf auth login`.

    Raises:
        WeightsError: no such file, no access, no network, a wrong checksum, a full disk.
    """
    _check(repo, filename, revision)
    cached = cached_file(repo, filename, revision)
    if cached is not None:
        return cached
    with _explained(repo, filename=filename, revision=revision):
        commit, path = _download(repo, filename, revision or MAIN, sha256=sha256, token=token)
        _write_ref(repo, revision, commit)
    return path


def fetch_model(
    repo: str,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    token: str | None = None,
    refresh: bool = False,
) -> HubModel:
    """Return a model's files, downloading those that are not in the cache: weights, configuration and model card.

    Args:
        repo: the repository, OWNER/NAME.
        revision: commit, tag or branch; by default the newest of the main branch.
        sha256: what the weights file must be, checked when it is downloaded; by default the hub's own checksum.
        token: for gated and private repositories; by default HF_TOKEN, or that of `hf auth login`.
        refresh: ask the hub for a newer version even when there is one in the cache, which is used if it is out of
            reach.

    Raises:
        WeightsError: no such repository or revision, no weights in it, no access, no network, a wrong checksum, a
            full disk.
    """
    _check(repo, WEIGHTS, revision)
    cached = cached_model(repo, revision)
    if cached is not None and (offline() or not refresh):
        return cached
    try:
        return _fetch_model(repo, revision, sha256, token)
    except HubUnreachableError:
        if cached is None:
            raise
        return cached


def cached_file(repo: str, filename: str, revision: str | None = None) -> Path | None:
    """Path of a file in the cache, None when it is not there. Asks nobody."""
    snapshot = _snapshot(repo, revision)
    path = snapshot / filename if snapshot else None
    return path if path and path.is_file() else None


def cached_model(repo: str, revision: str | None = None) -> HubModel | None:
    """A model from the cache, None when its weights are not there. Asks nobody."""
    snapshot = _snapshot(repo, revision)
    if snapshot is None:
        return None
    try:
        weights = snapshot / choose_weights(repo, [path.name for path in snapshot.iterdir()])
    except WeightsError:
        return None
    return _read_model(repo, snapshot, weights)


def is_cached(repo: str, revision: str | None = None) -> bool:
    """Whether a model can be loaded without the network."""
    snapshot = _snapshot(repo, revision)
    try:
        return snapshot is not None and bool(choose_weights(repo, [path.name for path in snapshot.iterdir()]))
    except WeightsError:
        return False


def require_licence(model: ZooModel, accepted: bool) -> None:
    """Stop where weights may not be used commercially and nobody has said that this is no such use.

    Raises:
        WeightsError: the terms are not accepted; the message says how.
    """
    if not model.commercial and not accepted:
        raise WeightsError(
            f"the weights {model.name!r} are for non-commercial use only ({model.licence}, {model.url}): pass "
            "--accept-licence, or accept_licence=True, if your use complies"
        )


def push_folder(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a BiRefNet",
) -> str:
    """Upload the files of a folder to a repository, which is made if it does not exist.

    Args:
        folder: what to upload, with all below it.
        repo: the repository, OWNER/NAME.
        private: whether a new repository is hidden from others.
        token: one that may write; by default HF_TOKEN, or that of `hf auth login`.
        message: of the commit.

    Returns:
        The address of the repository's page.

    Raises:
        WeightsError: there is no such folder, no network, or no right to write.
    """
    _check(repo, WEIGHTS, None)
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; save the model there first")
    with _explained(repo, push=True), _bars_on_a_terminal():
        api = _api(token)
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    return f"{endpoint()}/{repo}"


def choose_weights(repo: str, names: Iterable[str]) -> str:
    """Say which of a repository's files holds the weights: safetensors if possible, else a state dict.

    Args:
        repo: for the message.
        names: the files in it.

    Raises:
        WeightsError: none does, or several do.
    """
    # Only at the top: folders hold other things, such as ONNX files or checkpoints of the training.
    top = sorted(name for name in names if "/" not in name)
    if WEIGHTS in top:
        return WEIGHTS
    shards = [
        name for name in top if _SHARD.search(name) or name.endswith((".safetensors.index.json", ".bin.index.json"))
    ]
    if shards:
        raise WeightsError(
            f"{repo}: its weights are cut into several files ({shards[0]}, ...), which is not supported: join them "
            f"into one {WEIGHTS}"
        )
    for matches in (
        [name for name in top if name.endswith(".safetensors")],
        [name for name in top if name == "pytorch_model.bin"],
        [name for name in top if name.endswith((".pth", ".pt"))],
    ):
        if len(matches) > 1:
            raise WeightsError(
                f"{repo}: has several weights files ({', '.join(matches)}): download the one you want from "
                f"{endpoint()}/{repo}/tree/main and give its path"
            )
        if matches:
            return matches[0]
    raise WeightsError(
        f"{repo}: has no weights ({WEIGHTS}, pytorch_model.bin or .pth) at its top; see {endpoint()}/{repo}/tree/main"
    )


# --- The environment, read when it is needed and not when something is imported ---


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


def _repo_folder(repo: str) -> Path:
    """A repository's part of the cache: `blobs`, by checksum; `snapshots`, by commit; `refs`, by branch."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _snapshot(repo: str, revision: str | None) -> Path | None:
    """Folder of a revision's files in the cache, None when there is none."""
    _check(repo, WEIGHTS, revision)
    folder, commit = _repo_folder(repo), revision or MAIN
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _write_ref(repo: str, revision: str | None, commit: str) -> None:
    """Note which commit a branch is at, for the next time without network."""
    name = revision or MAIN
    path = _repo_folder(repo) / "refs" / name
    if name != commit and not (path.is_file() and path.read_text(encoding="ascii") == commit):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, commit.encode())


def _check(repo: str, filename: str, revision: str | None) -> None:
    """Refuse what can name no repository, file or revision, and so must not become a path in the cache."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{repo!r} is no repository of the hub: it must look like OWNER/NAME")
    for what, name in (("file", filename), ("revision", revision or MAIN)):
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
            raise ConfigError(f"{repo}: {name!r} is no name of a {what}")


# --- Downloads ---


def _fetch_model(repo: str, revision: str | None, sha256: str | None, token: str | None) -> HubModel:
    """Ask the hub what a repository has, and download what is missing of it."""
    with _explained(repo, revision=revision):
        api = _api(token)
        info = _patiently(lambda: api.model_info(repo, revision=revision or MAIN))
        names = [sibling.rfilename for sibling in info.siblings or []]
        commit = info.sha or revision or MAIN
        chosen = choose_weights(repo, names)
    for name in (CARD, CONFIG, PREPROCESSOR, chosen):  # the weights last: they make the model count as cached
        if name in names and cached_file(repo, name, commit) is None:
            with _explained(repo, filename=name, revision=revision):
                commit, _ = _download(repo, name, commit, sha256=sha256 if name == chosen else None, token=token)
    with _explained(repo, revision=revision):
        # Only now, so that an interrupted update leaves the branch at the older version, which is whole.
        _write_ref(repo, revision, commit)
    snapshot = _repo_folder(repo) / "snapshots" / commit
    return _read_model(repo, snapshot, snapshot / chosen)


def _read_model(repo: str, snapshot: Path, weights: Path) -> HubModel:
    card = snapshot / CARD
    licence = card_licence(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    config, preprocessor = _read_json(snapshot / CONFIG), _read_json(snapshot / PREPROCESSOR)
    return HubModel(repo, snapshot.name, weights, config, preprocessor, licence)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: is no JSON; remove the file and download it again") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: must hold a JSON object; ask its publisher to repair it")
    return values


def card_licence(card: str) -> str | None:
    """The licence in the head of a model card, None where there is none.

    Args:
        card: the text of the card, Markdown after a head in YAML.
    """
    head = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    fields = dict(
        re.findall(r"^(license|license_name):[ \t]*[\"']?([^\"'\s#]+)", head[1] if head else "", re.MULTILINE)
    )
    licence = fields.get("license")
    return fields.get("license_name", licence) if licence == "other" else licence


def _api(token: str | None) -> "HfApi":
    from huggingface_hub import HfApi

    if offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    return HfApi(endpoint=endpoint(), token=token, library_name="birefnet")


def _download(repo: str, filename: str, revision: str, *, sha256: str | None, token: str | None) -> tuple[str, Path]:
    """Download a file into the cache; returns its commit and its path there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(repo, filename, revision=revision, endpoint=endpoint())
    metadata = _patiently(lambda: get_hf_file_metadata(url, token=token, library_name="birefnet"))
    commit, etag = metadata.commit_hash, metadata.etag
    if not commit or not etag or not _COMMIT.fullmatch(commit) or not re.fullmatch(r"[\w.-]+", etag):
        raise HubUnreachableError("what answers there is no Hugging Face hub")
    given = _SHA256.fullmatch(etag) is not None
    if sha256 and given and sha256.lower() != etag:
        raise _wrong_checksum(repo, filename, etag, sha256)
    blob = _repo_folder(repo) / "blobs" / etag
    if not blob.exists():
        expected = sha256.lower() if sha256 else etag if given else None
        _fetch_blob(url, blob, size=metadata.size, sha256=expected, token=token, names=(repo, filename))
    # The library finds the blob there and enters it into the snapshot, with links or without, as the system has them.
    path = hf_hub_download(
        repo,
        filename,
        revision=commit,
        cache_dir=cache_folder(),
        endpoint=endpoint(),
        token=token,
        library_name="birefnet",
    )
    return commit, Path(path)


def _fetch_blob(
    url: str, blob: Path, *, size: int | None, sha256: str | None, token: str | None, names: tuple[str, str]
) -> None:
    """Download what is missing of a file, check it, and give it its name; what is there of it stays if that fails."""
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = cache_folder() / ".locks" / blob.parents[1].name / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Identity: with compression, neither positions nor sizes would be those of the file.
    headers = {**build_hf_headers(token=token, library_name="birefnet"), "Accept-Encoding": "identity"}
    partial = blob.with_name(f"{blob.name}.incomplete")
    with WeakFileLock(lock):  # another process may be at the same file
        if blob.exists():
            return
        # Unbuffered, so that every byte that came is there after Ctrl-C.
        with partial.open("ab", buffering=0) as file:
            missing = (size or 0) - file.tell()
            free = shutil.disk_usage(blob.parent).free
            if missing > free:
                raise OSError(errno.ENOSPC, f"{missing / 1e6:.0f} MB are missing, {free / 1e6:.0f} MB are free")
            if missing < 0:
                file.truncate(0)
            _receive(url, file, size, headers, names[1])
        if sha256 is not None:
            with partial.open("rb") as received:
                found = hashlib.file_digest(received, "sha256").hexdigest()
            if found != sha256:
                partial.unlink()
                raise _wrong_checksum(*names, found, sha256)
        partial.replace(blob)


def _wrong_checksum(repo: str, filename: str, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"{repo}: {filename} has the checksum {found[:12]}... instead of {expected[:12]}... and was not kept: try "
        "again, and if that fails look whether a proxy or mirror (HF_ENDPOINT) changes files"
    )


def _receive(url: str, file: BinaryIO, size: int | None, headers: dict[str, str], label: str) -> None:
    """Append to a file what is missing of it, over as many connections as it takes."""
    http = _http()
    failures = 0
    while size is None or file.seek(0, os.SEEK_END) < size:
        before = file.seek(0, os.SEEK_END)
        try:
            _append(url, file, size, headers, label)
            if size is None or file.tell() >= size:
                return
            cause: Exception = http.RemoteProtocolError("the connection ends too early")
        except http.TransportError as error:
            cause = error
        except _hub_error() as error:
            if error.response.status_code == 416 and before:  # the part is longer than the file: start anew
                file.truncate(0)
            elif error.response.status_code not in BUSY:
                raise
            cause = error
        failures = 0 if file.seek(0, os.SEEK_END) > before else failures + 1
        if failures >= RETRIES:
            raise cause
        time.sleep(FIRST_WAIT * 2**failures)


def _append(url: str, file: BinaryIO, size: int | None, headers: dict[str, str], label: str) -> None:
    """Append to a file what one connection gives."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, hf_raise_for_status, tqdm

    position = file.seek(0, os.SEEK_END)
    ranged = {**headers, "Range": f"bytes={position}-"} if position else headers
    # Redirects to where large files are kept are followed without the token, which is for the hub only.
    with get_session().stream("GET", url, headers=ranged, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        if response.status_code != 206 and position:  # a server that knows no ranges sends the whole file
            file.truncate(0)
            position = file.seek(0)
        # `disable=None`: a bar on a terminal only.
        with tqdm(total=size, initial=position, unit="B", unit_scale=True, desc=label, disable=None) as bar:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


@contextmanager
def _bars_on_a_terminal() -> Iterator[None]:
    """Keep the library's progress bars from files and pipes; those of uploads look for no terminal by themselves."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _patiently(call: Callable[[], T]) -> T:
    """Make a short request, and repeat it where another attempt may help."""
    http = _http()
    for failures in range(RETRIES):
        try:
            return call()
        except http.ConnectError:
            raise  # no network: say so at once
        except http.TransportError:
            if failures == RETRIES - 1:
                raise
        except _hub_error() as error:
            if error.response.status_code not in BUSY or failures == RETRIES - 1:
                raise
        time.sleep(FIRST_WAIT * 2**failures)
    raise AssertionError("unreachable")


def _hub_error() -> Any:
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError


def _http() -> ModuleType:
    """The HTTP library that `huggingface_hub` is built on: httpx before its version 2, httpx2 since."""
    base = next(kind for kind in _hub_error().__mro__ if kind.__name__ == "HTTPError")
    return importlib.import_module(base.__module__.partition(".")[0])


# --- What went wrong, in one line ---


@contextmanager
def _explained(
    repo: str, *, filename: str | None = None, revision: str | None = None, push: bool = False
) -> Iterator[None]:
    """Turn whatever the hub, the network or the disk does into an error with one line and a remedy."""
    try:
        yield
    except HubUnreachableError as error:
        raise _unreachable(repo, str(error), push=push) from error
    except OutputError as error:
        raise WeightsError(f"{error}: set HF_HOME to a folder that can be written") from error
    except BiRefNetError:
        raise
    except Exception as error:
        known = _explain(error, repo, filename, revision, push=push)
        if known is None:
            raise
        raise known from error


def _explain(
    error: Exception, repo: str, filename: str | None, revision: str | None, *, push: bool
) -> WeightsError | None:
    from huggingface_hub import errors

    page = f"{endpoint()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(
            f"{repo} is gated: accept its terms on {HUB}/{repo}, then set HF_TOKEN or log in with `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError) and not push:
        near = difflib.get_close_matches(repo, [model.repo for model in ZOO.values()], n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}? " if near else ""
        return WeightsError(
            f"{repo}: {endpoint()} has no such repository, or it is private: {hint}check the name, and set HF_TOKEN "
            "or log in with `hf auth login` for private ones"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{repo} has no revision {revision!r}: see {page}/commits/main, or name none")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return WeightsError(f"{repo} has no file {filename}: see {page}/tree/{revision or MAIN}")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error.response.status_code, repo, push=push)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _unreachable(repo, "HF_HUB_OFFLINE is set", push=push)
    http = _http()
    if isinstance(error, http.ProxyError):
        return _unreachable(repo, f"the proxy: {error}; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", push=push)
    if isinstance(error, (http.HTTPError, http.InvalidURL, errors.LocalEntryNotFoundError, errors.FileMetadataError)):
        return _unreachable(repo, _first_line(error), push=push)
    if isinstance(error, (RuntimeError, ValueError)) and push and isinstance(error.__cause__, Exception):
        return _explain(error.__cause__, repo, filename, revision, push=push)
    if isinstance(error, OSError):
        return _disk(error, repo)
    return None


def _refused(status: int, repo: str, *, push: bool) -> WeightsError:
    if status in (401, 403, 404):
        right = "may write there" if push else "may read it"
        return WeightsError(
            f"{repo}: {endpoint()} refused access (HTTP {status}): set HF_TOKEN to a token that {right}, or log in "
            "with `hf auth login`"
        )
    what = "too many requests" if status == 429 else f"HTTP {status}"
    return HubUnreachableError(f"{repo}: {endpoint()} does not serve it now ({what}): try again in a while")


def _unreachable(repo: str, reason: str, *, push: bool) -> HubUnreachableError:
    if push:
        return HubUnreachableError(f"{repo}: {endpoint()} cannot be reached ({reason}): connect to the network first")
    known = find(repo)
    cure = "unset it" if reason.startswith("HF_HUB_OFFLINE") else "connect to the network, set HF_ENDPOINT to a mirror"
    return HubUnreachableError(
        f"{repo}: not in the cache, and {endpoint()} cannot be reached ({reason}): {cure}, or run `birefnet models "
        f"download {known.name if known else repo}` on another machine and copy its HF_HOME here"
    )


def _disk(error: OSError, repo: str) -> WeightsError:
    reason = error.strerror or _first_line(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WeightsError(
            f"{repo}: no room for it in {cache_folder()} ({reason}): free some, or set HF_HOME to a folder on another "
            "disk; the download then goes on where it stopped"
        )
    return WeightsError(f"{repo}: {cache_folder()} cannot be written ({reason}): set HF_HOME to a folder that can be")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
