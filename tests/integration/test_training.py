"""Whole runs of a tiny network on drawn photos and on files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import birefnet
from birefnet.data.pairs import find_pairs
from birefnet.errors import BiRefNetError, ConfigError, DataError
from birefnet.imaging.decide import decide
from birefnet.imaging.masks import read_map
from birefnet.imaging.postprocess import without_scraps
from birefnet.imaging.preprocess import denormalised, grey_world, mirrored
from birefnet.metrics import Conventions, Scorer
from birefnet.training.folder import read_recipe
from birefnet.training.log import Line, read_log, training_lines, validation_lines
from birefnet.training.loop import DivergedError
from birefnet.training.plan import Asked, make_plan, plan_of
from birefnet.training.run import Options, train
from birefnet.training.sets import Choice
from support import TINY

CHANGES: dict[str, Any] = {
    "model": TINY.to_dict() | {"dropout": 0.1},
    "data.sizes": "64:0.5,96:0.5",
    "data.batch": 4,
    "samples": 24,
    "optimizer.warm_up": 0.0,
    "validation.every": 1.0,
    "validation.metric": "MAE",
    "precision": "float32",  # as bfloat16 is emulated on many machines
}
CHOICE = Choice("drawn:12", share=0.3)


class Listener:
    """Keeps what it is told, and does something at a step."""

    def __init__(self, at: int | None = None, do: Callable[[], object] = lambda: None) -> None:
        self.at, self.do = at, do
        self.lines: list[Line] = []
        self.notes: list[str] = []
        self.works: list[str] = []

    def report(self, line: Line) -> None:
        self.lines.append(line)
        if line["step"] == self.at and "val" not in line:
            self.do()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def resume(self, run: Path) -> None:
        self.notes.append(f"resumed {run.name}")

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        self.works.append(f"{title}: {total}")
        yield lambda: None


@pytest.fixture
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    cache = tmp_path_factory.getbasetemp() / "cache"
    return Options(device="cpu", cache=cache, log_every=1, save_seconds=1e9, tensorboard=False, plots=False)


def changed(options: Options, **values: Any) -> Options:
    return Options(**{**vars(options), **values})


def run_of(
    run: Path, options: Options, listener: Listener | None = None, choice: Choice = CHOICE, **changes: Any
) -> str:
    asked = Asked("nano", changes={**CHANGES, **{name.replace("__", "."): value for name, value in changes.items()}})
    return train(make_plan(asked, choice), run, options, listener)


def content(run: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return saved


def assert_same(first: Path, second: Path) -> None:
    one, two = content(first), content(second)
    for name in ("model", "average"):
        for key, value in one[name].items():
            assert torch.equal(value, two[name][key]), f"{name} {key}"
    for name, moments in one["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, two["optimizer"]["state"][name][key]), f"{name} {key}"
    assert torch.equal(one["random"][0]["cpu"], two["random"][0]["cpu"])
    for name in ("model.safetensors", "best.safetensors"):
        left, right = (load_file(run / name) for run in (first, second))
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[key]) for key, value in left.items())
    kept = ("step", "loss", "norm", "rate", "epoch", "val", "best", "size")
    lines = [
        [{k: line[k] for k in kept if k in line} for line in read_log(run) if "event" not in line]
        for run in (first, second)
    ]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps without a stop."""
    run = tmp_path_factory.mktemp("straight")
    cache = tmp_path_factory.getbasetemp() / "cache"
    assert run_of(run, Options(device="cpu", cache=cache, log_every=1, tensorboard=False)) == "finished"
    return run


def test_what_a_run_leaves(straight: Path) -> None:
    expected = {"README.md", "best.safetensors", "checkpoint.pt", "curves.png", "data.json", "environment.json"}
    expected |= {"log.jsonl", "masks.png", "model.safetensors", "recipe.toml", "validation"}
    assert {path.name for path in straight.iterdir()} == expected
    steps = training_lines(read_log(straight))
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["size"] for line in steps] == [[64, 64]] * 3 + [[96, 96]] * 3
    for name in ("loss", "bce", "iou", "ssim", "gradient", "norm", "images_per_second", "rate", "seconds"):
        assert all(np.isfinite(line[name]) for line in steps), name
    measured = validation_lines(read_log(straight))
    assert [line["step"] for line in measured] == [3, 6]
    assert {"loss", "S", "MAE", "maxF", "wF", "mBA"} <= measured[0]["val"].keys()
    recipe = read_recipe(straight)
    assert recipe.model == birefnet.load_model(straight / "best.safetensors").config
    assert birefnet.load_model(straight / "model.safetensors").input_spec.size == (96, 96)
    assert "## Results" in (straight / "README.md").read_text(encoding="utf-8")
    for name in ("curves.png", "masks.png"):
        with Image.open(straight / name) as picture:
            picture.load()


