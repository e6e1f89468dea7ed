"""Measures that no library has, against their definitions, and the values that are a matter of definition."""

import itertools

import cv2
import numpy as np
import pytest
from hard_masks import Mask, pairs

from birefnet.errors import InputError
from birefnet.metrics import MASK_MEASURES, Conventions, Pair, Scorer
from birefnet.metrics import pair as pair_module

EMPTY, FULL = np.zeros((40, 60), np.uint8), np.full((40, 60), 255, np.uint8)


def defined_accuracy(prediction: Mask, truth: Mask) -> float:
    found, wanted = (prediction > 128).astype(np.uint8), (truth > 128).astype(np.uint8)
    height, width = truth.shape
    accuracies = []
    for step in range(5):
        radius = 1 + int(((height + width) / 300 - 1) / 5 * step)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        band = cv2.morphologyEx(wanted, cv2.MORPH_GRADIENT, kernel) > 0
        accuracies.append((found[band] == wanted[band]).mean())
    return float(np.mean(accuracies))


def defined_boundary_iou(prediction: Mask, truth: Mask) -> list[float]:
    grey = prediction / 255
    if grey.max() != grey.min():
        grey = (grey - grey.min()) / (grey.max() - grey.min())
    distance = max(1, round(0.02 * float(np.hypot(*truth.shape))))
    edges = []
    for image in ((grey * 255).astype(np.uint8), np.where(truth > 128, 255, 0).astype(np.uint8)):
        framed = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        edges.append(image - cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1])
    ours, theirs = edges[0], edges[1] > 128
    return [
        ((ours >= level) & theirs).sum() / (max(theirs.sum(), 1) + ((ours >= level) & ~theirs).sum())
        for level in range(255, -1, -1)
    ]


@pytest.mark.parametrize(("size", "count"), [((130, 90), 18), ((900, 700), 2)])
def test_boundary_measures_are_as_defined(size: tuple[int, int], count: int) -> None:
    for _, prediction, truth in pairs(count):
        large, expected = (cv2.resize(image, size, interpolation=cv2.INTER_NEAREST) for image in (prediction, truth))
        scorer = Scorer(["BIoU", "mBA"])
        values = scorer.update(large, expected)
        assert scorer.curves()["BIoU"] == pytest.approx(defined_boundary_iou(large, expected), abs=1e-12)
        if 0 < (expected > 128).mean() < 1:
            assert values["mBA"] == pytest.approx(defined_accuracy(large, expected), abs=1e-12)


def test_squared_error_is_as_defined() -> None:
    for _, prediction, truth in pairs(30):
        values = Pair(prediction, truth).values[prediction]
        expected = ((values - (truth > 128)) ** 2).mean()
        assert Scorer(["MSE"]).update(prediction, truth)["MSE"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (
            EMPTY,
            {"S": 1, "MAE": 0, "MSE": 0, "wF": 0, "HCE": 0, "mBA": 1, "maxF": 0, "maxBIoU": 0, "IoU": 1, "Dice": 1},
        ),
        (FULL, {"S": 0, "MAE": 1, "MSE": 1, "wF": 0, "mBA": 0, "maxF": 0, "maxBIoU": 0, "IoU": 0, "Dice": 0}),
    ],
)
def test_empty_truth(prediction: Mask, expected: dict[str, float]) -> None:
    values = Scorer((*MASK_MEASURES, "IoU", "Dice")).update(prediction, EMPTY)
    assert {name: values[name] for name in expected} == expected
    # One pixel less in the divisor, as in the authors' program; at threshold 0 everything is found.
    share = float(prediction is EMPTY) * 2400 / 2399
    assert values["maxE"] == pytest.approx(share)
    assert values["adpE"] == 0


def test_a_perfect_prediction_is_perfect() -> None:
    truth = EMPTY.copy()
    truth[10:30, 12:50] = 255
    values = Scorer((*MASK_MEASURES, "IoU", "Dice")).update(truth, truth)
    for name in ("S", "maxF", "adpF", "wF", "mBA", "maxBIoU", "IoU", "Dice"):
        assert values[name] == pytest.approx(1), name
    assert values["maxE"] == pytest.approx(2400 / 2399)
    assert values["MAE"] == values["MSE"] == values["HCE"] == 0


