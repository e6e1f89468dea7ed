"""Where weights come from: the package, the zoo, the Hugging Face hub, a folder or a file. Needs no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD, InputSpec, unknown_name
from birefnet.errors import ConfigError, WeightsError
from birefnet.hub import fetch_model, require_licence
from birefnet.models import BUNDLED, bundled_file
from birefnet.zoo import ZOO, find

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".onnx")
_PROGRAM = ".pt2"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Weights on this machine, and what is known of them beside the file.

    Attributes:
        path: the weights file.
        config: content of the config.json beside it, None without one.
        input_spec: how photos are prepared for them, None where nothing outside the file says so.
        notes: lines for a person.
    """

    path: Path
    config: Mapping[str, Any] | None = None
    input_spec: InputSpec | None = None
    notes: tuple[str, ...] = ()


def is_bundled(name: str | Path) -> bool:
    """Whether a name means a model of the package, also where a folder or file is called so too.

    Such a folder is written as a path, "./nano"; a `Path` that is there is one in any case.
    """
    return str(name) in BUNDLED and (isinstance(name, str) or not name.exists())


def locate(
    name: str | Path, *, revision: str | None = None, accept_licence: bool = False, suffix: str = ".safetensors"
) -> Source:
    """Find weights by what a user calls them, and fetch them from the hub where they are not here yet.

    Args:
        name: a bundled model, a name of the zoo, a repository of the hub ("owner/name"), a folder or a file. The name
            of a bundled model means that model, see `is_bundled`.
        revision: branch, tag or commit of a repository; by default the one that the zoo names, else the latest.
        accept_licence: whether the terms of non-commercial weights are accepted.
        suffix: of the file to take of a bundled model.

    Raises:
        ConfigError: nothing has this name; the message lists what has.
        WeightsError: the weights cannot be fetched, their terms have to be accepted first, or the file holds a program.
    """
    path = Path(name)
    if is_bundled(name):
        return Source(bundled_file(str(name), suffix))
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == _PROGRAM:
        raise WeightsError(
            f"{path}: a program, which PyTorch runs by itself (torch.export.load, or torch._inductor for a package of "
            "--aot): name the weights that it was exported from, or export these to .onnx or .xml"
        )
    if path.is_file() or path.suffix.lower() in _SUFFIXES:
        return Source(path)
    known = find(str(name))
    if known is not None:
        require_licence(known, accept_licence)
        fetched = fetch_model(known.repo, revision=revision or known.revision, sha256=known.sha256)
        return Source(fetched.weights, fetched.config, known.input_spec)
    if isinstance(name, str) and _REPOSITORY.fullmatch(name):
        fetched = fetch_model(name, revision=revision)
        return Source(fetched.weights, fetched.config, _spec(fetched.preprocessor))
    raise unknown_name("model", str(name), [*BUNDLED, *ZOO])


def _folder(folder: Path) -> Source:
    weights = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES[:-1])
    preferred = [path for path in weights if path.name == WEIGHTS_FILE] or weights
    if len(preferred) != 1:
        found = f"{len(preferred)} weights files" if preferred else f"no {WEIGHTS_FILE}"
        raise WeightsError(f"{folder}: holds {found}; name one file")
    return Source(preferred[0], _json(folder / CONFIG_FILE), _spec(_json(folder / PREPROCESSOR_FILE)))


def _json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that may be missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON; remove it or fetch it again") from error
    return content if isinstance(content, dict) else None


def _spec(preprocessor: Mapping[str, Any] | None) -> InputSpec | None:
    """Read the preparation of photos from the file that transformers keeps it in, if it says so."""
    size = (preprocessor or {}).get("size")
    if preprocessor is None or not isinstance(size, Mapping) or "height" not in size or "width" not in size:
        return None
    try:
        return InputSpec(
            size=(size["height"], size["width"]),
            mean=tuple(preprocessor.get("image_mean", IMAGENET_MEAN)),
            std=tuple(preprocessor.get("image_std", IMAGENET_STD)),
        )
    except (ConfigError, TypeError):
        return None
