import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

import birefnet
from birefnet.errors import BiRefNetError, ConfigError, DataError
from birefnet.training import compact
from birefnet.training.__main__ import main
from birefnet.training.compact import Options, train
from birefnet.training.schedule import Recipe, decay_at, parse_sizes, rate_at, size_at
from support import TINY

RECIPE = Recipe(samples=24, batch=4, sizes=((64, 0.5), (96, 0.5)), warm_up=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs on dark noise."""
    folder = tmp_path_factory.mktemp("discs")
    random = np.random.default_rng(0)
    for part in ("im", "gt"):
        (folder / part).mkdir()
    for index in range(6):
        mask = Image.new("L", (100, 80))
        x, y, r = random.integers(25, 55, 3)
        ImageDraw.Draw(mask).ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=255)
        photo = random.integers(0, 90, (80, 100, 3)) + np.asarray(mask)[..., None] // 2
        Image.fromarray(photo.astype(np.uint8)).save(folder / "im" / f"disc-{index}.png")
        mask.save(folder / "gt" / f"disc-{index}.png")
    return folder


@pytest.fixture
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(cache=tmp_path_factory.getbasetemp() / "cache", val_size=96, log_every=1, val_every=0)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return content


def changed(options: Options, **values: Any) -> Options:
    return Options(**{**vars(options), **values})


def stop_after(step: int, how: Callable[[], object]) -> Callable[[dict[str, Any]], None]:
    def report(line: dict[str, Any]) -> None:
        if line["step"] == step:
            how()

    return report


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name in ("model", "averaged"):
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name} {key}"
    for index, moments in first["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, second["optimizer"]["state"][index][key]), f"{index} {key}"
    assert torch.equal(first["random"], second["random"])


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps without a stop."""
    run = tmp_path_factory.mktemp("straight")
    cache = tmp_path_factory.getbasetemp() / "cache"
    options = Options(cache=cache, val_size=96, log_every=1, val_every=12)
    assert train(TINY, RECIPE, data, run, val=data, options=options) == "finished"
    return run


def test_run_leaves_weights_log_and_checkpoint(straight: Path) -> None:
    assert sorted(path.name for path in straight.iterdir()) == ["checkpoint.pt", "log.jsonl", "model.safetensors"]
    log = lines(straight)
    steps = [line for line in log if "val" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["size"] for line in steps] == [64, 64, 64, 96, 96, 96]
    for name in ("loss", "bce", "iou", "ssim", "gradient", "norm", "images_per_second", "rate"):
        assert all(np.isfinite(line[name]) for line in steps)
    measured = [line for line in log if "val" in line]
    assert [line["step"] for line in measured] == [3, 6]
    assert all(0 <= value <= 1 for line in measured for value in line["val"].values())
    model = birefnet.load_model(straight / "model.safetensors")
    assert model.config == TINY
    assert model.input_spec.size == (96, 96)
    averaged = checkpoint(straight)["averaged"]
    assert all(torch.equal(value, averaged[key]) for key, value in model.state_dict().items())


def test_three_steps_lower_the_loss(data: Path, tmp_path: Path, options: Options) -> None:
    recipe = Recipe(samples=32, batch=8, sizes=((64, 1.0),), warm_up=0, rate=3e-3)
    train(TINY, recipe, data, tmp_path, options=options)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[3] < losses[0]  # the loss of a step is measured before it: after three, that of the fourth


@pytest.mark.parametrize("prefetch", [False, True])
def test_stop_and_resume_gives_identical_weights(
    straight: Path, data: Path, tmp_path: Path, options: Options, prefetch: bool
) -> None:
    for step in (2, 4):
        stopping = stop_after(step, lambda: signal.raise_signal(signal.SIGTERM))
        asked = changed(options, prefetch=prefetch)
        assert train(TINY, RECIPE, data, tmp_path, options=asked, report=stopping) == "signal"
        assert checkpoint(tmp_path)["step"] == step
        assert (tmp_path / "model.safetensors").exists()
    assert train(TINY, RECIPE, data, tmp_path, options=options) == "finished"
    assert_same(checkpoint(straight), checkpoint(tmp_path))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_real_signal_from_outside_stops_cleanly_and_handlers_are_put_back(
    data: Path, tmp_path: Path, options: Options
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupt = threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT))
    ending = train(TINY, RECIPE, data, tmp_path, options=options, report=stop_after(1, interrupt.start))
    interrupt.join()
    assert ending == "signal"
    assert checkpoint(tmp_path)["step"] < RECIPE.steps
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_time_limit_stops_with_a_checkpoint(data: Path, tmp_path: Path, options: Options) -> None:
    asked = changed(options, max_seconds=0.0)
    assert train(TINY, RECIPE, data, tmp_path, options=asked) == "time"
    assert checkpoint(tmp_path)["step"] == 1


