"""What memory this machine has for a training."""

import os
from pathlib import Path

import torch


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that a new process could take: of a GPU, or of the machine within the limits set for this process.

    Args:
        device: where memory is wanted.
        root: where the file systems of the kernel are.

    Returns:
        None where it cannot be told.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        free, _ = torch.cuda.mem_get_info(device)
        return free
    figures = _table(root / "proc/meminfo")
    if "MemAvailable" not in figures:
        return _physical_memory()
    return min([figures["MemAvailable"] * 1024, *_group_limits(root)])


def _physical_memory() -> int | None:
    """What is built in, where the system does not tell what is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group_limits(root: Path) -> list[int]:
    """What the control groups of this process leave, of version 1 and 2, each with those it lies in."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        old = bool(controllers)
        top = root / "sys/fs/cgroup" / ("memory" if old else "")
        limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        # In a container the path is often that of the host, of which only the top is to be seen.
        folder = top / path.lstrip("/")
        for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(top))):
            most, used = _number(place / limit), _number(place / usage)
            if most is not None and used is not None and most < 2**60:
                # Pages of files are taken back when the room is needed.
                files = _table(place / "memory.stat").get("total_inactive_file" if old else "inactive_file", 0)
                left.append(max(0, most - used + files))
    return left


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """Read numbers by name, of lines such as "MemTotal:  24 kB" or "file 4096"."""
    rows = [line.replace(":", " ").split() for line in _lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
