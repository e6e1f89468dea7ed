"""A limit of memory is kept, by tiles where it must be."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from birefnet.errors import InputError
from birefnet.inference import optimise
from birefnet.inference.bound import MemoryBound
from birefnet.model import BiRefNet
from support import TINY

# Runs a network within a limit in a process of its own, and prints its peak.
RUN = """
import sys, torch
from birefnet.config import ModelConfig
from birefnet.inference import optimise
from birefnet.model import BiRefNet
torch.manual_seed(0)
limit, side = int(sys.argv[1]), int(sys.argv[2])
model = BiRefNet(ModelConfig(backbone="mobilenet_v4_s", attention="deformable", decoder_channels=16,
                             attention_channels=16, inward_channels=8)).eval()
form = optimise(model, precision="float32", max_memory=limit or None)
with torch.inference_mode():
    logits = form(torch.zeros(1, 3, side, side))
assert logits.isfinite().all()
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) * 1024)
"""


def peak(limit: int, side: int) -> int:
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(limit), str(side)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(run.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak")
@pytest.mark.slow
def test_a_large_image_keeps_to_the_limit() -> None:
    # Large enough for the libraries' own part, which differs from machine to machine, to matter little.
    unlimited = peak(0, 3072)
    limit = unlimited * 19 // 20  # 9 // 10 was now and then too little for the smallest tiles
    assert peak(limit, 3072) < limit


def linear(image: torch.Tensor) -> torch.Tensor:
    """A network that sees one pixel at a time, so that tiles change nothing."""
    return (image * 2).sum(1, keepdim=True)


def test_tiles_are_blended_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBound, "_resident", lambda _: 0)  # which other tests of this process change
    fixed, per_pixel = MemoryBound(linear, 32, 32, 10**12, torch.device("cpu"))._find_law()
    assert per_pixel >= 3 * 4
    image = torch.randn(1, 3, 640, 1024)
    limit = int(fixed + per_pixel * 300 * 300 + 32 * 640 * 1024)
    bound = MemoryBound(linear, 32, 32, limit, torch.device("cpu"))
    assert 256 <= bound.largest_side(32 * 640 * 1024) < 512
    assert torch.allclose(bound(image), linear(image), atol=1e-5)


def test_a_limit_below_everything_is_refused_in_one_line() -> None:
    form = optimise(BiRefNet(TINY).eval(), precision="float32", max_memory=10**6)
    with pytest.raises(InputError, match="--max-memory") as error:
        form(torch.zeros(1, 3, 64, 64))
    assert "\n" not in str(error.value)


def test_a_high_limit_changes_nothing() -> None:
    model = BiRefNet(TINY).eval()
    image = torch.randn(2, 3, 96, 64)
    plain, bound = (optimise(model, precision="float32", max_memory=limit) for limit in (None, 10**12))
    assert torch.allclose(plain(image), bound(image), atol=1e-6)