def test_averaged_weights_are_those_that_are_saved(straight: Path) -> None:
    average = content(straight)["average"]
    saved = birefnet.load_model(straight / "model.safetensors").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in average.items())
    assert not all(torch.equal(value, content(straight)["model"][name]) for name, value in average.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_twice_and_resumed_is_the_same_to_the_bit(
    straight: Path, tmp_path: Path, options: Options, workers: int
) -> None:
    asked = changed(options, workers=workers)
    for step in (2, 4):
        listener = Listener(step, lambda: signal.raise_signal(signal.SIGTERM))
        assert run_of(tmp_path, asked, listener) == "signal"
        assert content(tmp_path)["progress"]["step"] == step
        assert (tmp_path / "model.safetensors").exists()
    listener = Listener()
    plan = plan_of(tmp_path)  # as `birefnet train --resume DIR`
    assert train(plan, tmp_path, options, listener) == "finished"
    assert "the run goes on at step 4" in listener.notes
    assert_same(straight, tmp_path)


def test_killed_and_resumed_is_the_same_to_the_bit(straight: Path, tmp_path: Path, options: Options) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import test_training as t\n"
        "from birefnet.training.run import Options\n"
        "options = Options(device='cpu', cache=Path(sys.argv[3]), log_every=1, save_seconds=0, tensorboard=False)\n"
        "t.run_of(Path(sys.argv[2]), options, t.Listener(4, lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    words = [sys.executable, "-c", program, str(here), str(tmp_path), str(options.cache)]
    assert subprocess.run(words, env=environment, check=False, timeout=120).returncode == -signal.SIGKILL
    assert content(tmp_path)["progress"]["step"] == 3  # a checkpoint after every step; the fourth was under way
    assert run_of(tmp_path, options) == "finished"
    assert_same(straight, tmp_path)


def test_a_signal_from_outside_stops_cleanly_and_handlers_are_put_back(tmp_path: Path, options: Options) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupt = threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT))
    assert run_of(tmp_path, options, Listener(1, interrupt.start)) == "signal"
    interrupt.join()
    assert content(tmp_path)["progress"]["step"] < 6
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_time_limit_stops_with_a_checkpoint(tmp_path: Path, options: Options) -> None:
    assert run_of(tmp_path, changed(options, max_seconds=0.0)) == "time"
    assert content(tmp_path)["progress"]["step"] == 1


def test_early_stop_and_the_best_weights(tmp_path: Path, options: Options) -> None:
    changes: dict[str, Any] = {"validation__patience": 2, "validation__every": 0.5, "samples": 200}
    changes |= {"optimizer__rate": 1e-12, "freeze": ["norm"]}  # nothing is learnt
    assert run_of(tmp_path, options, **changes) == "no-better"
    measured = validation_lines(read_log(tmp_path))
    best = content(tmp_path)["progress"]["best"]
    assert best == min(line["val"]["MAE"] for line in measured)
    assert not any(line["best"] for line in measured[-2:])
    assert len(measured) < 20


def test_a_run_that_ended_early_stays_ended(tmp_path: Path, options: Options) -> None:
    changes: dict[str, Any] = {"validation__patience": 1, "validation__every": 0.5, "samples": 200}
    changes |= {"optimizer__rate": 1e-12, "freeze": ["norm"]}
    assert run_of(tmp_path, options, **changes) == "no-better"
    log, weights = (tmp_path / "log.jsonl").read_bytes(), (tmp_path / "model.safetensors").read_bytes()
    assert run_of(tmp_path, options, **changes) == "no-better"
    assert ((tmp_path / "log.jsonl").read_bytes(), (tmp_path / "model.safetensors").read_bytes()) == (log, weights)


