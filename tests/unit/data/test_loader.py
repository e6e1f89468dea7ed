import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from photo_files import cuts

from birefnet.data.augment import MODERATE
from birefnet.data.batches import Batch, Batches, DataRecipe
from birefnet.data.loader import feed
from birefnet.data.pairs import Pair
from birefnet.data.photos import open_photos
from birefnet.errors import ConfigError, DataError

CPU = torch.device("cpu")
RECIPE = DataRecipe(batch=3, sizes="64", augmentation=MODERATE)
WAYS = [{}, {"prefetch": 2}, {"workers": 2}]


@pytest.fixture
def pairs(tmp_path: Path, chelsea: Path) -> list[Pair]:
    return cuts(chelsea, tmp_path / "data")


def run_through(pairs: list[Pair], start: int = 0, **way: int) -> list[Batch]:
    with feed(Batches(open_photos(pairs), RECIPE, 21, 4), start, CPU, **way) as ready:
        return list(ready)


def test_the_same_batches_in_every_way_and_from_any_step_on(pairs: list[Pair]) -> None:
    expected = run_through(pairs)
    assert len(expected) == 7
    for way in WAYS:
        for start in (0, 5):
            torch.manual_seed(0)
            state = torch.get_rng_state()
            made = run_through(pairs, start, **way)
            assert torch.equal(torch.get_rng_state(), state)
            assert len(made) == 7 - start
            for one, other in zip(made, expected[start:], strict=True):
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.target, other.target)
                assert torch.equal(one.valid, other.valid)
                assert torch.equal(one.classes, other.classes)
                assert one.names == other.names
                assert one.images.is_contiguous(memory_format=torch.channels_last)


def test_packs_are_read_in_every_way(pairs: list[Pair], tmp_path: Path) -> None:
    photos = open_photos(pairs, RECIPE.fixed_sizes, cache=tmp_path / "cache", headroom=RECIPE.augmentation.headroom)
    for way in WAYS:
        with feed(Batches(photos, RECIPE, 12, 4), 0, CPU, **way) as ready:
            made = torch.cat([batch.images for batch in ready])
        plain = torch.cat([Batches(photos, RECIPE, 12, 4)(step).images for step in range(4)])
        assert torch.equal(made, plain)


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_breaks_on_the_way_stops_with_its_name(pairs: list[Pair], way: dict[str, int]) -> None:
    batches = Batches(open_photos(pairs), RECIPE, 300, 4)
    broken = pairs[2]

    def break_it() -> None:
        with feed(batches, 0, CPU, **way) as ready:
            for number, _ in enumerate(ready):
                if number == 1:
                    broken.image.write_bytes(b"no image any more")

    with pytest.raises(DataError) as caught:
        break_it()
    text = f"{broken.image}: not an image, or of a kind that cannot be read: replace or remove it"
    assert str(caught.value) == text


@pytest.mark.parametrize("way", WAYS)
def test_leaving_early_leaves_nothing_running(pairs: list[Pair], way: dict[str, int]) -> None:
    batches = Batches(open_photos(pairs), RECIPE, 3000, 4)
    threads = threading.active_count()
    number = torch.get_num_threads()
    with feed(batches, 0, CPU, **way) as ready:
        next(ready)
        workers = [worker.pid for worker in ready._loader._workers] if ready._loader else []
    assert len(workers) == way.get("workers", 0)
    until = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)  # threads of closed queues take a moment
    assert threading.active_count() == threads
    assert torch.get_num_threads() == number
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# The signal of the worker's end may interrupt torch just as it opens a temporary file, which nobody closes then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed(pairs: list[Pair]) -> None:
    batches = Batches(open_photos(pairs), RECIPE, 3000, 4)

    def kill() -> None:
        with feed(batches, 0, CPU, workers=1) as ready:
            next(ready)
            os.kill(ready._loader._workers[0].pid, signal.SIGKILL)
            for _ in ready:
                time.sleep(0.01)

    with pytest.raises(DataError, match="a process that reads photos ended"):
        kill()


def test_impossible_numbers(pairs: list[Pair]) -> None:
    batches = Batches(open_photos(pairs), RECIPE, 3, 4)
    with pytest.raises(ConfigError, match="must be at least 0"):
        feed(batches, 0, CPU, workers=-1)
    made_elsewhere = Batches(open_photos(pairs), RECIPE, 3, 4, device=torch.device("cuda"))
    with pytest.raises(ConfigError, match="worker processes cannot make batches on a GPU"):
        feed(made_elsewhere, 0, CPU, workers=1)


def test_ctrl_c_reaches_the_run_and_not_its_workers(pairs: list[Pair], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import signal, torch
        from pathlib import Path
        from birefnet.data.batches import Batches, DataRecipe
        from birefnet.data.loader import feed
        from birefnet.data.pairs import find_pairs
        from birefnet.data.photos import open_photos

        batches = Batches(open_photos(find_pairs({str(pairs[0].image.parent.parent)!r})), DataRecipe(4, "64"), 10**6, 0)
        told = []
        signal.signal(signal.SIGINT, lambda *_: told.append(True))
        try:
            with feed(batches, 0, torch.device("cpu"), workers=2) as ready:
                for number, batch in enumerate(ready):
                    print("batch", flush=True)
                    if told:
                        # The workers are there still, and go on.
                        for _ in range(10):
                            next(ready)
                        print("more", flush=True)
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        print("ended", flush=True)
        """)
    )
    process = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert out.splitlines()[-2:] == ["more", "ended"]
    assert (process.returncode, errors) == (0, "")
