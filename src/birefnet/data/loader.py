"""Bringing batches to the network: made on the spot, ahead of time in a thread, or by worker processes."""

import os
import queue
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from birefnet._processors import processors
from birefnet.data.batches import Batch, Batches
from birefnet.errors import BiRefNetError, ConfigError, DataError

_MOST_WORKERS = 8


def feed(
    batches: Batches,
    start: int,
    device: torch.device,
    *,
    workers: int | None = None,
    prefetch: int | None = None,
    pin: bool | None = None,
) -> "Feed":
    """Give the batches of a run from a step on, the same to the bit in whatever way they are made.

    On a CPU they are made where they are asked for, because a thread or a process would want the network's cores. For a
    GPU they are made by worker processes, or in a thread if the photos themselves are on it.

    Args:
        batches: of the run.
        start: step of the first batch.
        device: where batches are wanted.
        workers: processes that make batches; 0 for none, None for the choice above.
        prefetch: batches made ahead, by each worker or by a thread; 0 for on the spot, None for 2 but on a CPU without
            workers.
        pin: whether batches pass through pinned memory, which copies to a GPU faster; None for yes where that is so.

    Returns:
        A context to iterate in once: `with feed(...) as ready: for batch in ready: ...`.

    Raises:
        ConfigError: the numbers are impossible.
    """
    on_gpu = device.type == "cuda"
    made_on_gpu = batches.device.type == "cuda"
    if workers is None:
        workers = min(_MOST_WORKERS, _share_of_processors()) if on_gpu and not made_on_gpu else 0
    if prefetch is None:
        prefetch = 2 if workers or on_gpu else 0
    if workers < 0 or prefetch < 0:
        raise ConfigError(f"workers ({workers}) and prefetch ({prefetch}) must be at least 0")
    if workers and made_on_gpu:
        raise ConfigError("worker processes cannot make batches on a GPU: use workers=0, or make them on the CPU")
    pin = on_gpu and not made_on_gpu if pin is None else pin
    return Feed(batches, start, device, workers, prefetch, pin and torch.cuda.is_available())


class Feed:
    """The batches of a run from a step on; entered, iterated once, and left, after which nothing runs on."""

    def __init__(
        self, batches: Batches, start: int, device: torch.device, workers: int, prefetch: int, pin: bool
    ) -> None:
        self._batches, self._start, self._device = batches, start, device
        self._workers, self._prefetch, self._pin = workers, prefetch, pin
        self._source: Iterator[Batch] | None = None
        self._loader: Any = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Feed":
        """Start making batches."""
        if self._workers:
            self._source = self._from_workers()
        elif self._prefetch:
            self._source = self._from_thread()
        else:
            self._source = map(self._finished, map(self._batches, range(self._start, self._batches.steps)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop whatever makes batches, and wait until it has."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if self._loader is not None:
            _end(self._loader)
            self._loader = None
        self._source = None
        if error is not None and _tells_of_a_worker(error):
            # Raised by a signal that the system sends when a worker ends, wherever the run was.
            raise _worker_error(error) from error

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches in order."""
        return self

    def __next__(self) -> Batch:
        """Give the next batch.

        Raises:
            DataError: a photo cannot be read, or a worker died.
        """
        assert self._source is not None, "a feed is used inside its `with`"
        return next(self._source)

    def _finished(self, batch: Batch) -> Batch:
        if self._pin and not batch.images.is_pinned():
            batch = batch.pin_memory()
        return batch.to(self._device)

    # --- a thread ---

    def _from_thread(self) -> Iterator[Batch]:
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue()
        room = threading.Semaphore(self._prefetch)
        threads = torch.get_num_threads()
        begun = threading.Event()
        gpu = torch.cuda.current_device() if self._device.type == "cuda" else None

        def make() -> None:
            if gpu is not None:
                # A new thread would begin on the first GPU, and take memory there.
                torch.cuda.set_device(gpu)
            # One thread of its own for the batch: more would fight with those of the network.
            torch.set_num_threads(1)
            begun.set()
            try:
                for step in range(self._start, self._batches.steps):
                    while not room.acquire(timeout=0.1):
                        if self._stopped.is_set():
                            return
                    if self._stopped.is_set():
                        return
                    ready.put(self._finished(self._batches(step)))
                ready.put(None)
            except BaseException as error:  # whatever it is, it belongs to who asks for the batch
                ready.put(error)

        self._thread = threading.Thread(target=make, name="batches", daemon=True)
        self._thread.start()
        begun.wait()
        # The maths library has one number for all threads: this one's again.
        torch.set_num_threads(threads)
        return self._taken(ready, room)

    def _taken(self, ready: "queue.Queue[Batch | BaseException | None]", room: threading.Semaphore) -> Iterator[Batch]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item

    # --- processes ---

    def _from_workers(self) -> Iterator[Batch]:
        steps = range(self._start, self._batches.steps)
        loader: DataLoader[Any] = DataLoader(
            _Steps(self._batches),
            batch_size=None,
            sampler=steps,
            num_workers=self._workers,
            prefetch_factor=max(1, self._prefetch),
            pin_memory=self._pin,
            worker_init_fn=_prepare_worker,
            # Of its own: torch's is part of what a run resumes with.
            generator=torch.Generator(),
        )
        with _signals_held(), warnings.catch_warnings():
            # More workers than processors, which a user may want; and from Python 3.12 on that a process with threads
            # is forked, which torch's own loader does and minds: workers use one thread.
            warnings.simplefilter("ignore")
            self._loader = iter(loader)
        return self._received()

    def _received(self) -> Iterator[Batch]:
        while True:
            try:
                item = next(self._loader, None)
            except (RuntimeError, OSError, EOFError) as error:
                if isinstance(error, RuntimeError) and not _tells_of_a_worker(error):
                    raise
                raise _worker_error(error) from error
            if item is None:
                return
            if isinstance(item, BiRefNetError):
                raise item
            yield self._finished(item)


def _end(loader: Any) -> None:
    """End the workers of a loader; left to the collector, an error that is passed on would keep them as long."""
    for attempt in range(2):
        try:
            loader._shutdown_workers()
        except RuntimeError as error:
            # The signal of a worker that was killed may arrive just now, once.
            if attempt or not _tells_of_a_worker(error):
                raise
    for worker in loader._workers:
        if worker.is_alive():
            worker.kill()


def _tells_of_a_worker(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _worker_error(error: BaseException) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return DataError(f"a process that reads photos ended ({reason}): is the memory full? use fewer workers")


class _Steps(Dataset["Batch | BiRefNetError"]):
    """The batches by their steps, as torch's loader wants them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> "Batch | BiRefNetError":
        try:
            return self._batches(step)
        except BiRefNetError as error:
            # Handed over as it is: torch would make a page of it.
            return error


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM; processes that are started meanwhile never get them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(_: int) -> None:
    # The run's process decides what a signal means, and still needs the batch that is being made.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # its threads did not come along when the process was forked


def _share_of_processors() -> int:
    """Processors for each of the processes that torchrun has started on this machine."""
    return max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
