"""Streams of batches: on a CPU threads stand for CUDA streams, as asynchronous as these, and slower at random."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from birefnet.inference.accelerate import accelerate
from birefnet.inference.streams import Mark, StreamedRunner
from support import tiny_model

Array = NDArray[np.float32]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: no stream copied anything")


class ThreadMark:
    """The end of a job in another thread."""

    def __init__(self, future: Future[None]) -> None:
        self.future = future

    def synchronize(self) -> None:
        self.future.result()


class ThreadLanes:
    """A thread for each lane, which waits a moment before each job; what is not waited for is seen by others half done.

    Args:
        seed: Decides how long each job is delayed.
    """

    def __init__(self, seed: int) -> None:
        self.threads: dict[str, ThreadPoolExecutor] = {}
        self.random = random.Random(seed)

    def submit(self, lane: str, job: Callable[[], None], after: Sequence[Mark]) -> Mark:
        thread = self.threads.setdefault(lane, ThreadPoolExecutor(1))
        delay = self.random.choice((0.0, 0.0, 0.002, 0.006))

        def work() -> None:
            for mark in after:
                mark.synchronize()
            time.sleep(delay)
            job()

        return ThreadMark(thread.submit(work))

    def close(self) -> None:
        for thread in self.threads.values():
            thread.shutdown()


@pytest.fixture(params=range(4))
def lanes(request: pytest.FixtureRequest) -> Iterator[ThreadLanes]:
    threads = ThreadLanes(request.param)
    yield threads
    threads.close()


def batches(count: int, sizes: Sequence[tuple[int, int]] = ((4, 6),)) -> list[Array]:
    """Draw batches of these sizes in turn."""
    generator = np.random.default_rng(0)
    return [generator.random((1 + i % 2, 3, *sizes[i % len(sizes)]), np.float32) for i in range(count)]


def network(images: Tensor) -> Tensor:
    return images.mean(1, keepdim=True).square()


def expected(images: Array) -> Array:
    result: Array = network(torch.from_numpy(images)).numpy()
    return result


@pytest.mark.parametrize("sizes", [((4, 6),), ((4, 6), (6, 4), (4, 6), (2, 2), (9, 9), (3, 5), (5, 3))])
def test_results_are_right_and_in_order(lanes: ThreadLanes, sizes: Sequence[tuple[int, int]]) -> None:
    runner = StreamedRunner(network, "cpu", lanes=lanes)
    given = batches(40, sizes)
    results = list(runner.run_many(given))
    assert len(results) == len(given)
    for images, result in zip(given, results, strict=True):
        np.testing.assert_array_equal(result, expected(images))


def test_the_next_batch_is_taken_before_a_result_is_waited_for_but_no_more(lanes: ThreadLanes) -> None:
    taken: list[int] = []

    def source() -> Iterator[Array]:
        for number, images in enumerate(batches(5)):
            taken.append(number)
            yield images

    seen = [len(taken) for _ in StreamedRunner(network, "cpu", lanes=lanes).run_many(source())]
    assert seen == [2, 3, 4, 5, 5]


def test_copies_go_on_while_a_batch_is_computed() -> None:
    lanes = ThreadLanes(0)
    lanes.random.choice = lambda _: 0.0  # type: ignore[method-assign]
    events: list[str] = []

    def slow(images: Tensor) -> Tensor:
        events.append("begin")
        time.sleep(0.05)
        events.append("end")
        return network(images)

    class Noting(StreamedRunner):
        def _copy_in(self, slot: object) -> None:
            events.append("in")
            super()._copy_in(slot)  # type: ignore[arg-type]

    list(Noting(slow, "cpu", lanes=lanes).run_many(batches(4)))
    lanes.close()
    # The second batch is in before the first is computed, and each later one before the one ahead of it.
    ends = [index for index, event in enumerate(events) if event == "end"]
    copies = [index for index, event in enumerate(events) if event == "in"]
    assert all(copies[i + 1] < ends[i] for i in range(3)), events


def test_an_abandoned_run_leaves_the_next_one_alone(lanes: ThreadLanes) -> None:
    runner = StreamedRunner(network, "cpu", lanes=lanes)
    given = batches(12)
    for first in range(8):
        run = runner.run_many(given[first:])
        np.testing.assert_array_equal(next(run), expected(given[first]))
        run.close()  # type: ignore[attr-defined]
        # Either slot of the next run may be that of the batch left on its way.
        if first % 3:
            np.testing.assert_array_equal(runner(given[2]), expected(given[2]))
    for images, result in zip(given, runner.run_many(given), strict=True):
        np.testing.assert_array_equal(result, expected(images))


def test_results_are_arrays_of_their_own(lanes: ThreadLanes) -> None:
    runner = StreamedRunner(network, "cpu", lanes=lanes)
    given = batches(8)
    for images, result in zip(given, runner.run_many(given), strict=True):
        result += 1
        np.testing.assert_array_equal(result, expected(images) + 1)


@pytest.mark.parametrize("threaded", [False, True])
def test_what_came_before_an_error_comes_out(threaded: bool) -> None:
    def source() -> Iterator[Array]:
        yield from batches(2)
        yield np.zeros((1, 3, 4), np.float32)

    def strict(images: Tensor) -> Tensor:
        assert images.ndim == 4
        return network(images)

    class Immediate(ThreadLanes):
        """Jobs run at once, as CUDA's do on the side of Python."""

        def submit(self, lane: str, job: Callable[[], None], after: Sequence[Mark]) -> Mark:
            mark = super().submit(lane, job, after)
            mark.synchronize()
            return mark

    lanes = Immediate(0) if threaded else None
    results = StreamedRunner(strict, "cpu", lanes=lanes).run_many(source())
    for images in batches(2):
        np.testing.assert_array_equal(next(results), expected(images))
    with pytest.raises(AssertionError):
        next(results)
    if lanes is not None:
        lanes.close()


