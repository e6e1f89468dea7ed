"""What every engine keeps to, whatever runs the network."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from birefnet._processors import cores, processors
from birefnet.engines.base import Engine
from birefnet.engines.metadata import METADATA_KEY, check_images, read_facts
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.testing import FakeEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.errors import BiRefNetError, ConfigError, InputError, WeightsError
from birefnet.inference.streams import StreamedRunner
from birefnet.model import BiRefNet
from birefnet.models import bundled_file

NANO = bundled_file("nano", ".onnx")

ENGINES: dict[str, Callable[[], Engine]] = {
    "torch": lambda: TorchEngine(BiRefNet.from_pretrained("nano"), precision="float32"),
    "onnx": lambda: OnnxEngine(NANO, threads=1),
    "openvino": lambda: OpenVinoEngine(NANO, threads=1, precision="float32"),
    "fake": FakeEngine,
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 256, 64)])
def test_alpha_has_the_images_size_and_lies_between_0_and_1(engine: Engine, shape: tuple[int, ...]) -> None:
    alpha = engine(noise(*shape))
    assert alpha.shape == (shape[0], 1, *shape[2:])
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert alpha.std() > 0


def test_images_of_a_batch_do_not_see_each_other(engine: Engine) -> None:
    images = noise(3, 3, 64, 96)
    together = engine(images)
    for index in range(3):
        np.testing.assert_allclose(together[index], engine(images[index : index + 1])[0], atol=1e-5)


def test_a_result_stays_when_the_next_is_computed(engine: Engine) -> None:
    first = engine(noise(1, 3, 64, 64))
    kept = first.copy()
    engine(noise(1, 3, 64, 64, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_images_are_left_as_they_are(engine: Engine) -> None:
    images = noise(1, 3, 64, 64)
    before = images.copy()
    engine(images)
    np.testing.assert_array_equal(images, before)


def test_the_same_image_gives_the_same_alpha(engine: Engine) -> None:
    images = noise(1, 3, 64, 64)
    np.testing.assert_array_equal(engine(images), engine(images))


@pytest.mark.parametrize("shape", [(1, 3, 50, 50), (1, 3, 64, 33), (1, 3, 0, 64), (1, 3, 16, 16)])
def test_impossible_sizes_are_refused_in_one_line(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as error:
        engine(np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)
    assert "32" in str(error.value)


def test_an_engine_goes_on_after_a_refusal(engine: Engine) -> None:
    with pytest.raises(InputError):
        engine(np.zeros((1, 3, 50, 50), np.float32))
    assert engine(noise(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_what_it_computes_in_is_told(engine: Engine) -> None:
    assert engine.precision == "float32"


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_files_give_what_the_network_gives(name: str) -> None:
    images = noise(2, 3, 96, 64)
    # The file holds the same float16 weights; sums are in another order.
    np.testing.assert_allclose(ENGINES[name]()(images), ENGINES["torch"]()(images), atol=1e-4)


@pytest.mark.parametrize("make", [OnnxEngine, OpenVinoEngine])
def test_threads_are_those_asked_for_and_never_more_than_cores(make: Callable[..., Engine]) -> None:
    assert make(NANO, threads=1).threads == 1  # type: ignore[attr-defined]
    assert make(NANO).threads == cores() <= processors()  # type: ignore[attr-defined]
    for threads in (0, -1):
        with pytest.raises(ConfigError, match="from 1 on"):
            make(NANO, threads=threads)


def test_threads_run_in_parallel_only_as_far_as_asked() -> None:
    # How many threads a process has is Linux's to tell.
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("the system does not tell how many threads there are")
    before = len(list(tasks.iterdir()))
    engine = OnnxEngine(NANO, threads=4)
    engine(noise(1, 3, 64, 64))
    # The caller's own thread is the fourth.
    assert len(list(tasks.iterdir())) - before == 3


@pytest.mark.parametrize("make", [OnnxEngine, OpenVinoEngine])
@pytest.mark.parametrize("name", ["missing.onnx", "text.onnx", "cut.onnx", "."])
def test_other_files_are_refused_in_one_line(make: Callable[..., Engine], name: str, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(NANO.read_bytes()[:5000])
    with pytest.raises(WeightsError) as error:
        make(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{",
        "{}",
        '{"output": "logits", "input_spec": {}}',
        '{"output": "alpha", "input_spec": {"size": 3}}',
        '{"output": "alpha", "input_spec": {}, "precision": "int4"}',
        '{"output": "alpha", "input_spec": {}, "grid": 0}',
        '{"output": "alpha", "input_spec": {}, "grid": "64"}',
        '{"output": "alpha", "input_spec": {}, "least": [64]}',
        '{"output": "alpha", "input_spec": {}, "least": [64, 1.5]}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_files_that_do_not_say_what_they_are_are_refused(text: str | None) -> None:
    with pytest.raises(WeightsError, match=r"some\.onnx: its metadata do not say what goes in and out"):
        read_facts(Path("some.onnx"), text)


def test_images_of_another_type_or_shape_are_refused(engine: Engine) -> None:
    for images in (
        np.zeros((1, 3, 64, 64)),
        np.zeros((3, 64, 64), np.float32),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 4, 64, 64), np.float32),
    ):
        with pytest.raises(InputError, match="an engine takes images"):
            engine(images)


def test_files_say_which_sizes_they_take() -> None:
    facts = read_facts(Path("x"), '{"output": "alpha", "input_spec": {}, "grid": 64, "least": [128, 192]}')
    assert (facts.grid, facts.least) == (64, (128, 192))
    check_images(np.zeros((1, 3, 128, 192), np.float32), facts.grid, facts.least)
    for size in ((64, 192), (128, 128), (160, 192)):
        with pytest.raises(InputError, match="must be multiples of 64, from 128 x 192 on"):
            check_images(np.zeros((1, 3, *size), np.float32), facts.grid, facts.least)
    facts = read_facts(Path("x"), '{"output": "alpha", "input_spec": {}}')
    assert (facts.grid, facts.least) == (32, (32, 32))


def test_the_engine_keeps_to_the_sizes_that_the_file_says(tmp_path: Path) -> None:
    graph = onnx.load(NANO)
    (entry,) = (entry for entry in graph.metadata_props if entry.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "grid": 64, "least": [64, 128]})
    onnx.save(graph, tmp_path / "coarse.onnx")
    for make in (OnnxEngine, OpenVinoEngine):
        engine = make(tmp_path / "coarse.onnx", threads=1)
        assert engine(noise(1, 3, 64, 128)).shape == (1, 1, 64, 128)
        with pytest.raises(InputError, match="multiples of 64, from 64 x 128 on, not 96 x 128"):
            engine(noise(1, 3, 96, 128))


def test_threads_may_share_an_engine(engine: Engine) -> None:
    # More sizes than are kept, so that what is kept changes all the time.
    batches = [noise(1, 3, 32 * (1 + index // 6), 32 * (1 + index % 6), seed=index) for index in range(36)]
    alone = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_torch_runs_one_call_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its runner is for one thread; a second call has to wait.
    inside, most = [], []
    run = StreamedRunner.__call__

    def watched(self: StreamedRunner, images: np.ndarray) -> np.ndarray:
        inside.append(1)
        most.append(len(inside))
        result = run(self, images)
        inside.pop()
        return result

    monkeypatch.setattr(StreamedRunner, "__call__", watched)
    engine = ENGINES["torch"]()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(engine, [noise(1, 3, 128, 128)] * 8))
    assert most == [1] * 8


def test_torch_takes_no_more_threads_than_cores_unless_told() -> None:
    before = torch.get_num_threads()
    model = BiRefNet.from_pretrained("nano")
    try:
        torch.set_num_threads(cores() + 2)
        TorchEngine(model)
        assert torch.get_num_threads() == cores()
        torch.set_num_threads(1)
        TorchEngine(model)
        assert torch.get_num_threads() == 1
        TorchEngine(model, threads=cores() + 1)
        assert torch.get_num_threads() == cores() + 1
        with pytest.raises(ConfigError, match="from 1 on"):
            TorchEngine(model, threads=0)
    finally:
        torch.set_num_threads(before)


def test_nothing_is_compiled_for_the_cpu() -> None:
    with pytest.raises(InputError, match="compiled for cuda alone"):
        TorchEngine(BiRefNet.from_pretrained("nano"), compiled=True)


def test_errors_are_the_packages_own() -> None:
    for error in (InputError, ConfigError, WeightsError):
        assert issubclass(error, BiRefNetError)
