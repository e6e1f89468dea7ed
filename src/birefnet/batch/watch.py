"""New photos in a folder, as they arrive."""

import os
import time
from collections.abc import Callable, Iterator

from birefnet.batch.plan import Job


def watch(find: Callable[[], list[Job]], *, seconds: float = 1.0) -> Iterator[list[Job]]:
    """Look again and again, and give the jobs of photos that are new or changed, once each.

    A photo counts once it has stayed the same from one look to the next, so that one still being copied is left alone.
    Looking, rather than being told by the operating system, works on every file system. It never ends by itself.

    Args:
        find: what there is to do at the moment.
        seconds: time between two looks.
    """
    done: dict[Job, tuple[int, int]] = {}
    before: dict[Job, tuple[int, int]] = {}
    while True:
        now = {job: state for job in find() if (state := _state(job)) is not None}
        ready = [job for job, state in now.items() if before.get(job) == state and done.get(job) != state]
        done |= {job: now[job] for job in ready}
        before = now
        if ready:
            yield ready
        time.sleep(seconds)


def _state(job: Job) -> tuple[int, int] | None:
    try:
        status = os.stat(job.source)  # noqa: PTH116 - one look, however odd the name
    except OSError:
        return None  # gone since it was found
    return status.st_size, status.st_mtime_ns
