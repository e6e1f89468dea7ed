"""Work on many things at once, that Ctrl-C ends cleanly."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock
from typing import TypeVar

from birefnet._processors import processors

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    advance: Callable[[], None] | None = None,
    jobs: int | None = None,
) -> list[_Result]:
    """Call a function with each item, several at a time; the first error, or Ctrl-C, stops it soon.

    The threads fetch their work themselves: Ctrl-C while the main thread hands work to an executor can leave a lock of
    the executor taken, on which its threads then wait for ever.

    Args:
        work: what to call. Warnings are silenced meanwhile, because threads share what is silenced, and Pillow remarks
            on odd but readable files.
        items: what to call it with.
        advance: called after each, from the calling thread.
        jobs: calls at a time; by default one a processor.

    Returns:
        What came of each item, in their order.
    """
    left = iter(range(len(items)))
    lock, stopped = Lock(), Event()
    results: dict[int, _Result] = {}
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def labour() -> None:
        while not stopped.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                results[index] = work(items[index])
            except BaseException as error:
                ended.put(error)
                return
            ended.put(None)

    with warnings.catch_warnings(), ThreadPoolExecutor(jobs or processors()) as pool:
        warnings.simplefilter("ignore")
        try:
            for _ in range(min(jobs or processors(), len(items))):
                pool.submit(labour)
            for _ in items:
                error = ended.get()
                if error is not None:
                    raise error
                if advance is not None:
                    advance()
        finally:
            stopped.set()
    return [results[index] for index in range(len(items))]
