"""Numbers of the reference implementation, every entry of `losses.json`.

`terms_SEED` use `pred_3` alone: bce, ssim, mae and mse against `soft`, iou, contour and structure (of the logits)
against `gt`, reg without a truth. `TASK_SEED` are the sums over all four outputs, each enlarged to the truth, against
`soft` for matting and `gt` for the others: `total` is the loss, each term its mean over the outputs.
"""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from birefnet.losses import LOSS_RECIPES, training_losses
from birefnet.losses.functional import (
    binary_cross_entropy,
    contour_loss,
    iou_loss,
    mae_loss,
    mse_loss,
    ssim_loss,
    structure_loss,
    threshold_regulariser,
)
from birefnet.model import TrainOutput
from support import GOLDENS

FIGURES = json.loads((GOLDENS / "losses" / "losses.json").read_text(encoding="utf-8"))
SEEDS = (0, 1, 2)
BATCH = 2
TOLERANCE = 1e-5

# The reference gives these tasks the weights of another, under whose name the numbers are.
SAME_WEIGHTS = {"COD": "DIS5K", "HRSOD": "DIS5K", "General-2K": "General"}


def inputs(seed: int) -> dict[str, Tensor]:
    with np.load(GOLDENS / "losses" / f"loss_inputs_{seed}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def outputs(given: dict[str, Tensor]) -> TrainOutput:
    return TrainOutput(given["pred_3"], side_logits=(given["pred_0"], given["pred_1"], given["pred_2"]))


def test_every_entry_has_its_test() -> None:
    tasks = {SAME_WEIGHTS.get(task, task) for task in LOSS_RECIPES}
    assert set(FIGURES) == {f"{name}_{seed}" for name in ("terms", *tasks) for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_single_terms(seed: int) -> None:
    given = inputs(seed)
    logits, gt, soft = given["pred_3"], given["gt"], given["soft"]
    probabilities = logits.sigmoid()
    terms = {
        "bce": binary_cross_entropy(logits, soft),
        "ssim": ssim_loss(probabilities, soft),
        "mae": mae_loss(probabilities, soft),
        "mse": mse_loss(probabilities, soft),
        "iou": iou_loss(probabilities, gt, reference_defects=True),
        "contour": contour_loss(probabilities, gt),
        "reg": threshold_regulariser(probabilities),
        "structure": structure_loss(logits, gt),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(FIGURES[f"terms_{seed}"], rel=TOLERANCE)
    assert BATCH * float(iou_loss(probabilities, gt)) == pytest.approx(FIGURES[f"terms_{seed}"]["iou"], rel=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", list(LOSS_RECIPES))
def test_weighted_sums_over_the_outputs(task: str, seed: int) -> None:
    given = inputs(seed)
    expected = dict(FIGURES[f"{SAME_WEIGHTS.get(task, task)}_{seed}"])
    total = expected.pop("total")
    truth = given["soft" if task == "Matting" else "gt"]
    terms = training_losses(outputs(given), truth, task, reference_defects=True)
    assert {name: float(term) / 4 for name, term in terms.items()} == pytest.approx(expected, rel=TOLERANCE)
    assert float(torch.stack(list(terms.values())).sum()) == pytest.approx(total, rel=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", list(LOSS_RECIPES))
def test_without_its_defects_only_the_batch_of_the_iou_differs(task: str, seed: int) -> None:
    given = inputs(seed)
    truth = given["soft" if task == "Matting" else "gt"]
    mended = training_losses(outputs(given), truth, task)
    theirs = training_losses(outputs(given), truth, task, reference_defects=True)
    if "iou" in mended:
        mended["iou"] = mended["iou"] * BATCH
    assert {k: float(v) for k, v in mended.items()} == pytest.approx({k: float(v) for k, v in theirs.items()}, rel=1e-6)
