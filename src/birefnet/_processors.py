"""How much of the machine there is to use."""

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_FACTS = Path("/proc/cpuinfo")

INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "AVX512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX512-BF16": ("avx512_bf16",),
    "AVX512-FP16": ("avx512_fp16",),
    "AMX-BF16": ("amx_bf16",),
    "AMX-INT8": ("amx_int8",),
    "NEON": ("asimd", "neon"),
    "SVE": ("sve",),
    "ARM-BF16": ("bf16",),
    "ARM-INT8": ("i8mm", "asimddp"),
}
"""Instructions that decide how fast a network runs, by the names that Linux has for them."""


def processors() -> int:
    """Processors that this process may use, which are fewer than there are in many containers and batch systems."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Threads that a network's arithmetic gains from: physical cores, and no more than a container's quota of time.

    Two hardware threads of a core share its arithmetic units, so that a second one only gets in the way. Where the
    system does not tell which processors share a core, every processor counts.
    """
    found = processors()
    if hasattr(os, "sched_getaffinity"):
        # Processors that share a core name the same list of siblings.
        shared = {_read(Path(_TOPOLOGY.format(index))) or str(index) for index in os.sched_getaffinity(0)}
        found = len(shared)
    quota, _, period = (_read(_QUOTA) or "max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        found = min(found, max(1, int(quota) // int(period)))
    return found


def cpu_instructions() -> tuple[str, ...]:
    """Names in `INSTRUCTIONS` that this CPU has; none where the system does not tell, as outside Linux."""
    flags: set[str] = set()
    for line in (_read(_CPU_FACTS) or "").splitlines():
        name, _, words = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            flags.update(words.split())
            break
    return tuple(name for name, any_of in INSTRUCTIONS.items() if flags.intersection(any_of))


def computes_bfloat16() -> bool | None:
    """Whether the CPU has arithmetic for bfloat16; None where the system does not tell."""
    known = cpu_instructions()
    return bool({"AVX512-BF16", "AMX-BF16", "ARM-BF16"}.intersection(known)) if known else None


def _read(path: Path) -> str | None:
    """Text of a file of the system's, None where there is none or it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
