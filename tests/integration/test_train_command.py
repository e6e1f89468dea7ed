"""`birefnet train` as it is typed: what it refuses, several processes, what it says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

import birefnet
from birefnet.cli import main
from birefnet.training.folder import alone_in, read_recipe
from birefnet.training.log import read_log, training_lines, validation_lines
from birefnet.training.plan import Asked, make_plan
from birefnet.training.sets import Choice

TINY = ["--recipe", "nano", "--size", "64", "--batch", "4", "--set", "model.decoder_channels=8", "--no-tensorboard"]
TINY += ["--no-plots"]
# Without what differs between one process and two: random zeroes and coarse sums.
EXACT = ["--set", "model.dropout=0", "--set", "precision=float32"]


def birefnet_train(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, words)])


def refused(*words: str | Path) -> str:
    result = birefnet_train(*words)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--cache", str(tmp_path_factory.getbasetemp() / "cache"), "--device", "cpu"]


def save_photo(path: Path, seed: int, size: tuple[int, int] = (160, 144)) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)


def mask(size: tuple[int, int] = (160, 144), level: int = 255) -> Image.Image:
    image = Image.new("L", size)
    ImageDraw.Draw(image).ellipse((40, 30, 100, 110), fill=level)
    return image


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Three good pairs, and one of each kind of bad data."""
    folder = tmp_path / "bad"
    names = [
        "good1",
        "good2",
        "good3",
        "no-mask",
        "size",
        "corrupt",
        "rgba",
        "palette",
        "zero-one",
        "empty",
        "inverted",
    ]
    for seed, name in enumerate([*names, "twice"]):
        suffix = "jpg" if name == "corrupt" else "png"
        save_photo(folder / "im" / f"{name}.{suffix}", seed)
    truth = folder / "gt"
    truth.mkdir()
    for name in ("good1", "good2", "good3", "corrupt", "twice", "no-photo"):
        mask().save(truth / f"{name}.png")
    save_photo(folder / "im" / "twice.jpg", 99)
    cut = (folder / "im" / "corrupt.jpg").read_bytes()
    (folder / "im" / "corrupt.jpg").write_bytes(cut[: len(cut) // 3])
    mask((100, 144)).save(truth / "size.png")
    Image.merge("RGBA", [*[Image.new("L", (160, 144), 90)] * 3, mask()]).save(truth / "rgba.png")
    mask().convert("P").save(truth / "palette.png")
    mask(level=1).save(truth / "zero-one.png")
    Image.new("L", (160, 144)).save(truth / "empty.png")
    # The photo lies where the mask should be, and the other way round.
    (folder / "im" / "inverted.png").rename(truth / "inverted.png")
    mask().save(folder / "im" / "inverted.png")
    return folder


def test_bad_data_are_listed_whole_before_the_first_step(bad: Path, tmp_path: Path, cache: list[str]) -> None:
    output = refused("--data", bad, "-o", tmp_path / "run", *TINY, *cache)
    assert "7 files cannot be trained on: mend or remove them, or pass --skip-bad" in output
    expected = {
        "im/no-mask.png": "has no mask",
        "gt/no-photo.png": "has no photo of its name",
        "im/twice.png": "has the same stem as twice.jpg",
        "im/corrupt.jpg": "damaged or cut off",
        "gt/size.png": "is 100 x 144, its photo 160 x 144",
        "gt/inverted.png": "are coloured: a mask is grey",
        "gt/zero-one.png": "its greatest level is 1, foreground is 255: multiply it by 255",
        "gt/empty.png": "nothing is above 127",
        "gt/palette.png": "the colours of its palette are turned to grey",
        "gt/rgba.png": "its transparency is read",
    }
    for file, matter in expected.items():
        lines = [line for line in output.splitlines() if str(bad / file) in line]
        assert len(lines) == 1, file
        assert matter in lines[0]
    assert not any(str(bad / "im" / f"good{i}.png") in output for i in (1, 2, 3))
    assert not (tmp_path / "run").exists()


def test_bad_data_can_be_left_out_and_stay_so(bad: Path, tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    words = ["--data", bad, "-o", run, "--skip-bad", "--samples", "8", *TINY, *cache]
    result = birefnet_train(*words, "--max-seconds", "0")
    assert result.exit_code == 0, result.output
    assert f"go on with  birefnet train --resume {run}" in result.output
    assert birefnet_train("--resume", run, *cache).exit_code == 0
    assert training_lines(read_log(run))[-1]["step"] == 2
    assert birefnet_train(*words).exit_code == 0  # the same command goes on too: there is nothing left to do


def test_an_empty_folder(tmp_path: Path, cache: list[str]) -> None:
    for part in ("im", "gt"):
        (tmp_path / "none" / part).mkdir(parents=True)
    assert "holds no photos" in refused("--data", tmp_path / "none", "-o", tmp_path / "run", *TINY, *cache)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name photos and masks to train on: --data DIR"),
        (["--data", "nowhere", "-o", "RUN"], "nowhere: no such folder or file"),
        (["--data", "drawn:8"], "name a folder for the run, such as -o runs/mine"),
        (["--data", "drawn:8", "-o", "RUN", "--set", "optimizer.rat=1"], "did you mean 'rate'?"),
        (["--data", "drawn:8", "-o", "RUN", "--set", "rate"], "a change is written as name=value"),
        (["--data", "drawn:8", "-o", "RUN", "--from", "nowhere.pth"], "nowhere.pth"),
        (["--data", "drawn:8", "-o", "RUN", "--config", "nowhere.toml"], "nowhere.toml: cannot be read as a recipe"),
        (["--data", "drawn:8", "-o", "RUN", "--size", "100"], "every side must be a positive multiple of 32"),
        (["--data", "drawn:8", "-o", "RUN", "--device", "tpu"], "tpu"),
        (["--data", "drawn:8", "-o", "RUN", "--recipe", "nano", "--backbone", "swin9"], "unknown backbone 'swin9'"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", "RUN", "--rate", "1"], "a run goes on as it began: leave the settings out"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words: list[str], message: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    output = refused("--no-tensorboard", *[run if word == "RUN" else word for word in words])
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_run_folder(tmp_path: Path, cache: list[str]) -> None:
    (tmp_path / "run").write_bytes(b"")
    output = refused("--data", "drawn:8", "-o", tmp_path / "run", *TINY, *cache)
    assert "run: is a file: name a folder for the run" in output


def test_settings_from_a_file_and_the_command_line(tmp_path: Path, cache: list[str]) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "nano"\nsamples = 40\n[model]\ndecoder_channels = 8\n[optimizer]\nrate = 0.5\nema = 0.0\n',
        encoding="utf-8",
    )
    words = ["--data", "drawn:8", "-o", tmp_path / "run", "--config", path, "--samples", "4", "--batch", "4"]
    result = birefnet_train(*words, "--size", "64", "--set", "optimizer.rate=1e-3", "--no-tensorboard", *cache)
    assert result.exit_code == 0, result.output
    recipe = read_recipe(tmp_path / "run")
    assert (recipe.name, recipe.samples, recipe.model.decoder_channels) == ("nano", 4, 8)
    assert (recipe.optimizer.rate, recipe.optimizer.ema) == (1e-3, 0.0)


def test_plot_draws_what_a_run_has_left_out(tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    assert birefnet_train("--data", "drawn:8", "-o", run, "--samples", "4", *TINY, *cache).exit_code == 0
    assert not (run / "curves.png").exists()  # --no-plots
    result = birefnet_train("plot", run)
    assert result.exit_code == 0, result.output
    assert {"curves.png", "masks.png"} <= {path.name for path in run.iterdir()}
    assert "nowhere" in refused("plot", tmp_path / "nowhere")


def test_adapters_leave_plain_weights(tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    words = ["--data", "drawn:8", "-o", run, "--samples", "8", "--batch", "4", "--size", "64", "--set", "lora.rank=2"]
    for _ in range(2):  # the second goes on from a checkpoint with adapters
        result = birefnet_train(*words, "--from", "nano", "--no-tensorboard", "--max-seconds", "0", *cache)
        assert result.exit_code == 0, result.output
    assert training_lines(read_log(run))[-1]["step"] == 2
    start = birefnet.load_model(Path(birefnet.__file__).parent / "models" / "nano" / "model.safetensors").state_dict()
    tuned = birefnet.load_model(run / "model.safetensors").state_dict()
    assert start.keys() == tuned.keys()
    moved = {name for name, value in start.items() if not torch.equal(value, tuned[name])}
    assert any(name.startswith("encoder.backbone.") for name in moved)


def test_a_recipe_file_makes_the_same_recipe_again(tmp_path: Path) -> None:
    choice = Choice("drawn:8")
    changes = {"pretrained_backbone": None, "model.backbone": "swin_v1_t", "epochs": 2}
    first = make_plan(Asked("dis5k", changes=changes), choice).recipe
    path = tmp_path / "recipe.toml"
    path.write_text(first.to_toml(), encoding="utf-8")
    assert make_plan(Asked(file=path), choice).recipe == first
    longer = make_plan(Asked(file=path, changes={"samples": 50}), choice).recipe
    assert (longer.epochs, longer.samples) == (None, 50)


def test_fine_tuning_never_starts_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[optimizer]\nrate = 0.5\n", encoding="utf-8")
    recipe = make_plan(Asked(file=path), Choice("drawn:8")).recipe
    assert (recipe.name, recipe.start, recipe.optimizer.rate) == ("finetune", "nano", 0.5)
    message = "fine-tuning starts from trained weights"
    assert message in refused("--data", "drawn:8", "-o", tmp_path / "run", "--backbone", "swin_v1_t")
    assert message in refused("--data", "drawn:8", "-o", tmp_path / "run", "--set", "model.classes=219")


def test_a_run_goes_on_from_any_folder(tmp_path: Path, cache: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        save_photo(tmp_path / "mine" / "im" / f"p{seed}.png", seed)
        (tmp_path / "mine" / "gt").mkdir(exist_ok=True)
        mask().save(tmp_path / "mine" / "gt" / f"p{seed}.png")
    words = ["--data", "mine", "-o", "run", "--samples", "8", *TINY, *cache, "--max-seconds", "0"]
    assert birefnet_train(*words).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = birefnet_train("--resume", "../run", *cache)
    assert result.exit_code == 0, result.output
    assert training_lines(read_log(tmp_path / "run"))[-1]["step"] == 2


def test_what_a_run_that_goes_on_cannot_change(tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    assert birefnet_train("--data", "drawn:8", "-o", run, "--samples", "4", *TINY, *cache).exit_code == 0
    for words in (["--skip-bad"], ["--val", "drawn:8"], ["--val-share", "0.1"], ["--rate", "1"], ["-o", "x"]):
        assert "a run goes on as it began" in refused("--resume", run, *words)
    data = (run / "data.json").read_text(encoding="utf-8")
    (run / "data.json").write_text(data.replace('"skip_bad"', '"skip"'), encoding="utf-8")
    assert "was changed and does not say what the run asked for" in refused("--resume", run)


def test_folders_that_are_not_of_a_run_are_left_alone(tmp_path: Path, cache: list[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    output = refused("--data", "drawn:8", "-o", tmp_path, *TINY, *cache)
    assert "holds files that are not of a run, such as model.safetensors" in output
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    words = ["--data", "drawn:8", "-o", run, "--samples", "4", *TINY, *cache]
    assert birefnet_train(*words).exit_code == 0
    with alone_in(run):
        assert "another process trains in this folder" in refused(*words)
    assert birefnet_train(*words).exit_code == 0


def test_classes_beyond_the_head(tmp_path: Path, cache: list[str]) -> None:
    save_photo(tmp_path / "a.png", 0)
    mask().save(tmp_path / "a-mask.png")
    (tmp_path / "set.csv").write_text("image,mask,class\na.png,a-mask.png,199\n", encoding="utf-8")
    words = ["--data", tmp_path / "set.csv", "--val-share", "0", "--samples", "4", *TINY, *cache]
    output = refused(*words, "-o", tmp_path / "run", "--set", "model.classes=10", "--no-check")
    assert "a photo is of class 199, beyond the 10 of model.classes" in output
    done = birefnet_train(*words, "-o", tmp_path / "fits", "--set", "model.classes=219", "--no-check")
    assert done.exit_code == 0, done.output
    assert "category" in training_lines(read_log(tmp_path / "fits"))[0]


def torchrun(*words: str | Path, folder: Path) -> "subprocess.Popen[str]":
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "birefnet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*start, "train", *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, cache: list[str]) -> None:
    words = ["--data", "drawn:12", "--samples", "16", "--log-every", "1", *TINY, "--batch", "8", "--size", "96"]
    words += [*EXACT, *cache]
    assert birefnet_train(*words, "-o", tmp_path / "one").exit_code == 0
    process = torchrun(*words, "-o", tmp_path / "two", folder=tmp_path)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert out.count("all steps are taken") == 1  # one of them speaks
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    first, second = (training_lines(lines)[0] for lines in (one, two))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert second["norm"] == pytest.approx(first["norm"], rel=1e-2)  # float32; in float64 1e-6
    assert len(training_lines(two)) == 2
    assert validation_lines(two)[-1]["val"]["MAE"] == pytest.approx(validation_lines(one)[-1]["val"]["MAE"], abs=0.05)
    assert birefnet.load_model(tmp_path / "two" / "best.safetensors").config.decoder_channels == 8


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job(tmp_path: Path, cache: list[str]) -> None:
    run = tmp_path / "run"
    words = ["--data", "drawn:12", "--samples", "1000000", "--log-every", "1", "--save-seconds", "0", *TINY, *cache]
    process = torchrun(*words, "--set", "validation.every=0", "-o", run, folder=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not ((run / "checkpoint.pt").exists() and len(training_lines(read_log(run))) > 2):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in listed.split()}
        ranks = [pid for pid, values in environments.items() if b"RANK=1" in values]
        os.kill(ranks[0], signal.SIGKILL)
        _, error = process.communicate(timeout=120)
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode != 0
    assert "another process of the run has died" in error
    step = training_lines(read_log(run))[-1]["step"]
    assert birefnet_train("--resume", run, "--max-seconds", "0", *cache).exit_code == 0  # with one process
    assert training_lines(read_log(run))[-1]["step"] >= step - 1


@pytest.mark.slow
def test_shards_with_averages_and_validation(tmp_path: Path, cache: list[str]) -> None:
    words = ["--data", "drawn:12", "--samples", "16", "--log-every", "1", *TINY, "--batch", "8", "--size", "96"]
    words += [*EXACT, *cache]
    words += ["--set", "validation.every=0.5"]
    assert birefnet_train(*words, "-o", tmp_path / "one").exit_code == 0
    process = torchrun(*words, "--strategy", "fsdp", "-o", tmp_path / "two", folder=tmp_path)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    one, two = (training_lines(read_log(tmp_path / name)) for name in ("one", "two"))
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)
    assert len(validation_lines(read_log(tmp_path / "two"))) == 2
    saved = birefnet.load_model(tmp_path / "two" / "best.safetensors").state_dict()
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.slow
def test_batches_that_cannot_be_shared(tmp_path: Path, cache: list[str]) -> None:
    words = ["--data", "drawn:12", "--samples", "12", *TINY, *cache, "--set", "memory.accumulate=4"]
    process = torchrun(*words, "-o", tmp_path / "run", folder=tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "a batch of 4 cannot be shared by 2 processes in 4 parts each" in error
