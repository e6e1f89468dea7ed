"""One file from the hub into the cache: over as many connections as it takes, and named only when it is right."""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from birefnet.errors import WeightsError
from birefnet.hub.cache import COMMIT, cache_folder, endpoint, offline, repo_folder
from birefnet.hub.explain import HubUnreachableError, http_library, hub_error

T = TypeVar("T")

RETRIES = 5
"""How often a connection may fail in a row without a single new byte."""
FIRST_WAIT = 1.0
"""Seconds before the first new attempt; each further one waits twice as long."""
BUSY = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that another attempt may cure."""
CHUNK = 1 << 20

SHA256 = re.compile(r"[0-9a-f]{64}")


def download(repo: str, filename: str, revision: str, *, sha256: str | None, token: str | None) -> tuple[str, Path]:
    """Download a file into the cache; returns its commit and its path there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(repo, filename, revision=revision, endpoint=endpoint())
    metadata = patiently(lambda: get_hf_file_metadata(url, token=token, library_name="birefnet"))
    commit, etag = metadata.commit_hash, metadata.etag
    if not commit or not etag or not COMMIT.fullmatch(commit) or not re.fullmatch(r"[\w.-]+", etag):
        raise HubUnreachableError("what answers there is no Hugging Face hub")
    given = SHA256.fullmatch(etag) is not None
    if sha256 and given and sha256.lower() != etag:
        raise _wrong_checksum(repo, filename, etag, sha256)
    blob = repo_folder(repo) / "blobs" / etag
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
    http = http_library()
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
        except hub_error() as error:
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


def patiently(call: Callable[[], T]) -> T:
    """Make a short request, and repeat it where another attempt may help."""
    http = http_library()
    for failures in range(RETRIES):
        try:
            return call()
        except http.ConnectError:
            raise  # no network: say so at once
        except http.TransportError:
            if failures == RETRIES - 1:
                raise
        except hub_error() as error:
            if error.response.status_code not in BUSY or failures == RETRIES - 1:
                raise
        time.sleep(FIRST_WAIT * 2**failures)
    raise AssertionError("unreachable")
