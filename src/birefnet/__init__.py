"""BiRefNet: high-resolution dichotomous image segmentation.

Importing this package needs no torch; the names that do are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from birefnet._extras import require
from birefnet.config import InputSpec, ModelConfig, RefinerConfig
from birefnet.errors import BiRefNetError

if TYPE_CHECKING:
    from birefnet.loading import load
    from birefnet.model import BiRefNet, TrainOutput, load_model, save_model

__all__ = [
    "BiRefNet",
    "BiRefNetError",
    "InputSpec",
    "ModelConfig",
    "RefinerConfig",
    "TrainOutput",
    "__version__",
    "load",
    "load_model",
    "save_model",
]

__version__ = "0.1.0"

_LAZY = {
    "load": "birefnet.loading",
    "BiRefNet": "birefnet.model",
    "TrainOutput": "birefnet.model",
    "load_model": "birefnet.model",
    "save_model": "birefnet.model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'birefnet' has no attribute {name!r}")
    if name != "load":  # which finds out by itself what it needs
        for library in ("torch", "safetensors"):
            require(library, extra="torch")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
