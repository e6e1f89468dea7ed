"""What went wrong with the hub, the network or the disk, in one line that says what to do."""

import difflib
import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from birefnet._extras import require
from birefnet.errors import BiRefNetError, OutputError, WeightsError, first_line
from birefnet.hub.cache import MAIN, cache_folder, endpoint
from birefnet.zoo import HUB, ZOO, find


class HubUnreachableError(WeightsError):
    """The hub does not answer, or may not be asked."""


@contextmanager
def explained(
    repo: str, *, filename: str | None = None, revision: str | None = None, push: bool = False
) -> Iterator[None]:
    """Turn whatever the hub, the network or the disk does into an error with one line and a remedy."""
    require("huggingface_hub", extra="hub")
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
    http = http_library()
    if isinstance(error, http.ProxyError):
        return _unreachable(repo, f"the proxy: {error}; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", push=push)
    if isinstance(error, (http.HTTPError, http.InvalidURL, errors.LocalEntryNotFoundError, errors.FileMetadataError)):
        return _unreachable(repo, first_line(error), push=push)
    if isinstance(error, (RuntimeError, ValueError)) and push and isinstance(error.__cause__, Exception):
        return _explain(error.__cause__, repo, filename, revision, push=push)
    if push and isinstance(error, (RuntimeError, ValueError, OSError)):
        return WeightsError(f"{repo}: the upload failed ({first_line(error)}): run it again; what has arrived is kept")
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
    reason = error.strerror or first_line(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WeightsError(
            f"{repo}: no room for it in {cache_folder()} ({reason}): free some, or set HF_HOME to a folder on another "
            "disk; the download then goes on where it stopped"
        )
    return WeightsError(f"{repo}: {cache_folder()} cannot be written ({reason}): set HF_HOME to a folder that can be")


def hub_error() -> Any:
    """The class of all errors that the hub answers with."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError


def http_library() -> ModuleType:
    """The HTTP library that `huggingface_hub` is built on: httpx before its version 2, httpx2 since."""
    base = next(kind for kind in hub_error().__mro__ if kind.__name__ == "HTTPError")
    return importlib.import_module(base.__module__.partition(".")[0])
