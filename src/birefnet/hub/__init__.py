"""Weights from the Hugging Face hub, and to it.

Built on `huggingface_hub`, whose cache, environment variables and log-in are used as they are (HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, the proxies). Three things are added: a download that was cut or stopped goes on where it
ended, also in a later call (the library starts anew); a large file gets its name in the cache only once its checksum is
right; and whatever goes wrong is one line with the remedy.

What is in the cache is used without asking the hub, so a second run needs no network. Code from a repository is never
downloaded, let alone run.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birefnet.errors import WeightsError
from birefnet.hub.cache import (
    MAIN,
    cache_folder,
    cached_file,
    check_names,
    endpoint,
    offline,
    repo_folder,
    snapshot_folder,
    write_ref,
)
from birefnet.hub.explain import HubUnreachableError, explained
from birefnet.hub.transfer import download, patiently
from birefnet.zoo import ZooModel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = [
    "HubModel",
    "HubUnreachableError",
    "cache_folder",
    "cached_file",
    "cached_model",
    "card_licence",
    "choose_weights",
    "endpoint",
    "fetch_file",
    "fetch_model",
    "is_cached",
    "offline",
    "push_folder",
    "require_licence",
]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
CARD = "README.md"

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$|\.index\.json$")


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
    check_names(repo, filename=filename, revision=revision)
    cached = cached_file(repo, filename, revision)
    if cached is not None:
        return cached
    with explained(repo, filename=filename, revision=revision):
        commit, path = download(repo, filename, revision or MAIN, sha256=sha256, token=token)
        write_ref(repo, revision, commit)
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
    check_names(repo, revision=revision)
    cached = cached_model(repo, revision)
    if cached is not None and (offline() or not refresh):
        return cached
    try:
        return _fetch_model(repo, revision, sha256, token)
    except HubUnreachableError:
        if cached is None:
            raise
        return cached


def cached_model(repo: str, revision: str | None = None) -> HubModel | None:
    """A model from the cache, None when its weights are not there. Asks nobody."""
    weights = _cached_weights(repo, revision)
    return None if weights is None else _read_model(repo, weights.parent, weights)


def is_cached(repo: str, revision: str | None = None) -> bool:
    """Whether a model can be loaded without the network."""
    return _cached_weights(repo, revision) is not None


def _cached_weights(repo: str, revision: str | None) -> Path | None:
    check_names(repo, revision=revision)
    snapshot = snapshot_folder(repo, revision)
    if snapshot is None:
        return None
    try:
        # Links that lead nowhere are no files: somebody tidied up the cache.
        return snapshot / choose_weights(repo, [path.name for path in snapshot.iterdir() if path.is_file()])
    except WeightsError:
        return None


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
    check_names(repo)
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; save the model there first")
    with explained(repo, push=True), _bars_on_a_terminal():
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
    shards = [name for name in top if _SHARD.search(name)]
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


def _fetch_model(repo: str, revision: str | None, sha256: str | None, token: str | None) -> HubModel:
    """Ask the hub what a repository has, and download what is missing of it."""
    with explained(repo, revision=revision):
        api = _api(token)
        info = patiently(lambda: api.model_info(repo, revision=revision or MAIN))
        names = [sibling.rfilename for sibling in info.siblings or []]
        commit = info.sha or revision or MAIN
        chosen = choose_weights(repo, names)
    for name in (CARD, CONFIG, PREPROCESSOR, chosen):  # the weights last: they make the model count as cached
        if name in names and cached_file(repo, name, commit) is None:
            with explained(repo, filename=name, revision=revision):
                commit, _ = download(repo, name, commit, sha256=sha256 if name == chosen else None, token=token)
    with explained(repo, revision=revision):
        # Only now, so that an interrupted update leaves the branch at the older version, which is whole.
        write_ref(repo, revision, commit)
    snapshot = repo_folder(repo) / "snapshots" / commit
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
    except (ValueError, RecursionError) as error:
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
