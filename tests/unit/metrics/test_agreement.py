"""PySODMetrics as the oracle, on masks that are hard on measures."""

import math
import warnings
from typing import Any

import numpy as np
import py_sod_metrics
import pytest
from hard_masks import PREDICTIONS, TRUTHS, Mask, pairs, prediction_of, truth_of

from birefnet.metrics import PYSODMETRICS, Conventions, Scorer

COMMON = ("S", "MAE", "E", "F", "wF", "HCE", "IoU", "Dice")
PAIRS = pairs(100)


def oracle(prediction: Mask, truth: Mask) -> dict[str, float]:
    f = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    iou = py_sod_metrics.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True)
    dice = py_sod_metrics.DICEHandler(with_dynamic=False, with_adaptive=False, with_binary=True)
    results: dict[str, Any] = {}
    for measure in (
        py_sod_metrics.Smeasure(),
        py_sod_metrics.MAE(),
        py_sod_metrics.Emeasure(),
        py_sod_metrics.FmeasureV2({"f": f, "iou": iou, "dice": dice}),
        py_sod_metrics.WeightedFmeasure(),
        py_sod_metrics.HumanCorrectionEffortMeasure(),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where it divides nothing by nothing
            measure.step(prediction, truth)
        results |= measure.get_results()
    e, fm = results["em"], results["f"]
    return {
        "S": results["sm"],
        "MAE": results["mae"],
        "maxE": e["curve"].max(),
        "meanE": e["curve"].mean(),
        "adpE": e["adp"],
        "maxF": fm["dynamic"].max(),
        "meanF": fm["dynamic"].mean(),
        "adpF": fm["adaptive"],
        "wF": results["wfm"],
        "HCE": results["hce"],
        "IoU": results["iou"]["binary"],
        "Dice": results["dice"]["binary"],
    }


def assert_agreement(prediction: Mask, truth: Mask) -> None:
    expected = oracle(prediction, truth)
    values = Scorer(COMMON, PYSODMETRICS).update(prediction, truth)
    if math.isnan(expected["S"]):  # a quarter without pixels, which for us has no weight
        expected["S"] = values["S"]
    assert values == pytest.approx(expected, abs=1e-9, rel=0)
    assert values["HCE"] == expected["HCE"]


@pytest.mark.parametrize(("prediction", "truth"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_hard_masks(prediction: Mask, truth: Mask) -> None:
    assert_agreement(prediction, truth)


@pytest.mark.parametrize("kind", ["soft", "noisy", "eaten"])
def test_masks_of_several_tiles(kind: str) -> None:
    random = np.random.default_rng(7)
    for truth_kind in ("lines", "blobs", "rings"):
        truth = truth_of(truth_kind, 530, 300, random)
        assert_agreement(prediction_of(kind, truth, random), truth)


def test_far_from_the_foreground_errors_count_twice() -> None:
    truth = np.zeros((40, 900), np.uint8)
    truth[5:9, 2:6] = 255
    assert_agreement(prediction_of("noisy", truth, np.random.default_rng(0)), truth)


@pytest.mark.slow
def test_many_more_masks() -> None:
    for _, prediction, truth in pairs(400, seed=1):
        assert_agreement(prediction, truth)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 70), (64, 1), (2, 2), (3, 64)])
def test_tiny_images_have_finite_values(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for truth_kind in TRUTHS:
        truth = truth_of(truth_kind, *size, random)
        for kind in PREDICTIONS:
            prediction = prediction_of(kind, truth, random)
            values = Scorer((*COMMON, "MSE", "mBA", "BIoU")).update(prediction, truth)
            assert all(map(math.isfinite, values.values())), (truth_kind, kind)
            if size == (1, 70):
                assert_agreement(prediction, truth)


def test_where_the_oracle_has_no_s_measure_the_empty_quarter_has_no_weight() -> None:
    row = np.array([[0, 0, 0, 255, 255, 0, 0, 0]], np.uint8)
    assert math.isnan(oracle(row, row)["S"])
    assert Scorer(["S"]).update(row, row)["S"] == pytest.approx(1)
    # The lower half is empty, too, when the centre is in the last row.
    truth = np.zeros((6, 8), np.uint8)
    truth[5, 2:6] = 255
    assert math.isnan(oracle(truth, truth)["S"])
    assert Scorer(["S"]).update(truth, truth)["S"] == pytest.approx(1)


def test_a_flat_part_of_a_flat_truth_is_alike_whatever_its_grey() -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[40:50, 40:50] = 255
    scores = []
    for grey in range(1, 60):
        prediction = truth.copy()
        prediction[:20] = grey
        prediction[63] = 0
        scores.append(Scorer(["S"]).update(prediction, truth)["S"])
    assert np.abs(np.diff(scores)).max() < 0.02  # where rounding decides, scores of neighbouring greys jump


def test_unstretched_predictions_as_the_oracle_has_them() -> None:
    _, prediction, truth = pairs(8)[7]
    prediction = prediction // 2 + 20
    s, f = py_sod_metrics.Smeasure(), py_sod_metrics.WeightedFmeasure()
    for measure in (s, f):
        measure.step(prediction / 255, truth > 128, normalize=False)
    values = Scorer(("S", "wF"), Conventions(stretch=False)).update(prediction, truth)
    assert values["S"] == pytest.approx(s.get_results()["sm"], abs=1e-9)
    assert values["wF"] == pytest.approx(f.get_results()["wfm"], abs=1e-9)
