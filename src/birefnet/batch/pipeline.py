"""Photos in a stream: while the network works on one batch, the next is read and the last is finished and written."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from birefnet.batch.plan import Job
from birefnet.errors import BiRefNetError
from birefnet.imaging.io import MAX_PIXELS, Photo, read_photo, write_image
from birefnet.imaging.matte import Matte
from birefnet.predictor import Predictor


@dataclass(frozen=True)
class Result:
    """What became of a job: nothing to say, notices about the photo, or the error that stopped it."""

    job: Job
    notices: tuple[str, ...] = ()
    error: BiRefNetError | None = None


def run(
    jobs: Sequence[Job],
    predictor: Predictor,
    finish: Callable[[Matte], Image.Image],
    *,
    batch_size: int = 1,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Result]:
    """Carry out jobs and report each as it is done, in their order.

    A photo that cannot be read, predicted or written is reported and the others go on. While the network works on a
    batch, as many photos are read ahead and as many wait to be written as keep it and all threads busy: in memory are
    at most 2 * `batch_size` + `workers` photos and those read ahead, a batch or one for each worker. When the caller
    stops early, no new work is begun.

    Args:
        jobs: what to do.
        predictor: finds the foreground, in the thread of the caller.
        finish: makes the image to write of a matte, in a worker.
        batch_size: photos that go through the network together.
        workers: threads for decoding, and for finishing and writing.
        max_pixels: refuse larger photos.
    """
    stopped = threading.Event()
    ahead = max(batch_size, workers)

    def decode(job: Job) -> Photo | BiRefNetError:
        try:
            return read_photo(job.source, max_pixels=max_pixels)
        except BiRefNetError as error:
            return error

    def read(count: int) -> None:
        """Have photos read until so many wait for the network."""
        for job in islice(jobs_left, max(count - len(reading), 0)):
            reading.append((job, readers.submit(decode, job)))

    def write(job: Job, matte: Matte) -> Result:
        if stopped.is_set():
            return Result(job)
        try:
            write_image(finish(matte), job.target)
        except BiRefNetError as error:
            return Result(job, matte.photo.notices, error)
        return Result(job, matte.photo.notices)

    jobs_left = iter(jobs)
    reading: deque[tuple[Job, Future[Photo | BiRefNetError]]] = deque()
    writing: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, "read") as readers, ThreadPoolExecutor(workers, "write") as writers:
        try:
            while True:
                read(batch_size)
                batch = [reading.popleft() for _ in range(min(batch_size, len(reading)))]
                if not batch:
                    break
                read(ahead)
                for job, outcome in _predict([(job, photo.result()) for job, photo in batch], predictor):
                    if isinstance(outcome, Matte):
                        writing.append(writers.submit(write, job, outcome))
                    else:
                        failed: Future[Result] = Future()
                        failed.set_result(Result(job, error=outcome))
                        writing.append(failed)
                while len(writing) > workers + batch_size - 1 or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            stopped.set()
            for _, photo in reading:
                photo.cancel()


def _predict(
    batch: list[tuple[Job, Photo | BiRefNetError]], predictor: Predictor
) -> Iterator[tuple[Job, Matte | BiRefNetError]]:
    """Give each photo of a batch its matte, and those that could not be read their error."""
    photos = [photo for _, photo in batch if isinstance(photo, Photo)]
    try:
        mattes = iter(predictor.predict_many(photos))
    except BiRefNetError as error:
        for job, photo in batch:
            yield job, error if isinstance(photo, Photo) else photo
        return
    for job, photo in batch:
        yield job, next(mattes) if isinstance(photo, Photo) else photo
