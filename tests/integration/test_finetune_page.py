"""docs/finetune.md, followed to the letter on a small set: every command and every block, only fewer steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from birefnet.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "finetune.md"
SHORTER = ["--samples", "16", "--batch", "4", "--size", "96"]


def birefnet(*words: str) -> None:
    """Run the command in this process, where it costs no start-up."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, f"birefnet {shlex.join(words)}\n{done.output}{done.exception!r}"


@pytest.mark.slow
def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("mine", "0"), ("other", "1")):
        birefnet("data", "draw", name, "--count", "12", "--size", "128x160", "--seed", seed)
    photo = next((tmp_path / "other" / "im").iterdir())
    Image.open(photo).convert("RGB").save(tmp_path / "photo.jpg")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [line for kind, code in blocks if kind == "sh" for line in code.splitlines()]
    assert len(commands) >= 10
    for kind, code in blocks:
        if kind == "python":
            shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            assert shown.split() == ["True"]
            continue
        for line in code.splitlines():
            words = shlex.split(line)
            if words[:2] == ["pip", "install"]:
                continue
            assert words[0] == "birefnet"
            birefnet(*words[1:], *(SHORTER if words[1] == "train" else []))
    for made in ("cutout.png", "onnx.png"):
        with Image.open(tmp_path / made) as image:
            assert image.mode == "RGBA"
            assert image.size == (160, 128)
    one, two = (np.asarray(Image.open(tmp_path / name), int)[..., 3] for name in ("cutout.png", "onnx.png"))
    assert abs(one - two).max() <= 5  # of 255: one of them may have been calculated in bfloat16
    left = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    assert {"best.safetensors", "masks.png", "curves.png", "README.md"} <= left
    # What the text says about going on.
    birefnet("train", "--resume", "runs/mine")
