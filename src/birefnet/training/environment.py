"""What a run was carried out on: versions, processor and GPUs, without anything that tells whose machine it was."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from birefnet import __version__
from birefnet._processors import computes_bfloat16, processors

_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "safetensors", "kornia", "peft")

_SECONDS = 5.0


def environment() -> dict[str, Any]:
    """Describe the program and the machine.

    Returns:
        Plain JSON values: "birefnet" (version), "commit" and "changed" (of the source's git work tree; both None for
        an installed package), "python", "system", "machine", "cpu" (name, cores that may be used, vector capability,
        bfloat16 in hardware or None where that is not known), "gpus" (name, memory in GiB, compute capability,
        bfloat16), "torch", "cuda", "cudnn", and "libraries" by name.
    """
    import torch  # here, so that a card can be written where torch is not installed

    commit, changed = _source()
    return {
        "birefnet": __version__,
        "commit": commit,
        "changed": changed,
        "python": platform.python_version(),
        # Without the kernel's build, which names machines.
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "machine": platform.machine(),
        "cpu": {
            "name": _cpu_name(),
            "cores": processors(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": computes_bfloat16(),
        },
        "gpus": _gpus(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "libraries": {name: number for name in _LIBRARIES if (number := _version(name))},
    }


def _source() -> tuple[str | None, bool | None]:
    """Commit of the work tree the package lies in, and whether the package differs from it."""
    folder = Path(__file__).parents[1]
    # Only a file that git knows: an environment may lie inside somebody else's work tree.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *words: str) -> str | None:
    # Variables such as GIT_DIR, set where git itself runs this, would name another work tree.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            env=variables,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no work tree, or one that belongs to someone else
        return None
    return result.stdout.strip()


def _cpu_name() -> str:
    if sys.platform == "darwin":
        try:
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
            return found.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return platform.processor()
    for line in _cpu_facts():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_facts() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []


def _gpus() -> list[dict[str, Any]]:
    import torch

    if torch.backends.mps.is_available():
        return [{"name": "Apple GPU (MPS)"}]
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": facts.name,
                "memory_gib": round(facts.total_memory / 2**30, 1),
                "capability": f"{facts.major}.{facts.minor}",
                # In hardware from Ampere on; emulated before.
                "bfloat16": facts.major >= 8,
            }
        )
    return gpus


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