def test_conventions_decide_what_is_foreground() -> None:
    truth, prediction = EMPTY.copy(), EMPTY.copy()
    truth[:20], truth[20:30] = 255, 128
    prediction[:20], prediction[20:30] = 120, 60
    overlap = {
        convention: Scorer(["IoU"], convention).update(prediction, truth)["IoU"]
        for convention in (
            Conventions(),
            Conventions(prediction_above=None),
            Conventions(prediction_above=50),
            Conventions(truth_above=127, prediction_above=50),
        )
    }
    assert list(overlap.values()) == pytest.approx([0, 1, 20 / 30, 1])
    assert Scorer(["MAE"]).update(prediction, truth)["MAE"] == pytest.approx(10 * 0.5 / 40)
    unstretched = Scorer(["MAE"], Conventions(stretch=False)).update(prediction, truth)["MAE"]
    assert unstretched == pytest.approx((20 * (255 - 120) + 10 * 60) / 255 / 40)


def test_twice_the_mean_is_compared_in_whole_numbers() -> None:
    # Mean 0.3 / 2 of values 0, 0.3 and 1: by rounding, twice the mean may exceed the level that it is.
    prediction = np.zeros((1, 10), np.uint8)
    prediction[0, :3] = 60
    prediction[0, 3] = 120
    # Twice the mean level is 2 * 300 / 10 = 60.
    assert Pair(prediction, prediction).found_adaptively.sum() == 4


def test_float_and_boolean_images_are_levels() -> None:
    _, prediction, truth = pairs(3)[2]
    expected = Scorer().update(prediction, truth)
    assert Scorer().update(prediction.astype(np.float32) / np.float32(255), truth > 128) == expected
    assert Scorer().update(prediction / 255, (truth > 128).astype(np.float64)) == expected
    view = np.asfortranarray(np.pad(prediction, 3))[3:-3, 3:-3]
    assert Scorer().update(view, np.asfortranarray(truth)) == expected


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        (EMPTY, EMPTY[1:], "resize the prediction"),
        (EMPTY[..., None], EMPTY, "grey image"),
        (EMPTY[:0], EMPTY[:0], "grey image"),
        (EMPTY.astype(np.int32), EMPTY, "int32"),
        (EMPTY + np.float32(1.5), EMPTY, "outside"),
        (EMPTY + np.float32(np.nan), EMPTY, "outside"),
        (EMPTY, EMPTY - np.float32(0.1), "truth has values outside"),
    ],
)
def test_wrong_images_are_one_line(prediction: Mask, truth: Mask, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Scorer().update(prediction, truth)
    assert "\n" not in str(caught.value)


def test_a_threshold_must_leave_something() -> None:
    with pytest.raises(InputError, match="truth_above"):
        Conventions(truth_above=255)
    with pytest.raises(InputError, match="prediction_above"):
        Conventions(prediction_above=-1)


def test_large_images_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prediction, truth = pairs(3)[2]
    expected = Pair(prediction, truth).quarters
    monkeypatch.setattr(pair_module, "_COUNTED_AT_ONCE", 300)  # counts of OpenCV are float32, exact to 2^24
    assert (Pair(prediction, truth).quarters == expected).all()
    assert expected.sum() == truth.size


def test_short_stretches_of_a_contour_keep_their_ends_alone() -> None:
    # What spares the polygon of each of them: see `_polygon_points`.
    steps = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
    for length in (1, 2, 3, 4):
        for walk in itertools.product(steps, repeat=length - 1):
            points = np.cumsum([(5, 5), *walk], axis=0).astype(np.int32)
            if len(np.unique(points, axis=0)) == length:
                assert len(cv2.approxPolyDP(points, 1.5, False)) == min(length, 2)
