"""Work on many files at once, that Ctrl-C ends cleanly."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock

from birefnet._processors import processors


def in_parallel(
    work: Callable[[int], None], count: int, advance: Callable[[], None] | None = None, jobs: int | None = None
) -> None:
    """Call a function with 0 to `count` - 1, several at a time; the first error, or Ctrl-C, stops it soon.

    The threads fetch their work themselves: Ctrl-C while the main thread hands work to an executor can leave a lock of
    the executor taken, on which its threads then wait for ever.

    Args:
        work: what to call. Warnings are silenced meanwhile, because threads share what is silenced, and Pillow remarks
            on odd but readable files.
        count: how often.
        advance: called after each, from the calling thread.
        jobs: calls at a time; by default one a processor.
    """
    left = iter(range(count))
    lock, stopped = Lock(), Event()
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def labour() -> None:
        while not stopped.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                work(index)
            except BaseException as error:
                outcomes.put(error)
                return
            outcomes.put(None)

    workers = min(jobs or processors(), max(count, 1))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        try:
            for _ in range(workers):
                pool.submit(labour)
            for _ in range(count):
                error = outcomes.get()
                if error is not None:
                    raise error
                if advance is not None:
                    advance()
        finally:
            stopped.set()
