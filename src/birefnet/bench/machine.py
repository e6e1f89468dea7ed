"""What figures were measured on, without anything that tells whose machine it was."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from birefnet import __version__
from birefnet._processors import cores, cpu_instructions, processors

LIBRARIES = ("numpy", "torch", "onnxruntime", "openvino", "onnx", "opencv-python-headless", "pillow")

_CPU_FACTS = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Describe the machine and the program.

    Returns:
        Plain JSON values: "birefnet" and "python" (versions), "system", "machine", "cpu" (its name), "processors" and
        "cores" that may be used, "instructions" that decide how fast a network runs, and "libraries" by name.
    """
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "birefnet": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "processors": processors(),
        "cores": cores(),
        "instructions": list(cpu_instructions()),
        "libraries": found,
    }


def cpu_name() -> str:
    """Name of the processor, or its architecture where the system does not tell."""
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