def test_checkpoints_on_the_way(data: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def save(_path: Path, state: compact.State, _recipe: Recipe) -> None:
        saved.append(state.step)

    monkeypatch.setattr(compact, "save_checkpoint", save)
    train(
        TINY, Recipe(samples=8, batch=4, sizes=((64, 1.0),)), data, tmp_path, options=changed(options, save_seconds=0)
    )
    assert saved == [1, 2, 2]


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Make the loss of the given calls NaN."""
    original, calls = compact.total_loss, iter(range(1000))

    def loss(*args: Any) -> dict[str, torch.Tensor]:
        terms = original(*args)
        return {k: v * float("nan") for k, v in terms.items()} if next(calls) in bad else terms

    monkeypatch.setattr(compact, "total_loss", loss)


def test_a_step_without_usable_gradient_changes_nothing(
    data: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(samples=8, batch=4, sizes=((64, 1.0),), warm_up=0)
    poisoned(monkeypatch, {1})
    first = changed(options, max_seconds=0.0)
    train(TINY, recipe, data, tmp_path, options=first)
    before = checkpoint(tmp_path)
    train(TINY, recipe, data, tmp_path, options=options)
    after = checkpoint(tmp_path)
    assert (after["step"], after["skipped"]) == (2, 1)
    for name in ("model", "averaged"):
        for key, value in after[name].items():
            if value.is_floating_point():
                assert torch.equal(value, before[name][key]), key
    assert "loss" not in lines(tmp_path)[1]


def test_running_statistics_survive_a_photo_that_overflows(
    data: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = compact.BiRefNet.forward_train, iter(range(1000))

    def forward(self: Any, images: torch.Tensor) -> Any:
        return original(self, images * float("inf") if next(calls) == 1 else images)

    monkeypatch.setattr(compact.BiRefNet, "forward_train", forward)
    train(TINY, Recipe(samples=12, batch=4, sizes=((64, 1.0),)), data, tmp_path, options=options)
    content = checkpoint(tmp_path)
    assert content["skipped"] == 1
    assert all(v.isfinite().all() for name in ("model", "averaged") for v in content[name].values())


def test_divergence_stops_with_one_clear_line(
    data: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "_MOST_SKIPS_IN_A_ROW", 3)
    poisoned(monkeypatch, set(range(1, 100)))
    with pytest.raises(BiRefNetError, match=r"diverged: 3 steps in a row.*lower the learning rate") as caught:
        train(TINY, RECIPE, data, tmp_path, options=options)
    assert "\n" not in str(caught.value)


def test_resuming_with_another_recipe_or_network_is_refused(straight: Path, data: Path, options: Options) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: belongs to another recipe \(batch 4 -> 2\)"):
        train(TINY, Recipe(**{**vars(RECIPE), "batch": 2}), data, straight, options=options)
    wider = replace(TINY, inward_channels=16)
    with pytest.raises(ConfigError, match=r"inward_channels 4 -> 16"):
        train(wider, RECIPE, data, straight, options=options)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_damaged_checkpoint(data: Path, tmp_path: Path, options: Options, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"checkpoint\.pt: cannot be read as a checkpoint"):
        train(TINY, RECIPE, data, tmp_path, options=options)


def test_start_from_given_weights(straight: Path, data: Path, tmp_path: Path, options: Options) -> None:
    recipe = Recipe(samples=4, batch=4, sizes=((64, 1.0),), rate=1e-12)
    train(TINY, recipe, data, tmp_path, options=options, init=straight / "model.safetensors")
    given = checkpoint(straight)["averaged"]
    for key, value in checkpoint(tmp_path)["model"].items():
        if key.endswith("weight"):
            torch.testing.assert_close(value, given[key])


def test_bfloat16_trains(data: Path, tmp_path: Path, options: Options) -> None:
    recipe = Recipe(samples=8, batch=4, sizes=((64, 1.0),), precision="bfloat16")
    assert train(TINY, recipe, data, tmp_path, options=options) == "finished"
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path))


def test_unknown_device(data: Path, tmp_path: Path, options: Options) -> None:
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        train(TINY, RECIPE, data, tmp_path, options=changed(options, device="gpu"))


def test_schedule() -> None:
    recipe = Recipe(samples=1000, batch=1, sizes=((160, 0.5), (224, 0.5)), rate=1.0, warm_up=0.1, final_rate=0.1)
    assert [size_at(recipe, step) for step in (0, 499, 500, 999)] == [160, 160, 224, 224]
    rates = [rate_at(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    decays = [decay_at(recipe, step) for step in (0, 90, 10**6)]
    assert decays == [0.1, 0.91, 0.999]


@pytest.mark.parametrize("text", ["", "160", "96:0.5,128:0.5"])
def test_sizes(text: str) -> None:
    if text:
        stages = parse_sizes(text)
        assert sum(share for _, share in stages) == 1
        Recipe(sizes=stages)
    else:
        with pytest.raises(ConfigError, match="sizes must look like"):
            parse_sizes(text)


@pytest.mark.parametrize("sizes", [((100, 1.0),), ((96, 0.5), (128, 0.4)), ((96, 2.0), (128, -1.0)), ()])
def test_impossible_sizes(sizes: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ConfigError):
        Recipe(sizes=sizes)


def test_command_line(data: Path, tmp_path: Path) -> None:
    cache = ["--cache", str(tmp_path / "cache")]
    pack = tmp_path / "discs.npz"
    runner = CliRunner()
    packed = runner.invoke(main, ["pack", str(data), str(pack), "--size", "80", *cache])
    assert packed.exit_code == 0, packed.output
    assert "6 pairs at 80 px" in packed.output
    narrow = [f"--set={name}=8" for name in ("decoder_channels", "attention_channels", "inward_channels")]
    sizes = ["--sizes", "64", "--val-size", "64", "--samples", "8", "--batch", "4", "--log-every", "1"]
    command = ["train", "--data", str(pack), "--val", str(data), "--run", str(tmp_path / "run"), *cache]
    trained = runner.invoke(main, [*command, *sizes, *narrow])
    assert trained.exit_code == 0, trained.output
    assert "step 2/2  64 px  loss" in trained.output
    assert "validation  mae" in trained.output
    assert trained.output.endswith("model.safetensors\n")
    wrong = runner.invoke(main, [*command, *sizes, "--set", "decoder_chanels=8"])
    assert wrong.exit_code == 1
    assert wrong.output.startswith("Error: unknown ModelConfig field 'decoder_chanels': did you mean")
    nowhere = runner.invoke(main, ["train", "--data", str(tmp_path / "none"), "--run", str(tmp_path / "new"), *cache])
    assert nowhere.exit_code == 1
    assert nowhere.output.startswith("Error: ")
    assert nowhere.output.count("\n") == 1
