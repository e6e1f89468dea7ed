import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.batch import pipeline
from birefnet.batch.pipeline import Result, run
from birefnet.batch.plan import Job
from birefnet.config import InputSpec
from birefnet.engines.testing import FakeEngine
from birefnet.imaging.matte import Matte
from birefnet.predictor import Predictor


def make_jobs(folder: Path, count: int) -> list[Job]:
    jobs = []
    for i in range(count):
        source = folder / f"{i:02}.png"
        Image.new("RGB", (20 + i, 30), (10 * i, 10 * i, 10 * i)).save(source)
        jobs.append(Job(source, folder / "out" / f"{i:02}.png"))
    return jobs


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (100, 4)])
def test_every_photo_gets_its_own_result_in_order(tmp_path: Path, batch_size: int, workers: int) -> None:
    jobs = make_jobs(tmp_path, 10)
    engine = FakeEngine()
    predictor = Predictor(engine, InputSpec(size=(32, 32)))
    results = list(run(jobs, predictor, Matte.mask, batch_size=batch_size, workers=workers))
    assert [result.job for result in results] == jobs
    assert all(result.error is None for result in results)
    for i, job in enumerate(jobs):
        with Image.open(job.target) as mask:
            assert mask.size == (20 + i, 30)
            assert np.abs(np.asarray(mask).astype(int) - 10 * i).max() <= 1
    assert sum(shape[0] for shape in engine.shapes) == 10
    assert max(shape[0] for shape in engine.shapes) == min(batch_size, 10)


def test_what_fails_is_reported_in_its_place(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 6)
    jobs[1].source.write_bytes(b"")
    jobs[4].source.unlink()
    jobs[2].target.parent.mkdir()
    jobs[2].target.mkdir()
    predictor = Predictor(FakeEngine(), InputSpec(size=(32, 32)))
    results = list(run(jobs, predictor, Matte.mask, batch_size=4))
    failed = {i: str(result.error) for i, result in enumerate(results) if result.error}
    assert failed.keys() == {1, 2, 4}
    assert "01.png: not an image" in failed[1]
    assert "02.png: cannot be written" in failed[2]
    assert "04.png: no such file" in failed[4]
    assert sorted(path.name for path in jobs[0].target.parent.iterdir()) == ["00.png", "02.png", "03.png", "05.png"]


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Photos alive at once: read, and not yet written.
    jobs = make_jobs(tmp_path, 40)
    lock, alive, most = threading.Lock(), 0, 0
    read, write = pipeline.read_photo, pipeline.write_image

    def counted_read(*args: object, **kwargs: object) -> object:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return read(*args, **kwargs)  # type: ignore[arg-type]

    def counted_write(*args: object) -> None:
        nonlocal alive
        write(*args)  # type: ignore[arg-type]
        with lock:
            alive -= 1

    monkeypatch.setattr(pipeline, "read_photo", counted_read)
    monkeypatch.setattr(pipeline, "write_image", counted_write)
    results = run(jobs, Predictor(FakeEngine(), InputSpec(size=(32, 32))), Matte.mask, batch_size=2, workers=2)
    assert len(list(results)) == 40
    assert alive == 0
    assert most <= 2 * 2 + 2 + 2


def test_reading_and_writing_go_on_beside_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What each waits for comes only if the others really work at the same time; alone it would wait for ever.
    jobs = make_jobs(tmp_path, 12)
    read_beside, second_run = threading.Event(), threading.Event()
    begun, runs, missed = 0, 0, []
    lock, read, write = threading.Lock(), pipeline.read_photo, pipeline.write_image

    class Engine(FakeEngine):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            nonlocal runs
            runs += 1
            if runs == 1 and not read_beside.wait(20):
                missed.append("the next batch is not read while the network works")
            if runs == 2:
                second_run.set()
            return super().__call__(images)

    def noted_read(*args: object, **kwargs: object) -> object:
        nonlocal begun
        with lock:
            begun += 1
            if begun == 8:  # two batches
                read_beside.set()
        return read(*args, **kwargs)  # type: ignore[arg-type]

    def late_write(*args: object) -> None:
        if not second_run.wait(20):
            missed.append("the network waits until a batch is written")
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "read_photo", noted_read)
    monkeypatch.setattr(pipeline, "write_image", late_write)
    predictor = Predictor(Engine(), InputSpec(size=(32, 32)))
    assert len(list(run(jobs, predictor, Matte.mask, batch_size=4, workers=2))) == 12
    assert not missed


def test_stopping_early_begins_nothing_new(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 30)
    results = run(jobs, Predictor(FakeEngine(), InputSpec(size=(32, 32))), Matte.mask)
    first = next(results)
    assert isinstance(first, Result)
    results.close()  # type: ignore[attr-defined]
    written = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(written) < 10
    for path in written:
        with Image.open(path) as image:
            image.load()
