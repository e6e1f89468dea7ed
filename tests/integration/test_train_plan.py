"""`birefnet train --dry-run`: what it tells, and that it changes nothing."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from birefnet.cli import main
from birefnet.training.memory import Memory
from birefnet.training.recipe import Recipe
from birefnet.training.timing import can_probe
from support import TINY

SMALL = ["--size", "64", "--batch", "4", "--epochs", "2", "--device", "cpu"]


def dry_run(arguments: Sequence[str], code: int = 0) -> str:
    result = CliRunner().invoke(main, ["train", "--recipe", "nano", "--dry-run", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in TINY.to_dict().items() if not isinstance(value, dict)]
    path.write_text("[model]\n" + "\n".join(line for line in lines if "null" not in line) + "\n")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for kind, shape in (("im", (80, 100, 3)), ("gt", (80, 100))):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            name = f"{number}.{'jpg' if kind == 'im' else 'png'}"
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / kind / name)
    Image.fromarray(random.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / "im" / "lone.jpg")
    return folder


def test_everything_is_told(photos: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    wanted = ["--val-share", "0.34", "--set", "data.keep_aspect=true"]
    output = dry_run(["--data", str(photos), "--config", str(config), *wanted, *SMALL])
    assert sorted(tmp_path.rglob("*")) == before
    assert max(map(len, output.replace(str(photos), "").splitlines())) <= 100
    recipe, rest = output.split("\n\nData\n----\n")
    parsed = Recipe.from_dict(tomllib.loads(recipe.split("----\n", 1)[1]))
    assert (parsed.data.batch, parsed.data.sizes, parsed.epochs) == (4, "64", 2)
    assert parsed.model.decoder_channels == TINY.decoder_channels
    for text in (
        "train        5 photos of photos\n",
        "validation   1 photo of photos, held out\n",
        "lone.jpg",
        "backbone     mobilenet_v4_s",
        "start        random weights",
        "length       3 steps of 4 photos, 2 epochs",
        "3 steps at 64 x 64, as many pixels in the photos' proportions",
        "GMACs a photo of 64 x 64",
        "here         fits",
        "would fit",
        "decoded photos in .cache",
        "photos a second",
        "in all       about",
    ):
        assert text in rest, text


def test_a_source_that_no_photo_comes_from_is_refused_before_anything_is_done(config: Path) -> None:
    for setting in ("data.weights=dogs:2", 'data.composition.donors=["dogs"]'):
        options = ["--data", "drawn:8", "--config", str(config), *SMALL, "--set", setting]
        output = dry_run([*options, "--set", "data.composition.paste=0.5"], code=1)
        assert f"{setting.split('=')[0]}: no photo comes from 'dogs': choose of drawn" in output


@pytest.mark.parametrize(
    ("computes", "precision", "warned"),
    [(False, "bfloat16", True), (False, "float32", False), (True, "bfloat16", False), (None, "bfloat16", False)],
)
def test_emulated_bfloat16_is_a_warning(
    computes: bool | None, precision: str, warned: bool, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birefnet.inference.precision.computes_bfloat16", lambda: computes)
    monkeypatch.setattr("birefnet.cli.train_plan.can_probe", lambda *_: False)  # a step takes a while
    output = dry_run(["--data", "drawn:8", "--config", str(config), *SMALL, "--precision", precision])
    assert ("bfloat16 is emulated on this cpu" in output) == warned


@pytest.mark.slow
def test_what_does_not_fit_is_a_warning(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.cli.train_plan.available_memory", lambda _: 640_000_000)
    monkeypatch.setattr("birefnet.cli.train_plan.can_probe", lambda *_: False)
    options = ["--data", "drawn:16", "--config", str(config), *SMALL, "--size", "128", "--batch", "8"]
    output = dry_run(options)
    assert "WARNING      this does not fit: 640 MB are free on cpu" in output
    assert "would fit: --batch" in output
    assert "with --set memory.checkpoint=true: " in output
    assert "drawn from seed 0" in output
    assert "decoded photos in" not in output


def test_a_network_too_large_to_try_is_not_tried(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.cli.train_plan.can_probe", lambda *_: False)
    output = dry_run(["--data", "drawn:16", "--config", str(config), *SMALL])
    assert "not estimated: there is no room to try a step" in output


def test_room_to_try() -> None:
    memory = Memory(0, 10**9, 0, 0, 0, 0)
    assert not can_probe(memory, 4 * 10**9)
    assert can_probe(memory, 5 * 10**9)
    assert can_probe(memory, None)


def test_errors_are_one_line() -> None:
    output = dry_run(["--data", "drawn:16", "--device", "gpu"], 1)
    assert output.startswith("Error: unknown device 'gpu'")
    output = dry_run(["--data", "drawn:16", "--set", "freeze=nothing", *SMALL], 1)
    assert "nothing to freeze is named 'nothing'" in output
