"""Numbers of the reference implementation.

`terms_SEED` compare `pred_3` alone: bce and ssim with `soft`, iou with `gt`. `DIS5K_SEED` are the weighted sums over
all four outputs against `gt`, each enlarged to its size. The reference sums IoU over the batch of two.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from birefnet.losses import PixelWeights, pixel_losses
from birefnet.losses.functional import binary_cross_entropy, iou_loss, ssim_loss

GOLDENS = Path(__file__).parent / "goldens" / "losses"
FIGURES = json.loads((GOLDENS / "losses.json").read_text(encoding="utf-8"))
OUTPUTS = ("pred_0", "pred_1", "pred_2", "pred_3")
BATCH = 2


@pytest.fixture(params=[0, 1])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def inputs(seed: int) -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / f"loss_inputs_{seed}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def test_single_terms(inputs: dict[str, torch.Tensor], seed: int) -> None:
    expected = FIGURES[f"terms_{seed}"]
    logits = inputs["pred_3"]
    assert float(binary_cross_entropy(logits, inputs["soft"])) == pytest.approx(expected["bce"], abs=1e-5)
    assert float(ssim_loss(logits.sigmoid(), inputs["soft"])) == pytest.approx(expected["ssim"], abs=1e-5)
    assert BATCH * float(iou_loss(logits.sigmoid(), inputs["gt"])) == pytest.approx(expected["iou"], abs=1e-5)


def test_weighted_sums_over_the_outputs(inputs: dict[str, torch.Tensor], seed: int) -> None:
    expected = FIGURES[f"DIS5K_{seed}"]
    outputs = [inputs[name] for name in OUTPUTS]
    terms = pixel_losses(outputs, inputs["gt"], PixelWeights(), compare_at="target")
    means = {name: float(term) / len(outputs) for name, term in terms.items()}
    assert means["bce"] == pytest.approx(expected["bce"], rel=1e-5)
    assert means["ssim"] == pytest.approx(expected["ssim"], rel=1e-5)
    assert BATCH * means["iou"] == pytest.approx(expected["iou"], rel=1e-5)
    total = sum(float(term) for term in terms.values()) + (BATCH - 1) * float(terms["iou"])
    assert total == pytest.approx(expected["total"], rel=1e-5)
