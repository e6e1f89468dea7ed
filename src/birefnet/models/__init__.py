"""Models that come with the package: their weights lie beside this file, each with its card."""

from importlib.resources import as_file, files
from pathlib import Path

from birefnet.config import unknown_name

BUNDLED = ("nano",)


def bundled_file(name: str, suffix: str) -> Path:
    """Path of a bundled model's file.

    Args:
        name: one of `BUNDLED`.
        suffix: ".safetensors" or ".onnx".

    Raises:
        ConfigError: no bundled model has this name; the message lists those that exist.
    """
    if name not in BUNDLED:
        raise unknown_name("model", name, BUNDLED)
    with as_file(files(__name__) / name / f"model{suffix}") as path:
        return path
