"""Files of tensors, read without running code that a file may carry and written whole or not at all."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from birefnet._atomic import atomic_path
from birefnet.errors import OutputError, WeightsError

SAFETENSORS = (".safetensors",)
PICKLES = (".pth", ".pt")
STATE_ENTRIES = ("model", "state_dict")
"""Where training programs put the state dict in a `.pth` file that holds more."""

# What torch's restricted unpickler says of objects it will not make, as opposed to bytes it cannot make out.
_CODE = re.compile(r"GLOBAL|Unsupported class|allowed|reduce|callable|torchscript", re.IGNORECASE)


def read_tensors(path: str | Path, entries: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a `.safetensors` or `.pth` file, and the metadata of the former.

    The format is told by the file's first bytes, not by its name.

    Args:
        path: the file.
        entries: names below which a `.pth` file may hold its state dict, instead of being one; exactly one of them.

    Raises:
        WeightsError: the file is missing, damaged, holds anything but plain tensors, or is of another kind.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; give the path of a .safetensors or .pth file") from None
    except IsADirectoryError:
        raise WeightsError(f"{path}: a folder; name the weights file in it") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    metadata: dict[str, str] = {}
    with warnings.catch_warnings():
        # Whatever the readers remark on, the outcome is a whole state dict or one error.
        warnings.simplefilter("ignore")
        # The length of the header comes first, and one in 32 lengths looks like the start of a pickle.
        if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
            tensors, metadata = _read_safetensors(path)
        elif start.startswith((b"PK", b"\x80")):
            tensors = _read_pickle(path, entries)
        elif start.startswith(b"version h"):
            raise WeightsError(f"{path}: a pointer of Git LFS, not the weights; fetch them with git lfs pull")
        elif start.lstrip().startswith(b"<"):
            raise WeightsError(f"{path}: a web page, not weights; download the file itself")
        else:
            raise WeightsError(
                f"{path}: neither a .safetensors nor a .pth file (or cut off at its start); fetch or save it again"
            )
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise WeightsError(f"{path}: {shown(key)} is no plain tensor of numbers; save it dense and not quantised")
    return tensors, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except UnicodeEncodeError as error:
        raise WeightsError(f"{shown(path)}: the safetensors library takes UTF-8 names only; rename the file") from error
    except Exception as error:  # a damaged header can raise anything
        raise _damaged(path, error) from error


def _read_pickle(path: Path, entries: Sequence[str]) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch itself does not compare the checksums
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        # A file, not its name, by which torch would choose the format; weights_only: tensors, never code.
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)):
            raise WeightsError(
                f"{path}: refused, it holds Python objects beside tensors, which could run code; "
                "save the state dict alone (torch.save(model.state_dict(), ...)) or use .safetensors"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise _damaged(path, error) from error
    if _is_state_dict(content):
        return dict(content)
    nested = [content[entry] for entry in entries if entry in content] if isinstance(content, Mapping) else []
    if len(nested) == 1 and _is_state_dict(nested[0]):
        return dict(nested[0])
    below = f", itself or below {' or '.join(map(repr, entries))}" if entries else ""
    raise WeightsError(
        f"{path}: not a state dict, which maps names to tensors and holds nothing else{below}; save "
        "model.state_dict() alone"
    )


def _is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{shown(path)}: damaged or cut off{_reason(error)}; fetch or save the file again")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f" ({lines[0][:120]})" if lines else ""


def shown(name: object, limit: int = 120) -> str:
    """Give a name from a file in a form that is safe and short enough for a one-line message."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else f"{text[:limit]}..."


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as `.safetensors` (with metadata) or as a plain state dict `.pth`, by the path's suffix.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*SAFETENSORS, *PICKLES):
        raise OutputError(f"{path}: weights are saved as {', '.join((*SAFETENSORS, *PICKLES))}")
    # Clones, because safetensors takes no two tensors that share memory and torch saves all memory that a view is of.
    plain = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            if suffix in SAFETENSORS:
                safetensors.torch.save_file(plain, temporary, metadata={"format": "pt", **metadata})
            else:
                torch.save(plain, temporary)
        except (safetensors.SafetensorError, RuntimeError) as error:
            # Both libraries hide a full disk behind errors of their own.
            raise OutputError(f"{path}: cannot be written{_reason(error)}") from error