def test_what_is_not_finite_is_never_the_best(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from birefnet.training.validation import Measured, Validator

    usual, values = Validator.measure, iter([float("nan"), 0.3, float("nan"), 0.2])

    def measure(self: Validator, session: Any) -> Measured:
        measured = usual(self, session)
        return Measured({**measured.values, "MAE": next(values)}, measured.samples)

    monkeypatch.setattr(Validator, "measure", measure)
    listener = Listener()
    assert run_of(tmp_path, options, listener, validation__every=1 / 3, samples=16) == "finished"
    assert [line["best"] for line in validation_lines(read_log(tmp_path))] == [False, True, False, True]
    assert content(tmp_path)["progress"]["best"] == 0.2
    assert sum("MAE is not finite" in note for note in listener.notes) == 2


def test_weights_are_validated_as_they_will_be_used(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from birefnet.training.validation import Measured, Validator

    usual, distances = Validator.measure, list[list[float]]()

    def measure(self: Validator, session: Any) -> Measured:
        measured = usual(self, session)
        mean, std = (np.array(values, np.float32) for values in (session.input_spec.mean, session.input_spec.std))
        session.model.eval()
        for sample in measured.samples:
            image = torch.from_numpy(((sample.photo / np.float32(255) - mean) / std).transpose(2, 0, 1)[None])
            with torch.no_grad(), session.weights_to_keep():
                gains = grey_world(image.numpy(), session.input_spec)
                second = torch.from_numpy(mirrored(image.numpy(), gains, session.input_spec))
                logits = session.model(image)
                both = ((logits + session.model(second).flip(-1)) / 2).sigmoid()
                colours = denormalised(image.numpy(), session.input_spec)
                settled = decide(both[0].numpy(), colours, 2.0)
                both = torch.from_numpy(without_scraps(settled[0])[None, None])
            alone = logits.sigmoid()
            distances.append([np.abs(alpha[0, 0].numpy() * 255 - sample.prediction).max() for alpha in (both, alone)])
        session.model.train()
        return measured

    monkeypatch.setattr(Validator, "measure", measure)
    plan = make_plan(Asked("nano", changes=CHANGES), CHOICE)
    plan = replace(plan, input_spec=replace(plan.input_spec, mirror=True, balance=0.5, crf=2.0))
    assert train(plan, tmp_path / "run", options) == "finished"
    assert max(both for both, _ in distances) < 0.51
    assert max(alone for _, alone in distances) > 1
    spec = birefnet.load_model(tmp_path / "run" / "model.safetensors").input_spec
    assert spec.mirror
    assert (spec.balance, spec.crf) == (0.5, 2.0)


def test_accumulated_parts_make_the_same_gradient(tmp_path: Path, options: Options) -> None:
    # Where no statistics of a batch are trained.
    plain = {"freeze": ["norm"], "model__dropout": 0.0, "samples": 4}
    lines = []
    for parts in (1, 2, 4):
        run_of(tmp_path / str(parts), options, memory__accumulate=parts, **plain)
        lines.append(training_lines(read_log(tmp_path / str(parts)))[0])
    for line in lines[1:]:
        assert line["loss"] == pytest.approx(lines[0]["loss"], rel=1e-4)
        assert line["norm"] == pytest.approx(lines[0]["norm"], rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(tmp_path: Path, options: Options, precision: str) -> None:
    assert run_of(tmp_path, options, precision=precision) == "finished"
    steps = training_lines(read_log(tmp_path))
    assert all(np.isfinite(line["loss"]) for line in steps if "loss" in line)
    model = birefnet.load_model(tmp_path / "model.safetensors")
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_a_loss_that_is_not_finite_stops_before_the_step(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from birefnet.training import loop

    usual, calls = loop.training_losses, []

    def poisoned(*args: Any, **named: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms: dict[str, torch.Tensor] = usual(*args, **named)
        return terms | ({"ssim": terms["ssim"] * float("nan")} if len(calls) == 3 else {})

    monkeypatch.setattr(loop, "training_losses", poisoned)
    with pytest.raises(DivergedError, match=r"step 3: the loss is not finite \(bce .*ssim nan.*\) on drawn-0-0000\d\d"):
        run_of(tmp_path, changed(options, save_seconds=0), validation__every=0)
    saved = content(tmp_path)
    assert saved["progress"]["step"] == 2
    assert all(value.isfinite().all() for value in saved["model"].values() if value.is_floating_point())


def test_gradients_of_no_use_are_skipped_and_then_end_the_run(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from birefnet.training.parallel import Parallel

    usual, calls = Parallel.clip, []

    def absurd(self: Parallel, model: torch.nn.Module, most: float) -> torch.Tensor:
        calls.append(1)
        norm = usual(self, model, most)
        return norm * float("inf") if len(calls) in (2, *range(5, 60)) else norm

    monkeypatch.setattr(Parallel, "clip", absurd)
    with pytest.raises(DivergedError, match="20 steps in a row up to step 24"):
        run_of(tmp_path, changed(options, save_seconds=0), samples=400, validation__every=0)
    steps = training_lines(read_log(tmp_path))
    assert [line["skipped"] for line in steps[:4]] == [0, 1, 0, 0]
    assert "loss" not in steps[1]


def test_a_resumed_run_must_be_the_same(straight: Path, options: Options, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"belongs to another recipe \(optimizer.rate: 0.001 -> 0.002; seed: 0 -> 1\)"
    ):
        run_of(straight, options, optimizer__rate=2e-3, seed=1)
    with pytest.raises(DataError, match=r"photos are not those that the run began with .*drawn.*12 -> 13"):
        run_of(straight, options, choice=Choice("drawn:13", share=0.3))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("recipe.toml", "data.json"):
        (broken / name).write_bytes((straight / name).read_bytes())
    (broken / "checkpoint.pt").write_bytes((straight / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"checkpoint.pt: cannot be read as a checkpoint: remove it"):
        run_of(broken, options)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path, changed(options, max_seconds=0.0))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BiRefNetError, match=r"checkpoint.pt: cannot be written"):
        run_of(tmp_path, options)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".birefnet-*"))


# --- photos in files ---


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs on dark noise."""
    folder = tmp_path_factory.mktemp("discs")
    random = np.random.default_rng(0)
    for part in ("im", "gt"):
        (folder / part).mkdir()
    for index in range(8):
        mask = Image.new("L", (200, 160))
        x, y, r = random.integers(50, 110, 3)
        ImageDraw.Draw(mask).ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=255)
        photo = random.integers(0, 90, (160, 200, 3)) + np.asarray(mask)[..., None] // 2
        Image.fromarray(photo.astype(np.uint8)).save(folder / "im" / f"disc-{index}.png")
        mask.save(folder / "gt" / f"disc-{index}.png")
    return folder


@pytest.mark.slow
def test_eight_photos_are_learnt_by_heart(discs: Path, tmp_path: Path, options: Options) -> None:
    changes = {
        "data__sizes": "64",
        "data__batch": 8,
        "data__augmentation": {
            "zoom": [1.0, 1.0],
            "aspect": 1.0,
            "rotation": 0.0,
            "jpeg": 0.0,
            "blur": 0.0,
            "noise": 0.0,
        },
        "data__composition": {"paste": 0.0, "structures": 0.0},
        "samples": 8 * 120,
        "optimizer__rate": 5e-3,
        "optimizer__ema": 0.9,
        "model__dropout": 0.0,
        "validation__every": 0,
        "validation__metric": "IoU",
        "validation__measures": ["IoU", "F"],
    }
    choice = Choice(str(discs), val=str(discs))
    # Trained and validated on the same photos, which a check of the data would refuse.
    assert run_of(tmp_path, changed(options, check=False), choice=choice, **changes) == "finished"
    assert validation_lines(read_log(tmp_path))[-1]["val"]["IoU"] > 0.95  # of discs some 25 pixels wide


def test_photos_are_looked_at_before_the_first_step(discs: Path, tmp_path: Path, options: Options) -> None:
    listener = Listener()
    run_of(tmp_path, options, listener, choice=Choice(str(discs), share=0.3), samples=4)
    assert "look at the photos: 8" in listener.works
    facts = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert facts["train"]["photos"] + facts["validation"]["photos"] == 8


def test_photos_that_keep_their_proportions_are_trained_validated_and_used_so(tmp_path: Path, options: Options) -> None:
    random = np.random.default_rng(0)
    for part in ("im", "gt"):
        (tmp_path / "set" / part).mkdir(parents=True)
    sizes = [(60, 120), (120, 60), (80, 80), (128, 96)]
    for index in range(12):
        mask = Image.new("L", sizes[index % 4])
        ImageDraw.Draw(mask).ellipse((10, 10, 50, 50), fill=255)
        photo = random.integers(0, 90, (mask.height, mask.width, 3)) + np.asarray(mask)[..., None] // 2
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "set" / "im" / f"disc-{index}.png")
        mask.save(tmp_path / "set" / "gt" / f"disc-{index}.png")
    listener = Listener()
    choice = Choice(str(tmp_path / "set"), val=str(tmp_path / "set"))
    changes = {"data__keep_aspect": True, "data__sizes": "96", "validation__measures": ["F", "MAE"]}
    run_of(tmp_path / "run", changed(options, check=False), listener, choice, **changes)
    shapes = {tuple(line["size"]) for line in listener.lines if "size" in line}
    assert len(shapes) > 1
    assert all(0.7 < height * width / 96**2 < 1.4 for height, width in shapes)
    weights = tmp_path / "run" / "model.safetensors"
    predictor = birefnet.load(weights, precision="float32")
    assert predictor.spec.keep_aspect
    scorer = Scorer(("F", "MAE"), Conventions(truth_above=127))
    for pair in find_pairs(tmp_path / "set"):
        alpha = predictor.predict(pair.image).alpha
        scorer.update(np.rint(alpha * 255).astype(np.uint8), read_map(pair.mask).levels)
    validated = validation_lines(read_log(tmp_path / "run"))[-1]["val"]
    assert validated["MAE"] == pytest.approx(scorer.compute()["MAE"], abs=2e-3)
    # Stretched, the same weights see something else.
    stretched = birefnet.load(weights, precision="float32", keep_aspect=False).predict(pair.image).alpha
    assert np.abs(stretched - alpha).max() > 0.01
    # What is fine-tuned from them keeps proportions, too.
    asked = Asked("finetune", str(weights), changes={"samples": 4})
    assert make_plan(asked, choice).input_spec.keep_aspect
    assert not make_plan(replace(asked, changes={"data.keep_aspect": False}), choice).input_spec.keep_aspect


def test_starting_from_weights(straight: Path, tmp_path: Path, options: Options) -> None:
    asked = Asked("finetune", str(straight / "model.safetensors"), changes={"samples": 4, "data.batch": 4})
    plan = make_plan(asked, CHOICE)
    assert plan.recipe.model == read_recipe(straight).model
    assert plan.recipe.data.sizes == "96x96"
    train(plan, tmp_path, options)
    before = birefnet.load_model(straight / "model.safetensors").state_dict()
    after = birefnet.load_model(tmp_path / "model.safetensors").state_dict()
    assert not all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "running_" in name)


def test_weights_of_another_network_are_refused(straight: Path) -> None:
    asked = Asked("finetune", str(straight / "model.safetensors"), changes={"model.decoder_channels": 16})
    with pytest.raises(ConfigError, match=r"another one than asked for \(decoder_channels: 8 -> 16\)"):
        make_plan(asked, CHOICE)


def test_training_goes_on_at_once_after_a_signal_in_a_subprocess(tmp_path: Path, options: Options) -> None:
    words = [
        sys.executable,
        "-m",
        "birefnet",
        "train",
        "--data",
        "drawn:12",
        "--recipe",
        "nano",
        "-o",
        str(tmp_path),
    ]
    words += ["--cache", str(options.cache), "--samples", "100000", "--size", "64", "--batch", "4", "--log-every", "1"]
    words += ["--set", "model.decoder_channels=8", "--set", "validation.every=0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while not (training_lines(read_log(tmp_path)) if tmp_path.exists() else []):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert f"go on with  birefnet train --resume {tmp_path}" in out
    assert content(tmp_path)["progress"]["step"] > 0


def test_a_run_in_emulated_bfloat16_is_told_what_is_quicker(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birefnet.inference.precision.computes_bfloat16", lambda: False)
    notes = {}
    for precision in ("bfloat16", "float32"):
        listener = Listener()
        run_of(tmp_path / precision, changed(options, max_seconds=0.0), listener, precision=precision)
        notes[precision] = [note for note in listener.notes if "emulated" in note]
    assert [len(told) for told in notes.values()] == [1, 0]
    assert "--precision float32" in notes["bfloat16"][0]