@pytest.mark.filterwarnings("error")
def test_any_array_is_taken(lanes: ThreadLanes) -> None:
    images = batches(1)[0]
    wanted, turned = expected(images), expected(images[..., ::-1].copy())
    images.flags.writeable = False
    for runner in (StreamedRunner(network, "cpu"), StreamedRunner(network, "cpu", lanes=lanes)):
        np.testing.assert_array_equal(runner(images), wanted)
        np.testing.assert_array_equal(runner(images[..., ::-1]), turned)
        assert not list(runner.run_many([]))


def test_the_network_gets_its_type_and_the_result_is_float32(lanes: ThreadLanes) -> None:
    types: set[torch.dtype] = set()

    def half(images: Tensor) -> Tensor:
        types.add(images.dtype)
        assert torch.is_inference_mode_enabled()
        return network(images)

    images = batches(1)[0]
    for given in (None, lanes):
        result = StreamedRunner(half, "cpu", dtype=torch.bfloat16, lanes=given)(images)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected(images), atol=0.02)
    assert types == {torch.bfloat16}


def test_a_whole_network(lanes: ThreadLanes) -> None:
    model = tiny_model()
    given = [np.random.default_rng(i).standard_normal((1, 3, 64, 64)).astype(np.float32) for i in range(3)]
    runner = StreamedRunner(accelerate(model, "cpu"), "cpu", lanes=lanes)
    for images, result in zip(given, runner.run_many(given), strict=True):
        with torch.inference_mode():
            np.testing.assert_array_equal(result, model(torch.from_numpy(images)).numpy())


@needs_gpu
@pytest.mark.parametrize("method", ["graphs", "eager"])
def test_on_a_gpu(method: str) -> None:
    model = tiny_model().cuda()
    runner = StreamedRunner(accelerate(model, "cuda", method=method), "cuda")
    generator = np.random.default_rng(0)
    given = [generator.standard_normal((1, 3, 64 + 32 * (i % 2), 64)).astype(np.float32) for i in range(20)]
    with torch.inference_mode():
        for images, result in zip(given, runner.run_many(given), strict=True):
            wanted = model(torch.from_numpy(images).cuda()).cpu().numpy()
            np.testing.assert_allclose(result, wanted, atol=1e-3)
