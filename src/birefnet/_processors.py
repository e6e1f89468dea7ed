"""How much of the machine there is to use."""

import os


def processors() -> int:
    """Processors that this process may use, which are fewer than there are in many containers and batch systems."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
