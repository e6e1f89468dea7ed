"""Numbers of the reference's evaluation, on masks that are soft, shifted, noisy, without thin parts, empty and full."""

import json

import numpy as np
import pytest

from birefnet.metrics import Scorer
from support import GOLDENS

FIGURES = json.loads((GOLDENS / "metrics" / "metrics.json").read_text(encoding="utf-8"))
OUR_NAMES = {"mae": "MAE", "mse": "MSE"}


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_measure_of_the_reference(name: str) -> None:
    seed = name.partition("_")[0]
    with np.load(GOLDENS / "metrics" / "metrics.npz") as masks:
        values = Scorer().update(masks[f"pred_{name}"], masks[f"gt_{seed}"])
    expected = {OUR_NAMES.get(key, key): value for key, value in FIGURES[name].items()}
    assert values == pytest.approx(expected, abs=1e-9, rel=0)
    assert values["HCE"] == expected["HCE"]
