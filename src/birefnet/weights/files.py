"""Files of tensors, read without running code that a file may carry and written whole or not at all."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from birefnet._atomic import atomic_path
from birefnet.errors import OutputError, WeightsError

SAFETENSORS = (".safetensors",)
PICKLES = (".pth", ".pt")


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a `.safetensors` or `.pth` file, and the metadata of the former.

    The format is told by the file's first bytes, not by its name.

    Raises:
        WeightsError: the file is missing, damaged, holds anything but tensors, or is of another kind.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; give the path of a .safetensors or .pth file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith((b"PK", b"\x80")):
        return _read_pickle(path), {}
    if start[8:] == b"{":
        return _read_safetensors(path)
    raise WeightsError(f"{path}: neither a .safetensors nor a .pth file (or cut off at its start)")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: tensors and plain containers, never code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise WeightsError(
                f"{path}: refused, it holds Python objects beside tensors, which could run code; "
                "save the state dict alone (torch.save(model.state_dict(), ...)) or use .safetensors"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path}: not a state dict, which maps names to tensors and holds nothing else")
    return dict(content)


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = str(error).strip().splitlines()
    detail = f" ({reason[0][:120]})" if reason else ""
    return WeightsError(f"{path}: damaged or cut off{detail}; fetch or save the file again")


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as `.safetensors` (with metadata) or as a plain state dict `.pth`, by the path's suffix.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*SAFETENSORS, *PICKLES):
        raise OutputError(f"{path}: weights are saved as {', '.join((*SAFETENSORS, *PICKLES))}")
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            if suffix in SAFETENSORS:
                safetensors.torch.save_file(plain, temporary, metadata={"format": "pt", **metadata})
            else:
                torch.save(plain, temporary)
        except (safetensors.SafetensorError, RuntimeError) as error:
            # Both libraries hide a full disk behind errors of their own.
            raise OutputError(f"{path}: cannot be written ({str(error).splitlines()[0][:120]})") from error
