"""Drafts of model cards: what the hub reads, what a person reads, and what must not be in them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from birefnet import __version__
from birefnet.config import ModelConfig
from birefnet.errors import OutputError
from birefnet.training.card import environment, write_card
from birefnet.training.log import Line

RECIPE: dict[str, Any] = {
    "name": "nano",
    "model": ModelConfig(backbone="mobilenet_v4_s", decoder_channels=32).to_dict(),
    "samples": 1600,
    "data": {"batch": 16, "sizes": "160:0.65,224:0.35", "augmentation": {"flip": 0.5}},
    "optimizer": {"rate": 1e-3},
    "freeze": [],
    "memory": {"compile": False},
    "validation": {"metric": "maxF", "truth_above": 128},
}
DATA: dict[str, Any] = {
    "data": "/home/someone/DIS5K",
    "val": None,
    "share": 0.1,
    "train": {"photos": 1000, "sets": {"/home/someone/DIS5K/DIS-TR": 900, "flowers|red": 100}},
    "validation": {"photos": 111},
    "notes": ["masks of /home/someone/DIS5K/gt were taken", "left out, 1 files:\n  /home/someone/a.jpg: damaged"],
}
MACHINE: dict[str, Any] = {
    "birefnet": "0.1.0",
    "commit": "0123456789abcdef",
    "changed": False,
    "torch": "2.9",
    "python": "3.12",
    "cpu": {"name": "A Processor", "cores": 8},
    "gpus": [],
}
LINES: list[Line] = [
    {"step": 0, "event": "started", "at": ""},
    {"step": 50, "steps": 100, "samples": 800, "epoch": 0.8, "loss": 2.0, "seconds": 100.0, "skipped": 1},
    {"step": 50, "val": {"maxF": 0.75, "MAE": 0.125, "HCE": 1234.5}, "best": True},
    {"step": 50, "event": "resumed", "at": ""},
    {"step": 100, "steps": 100, "samples": 1600, "epoch": 1.6, "loss": 1.0, "seconds": 4000.0, "skipped": 0},
    {"step": 100, "val": {"maxF": 0.5, "MAE": None, "HCE": 1000.0}, "best": False},
]


def card_of(run: Path, **changes: Any) -> str:
    values: dict[str, Any] = {"recipe": RECIPE, "data": DATA, "machine": MACHINE, "lines": LINES}
    path = write_card(run, **{**values, "parameters": 2_300_000, "weights": "best.safetensors", **changes})
    return path.read_text(encoding="utf-8")


def test_a_card_says_what_the_run_knows(tmp_path: Path) -> None:
    text = card_of(tmp_path, resume="birefnet train --resume RUN")
    for part in (
        "# BiRefNet with mobilenet_v4_s, trained by the recipe `nano`",
        "2.3 million parameters, trained from random weights.",
        "| measure | best (step 50) | last (step 100) |",
        "| maxF ↑ | 0.7500 | 0.5000 |",
        "| MAE ↓ | 0.1250 | - |",
        "| HCE ↓ | 1234 | 1000 |",
        "levels of the truth above 128 are foreground. The best weights are those of the best `maxF`.",
        "| network | mobilenet_v4_s, decoder channels 32 |",
        "| data | batch 16; sizes 160:0.65,224:0.35 |",
        "| data: augmentation | flip 0.5 |",
        "| freeze | none |",
        "100 steps, 1,600 images, 1.6 epochs, in 1 h 07 min and 2 sittings; steps skipped for a gradient of no use: 1.",
        "On 8 cores of A Processor, with birefnet 0.1.0 (commit 0123456789ab), PyTorch 2.9, Python 3.12.",
        "| trained on | `DIS-TR` | 900 |",
        "| trained on | `flowers/red` | 100 |",
        "| validated on | `photos with masks` | 111 |",
        "10% of the set, held out",
        "- masks of gt were taken\n- left out, 1 files\n",
        "birefnet cutout photo.jpg --weights best.safetensors",
        'birefnet.load("best.safetensors")',
        "birefnet train --resume RUN    # go on",
        "birefnet evaluate --weights best.safetensors --data DATA --measures all --truth-threshold 128",
    ):
        assert part in text, part
    assert "/home" not in text
    assert "![" not in text  # there are no pictures yet
    assert "The training is not finished" not in text


def test_the_hub_can_read_it_and_no_licence_is_made_up(tmp_path: Path) -> None:
    card = ModelCard(card_of(tmp_path))
    assert card.data.to_dict() == {
        "library_name": "birefnet",
        "pipeline_tag": "image-segmentation",
        "tags": ["birefnet", "background-removal", "dichotomous-image-segmentation", "mobilenet_v4_s"],
        "metrics": ["maxF", "MAE", "HCE"],
    }


def test_pictures_of_the_run_are_shown(tmp_path: Path) -> None:
    (tmp_path / "curves.png").touch()
    (tmp_path / "masks.png").touch()
    text = card_of(tmp_path)
    assert "](curves.png)" in text
    assert "](masks.png)" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": "general-lite"}, "fine-tuned from `general-lite`"),
        ({"start": "owner/name"}, "fine-tuned from `owner/name`"),
        ({"start": "/home/someone/weights.safetensors"}, "fine-tuned from `weights.safetensors`"),
        ({"pretrained_backbone": "hub"}, "a backbone that started from the published weights"),
        ({"pretrained_backbone": "../swin.pth"}, "a backbone that started from `swin.pth`"),
    ],
)
def test_where_the_training_started(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    assert said in card_of(tmp_path, recipe={**RECIPE, **changes})


def test_an_unfinished_run_without_a_validation_says_so(tmp_path: Path) -> None:
    text = card_of(tmp_path, lines=LINES[:2], data={"train": {"drawn": 64}, "validation": None})
    assert "**The training is not finished: step 50 of 100.**" in text
    assert "There was no validation." in text
    assert "| trained on | drawn by the program, with exact masks | 64 |" in text
    assert "| validated on | nothing |  |" in text
    assert "metrics" not in text.split("---")[1]
    assert "held out of the training" not in text
    assert card_of(tmp_path, lines=[], data={"train": {"pack": "a.npz"}}).count("pack `a.npz`") == 1


def test_gpus_are_counted(tmp_path: Path) -> None:
    gpus = [{"name": "NVIDIA X"}, {"name": "NVIDIA X"}]
    assert "On 2 × NVIDIA X, with" in card_of(tmp_path, machine={**MACHINE, "gpus": gpus})


def test_the_log_of_the_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert card_of(tmp_path, lines=None) == card_of(tmp_path)


def test_a_card_that_a_person_took_over_is_left_alone(tmp_path: Path) -> None:
    drafted = card_of(tmp_path)
    assert card_of(tmp_path, parameters=5_000_000) != drafted  # a draft is replaced
    readme = tmp_path / "README.md"
    readme.write_text("# Mine")
    draft = card_of(tmp_path)
    assert readme.read_text() == "# Mine"
    assert draft == drafted
    assert (tmp_path / "README.draft.md").read_text(encoding="utf-8") == drafted
    readme.unlink()
    readme.mkdir()
    with pytest.raises(OutputError, match=r"README\.md: cannot be read"):
        card_of(tmp_path)


def test_the_environment_is_plain_and_tells_nothing_of_whose_machine_it_is() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["birefnet"] == __version__
    assert found["cpu"]["cores"] >= 1
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text.split()


def test_the_commit_is_told_for_a_work_tree_and_not_for_an_environment_within_one(tmp_path: Path) -> None:
    """A copy of the package, once tracked and once merely lying in somebody's work tree."""
    package = Path(__file__).parents[3] / "src" / "birefnet"
    for name in ("__init__.py", "errors.py", "_extras.py", "_processors.py", "config.py"):
        (tmp_path / "birefnet").mkdir(exist_ok=True)
        shutil.copy(package / name, tmp_path / "birefnet" / name)
    (tmp_path / "birefnet" / "training").mkdir()
    shutil.copy(package / "training" / "environment.py", tmp_path / "birefnet" / "training")

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-C", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def found() -> list[Any]:
        code = "from birefnet.training.environment import _source; import json\nprint(json.dumps(_source()))"
        # GIT_DIR is set where a hook of git runs this.
        variables = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_DIR": str(tmp_path / "other")}
        command = [sys.executable, "-B", "-W", "error", "-c", code]
        shown = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
        values: list[Any] = json.loads(shown.stdout)
        return values

    git("init", "-q")
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "-qm", "one")
    assert found() == [None, None]
    git("add", "birefnet")
    git("commit", "-qm", "two")
    assert found() == [git("rev-parse", "HEAD"), False]
    (tmp_path / "birefnet" / "errors.py").open("a").close()
    (tmp_path / "birefnet" / "new.py").touch()
    assert found() == [git("rev-parse", "HEAD"), True]
