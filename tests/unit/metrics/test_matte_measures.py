"""Matte measures against their definitions, written out for each pixel."""

import numpy as np
import pytest
from scipy import ndimage

from birefnet.metrics import MATTE_MEASURES, Conventions, Scorer


def mattes(seed: int, size: tuple[int, int] = (50, 70)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.standard_normal(size), 4) for _ in range(2)]
    truth, other = (((field / field.std()) * 0.6 + 0.5).clip(0, 1) for field in fields)
    prediction = (0.7 * truth + 0.3 * other).clip(0, 1)
    trimap = np.where(truth == 0, 0, np.where(truth == 1, 255, 128)).astype(np.uint8)
    return np.rint(prediction * 255).astype(np.uint8), np.rint(truth * 255).astype(np.uint8), trimap


def defined_gradient(alpha: np.ndarray) -> np.ndarray:
    half, sigma = 4, 1.4
    x = np.arange(-half, half + 1)
    gauss = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    slope = -x * gauss / sigma**2
    kernel = np.outer(gauss, slope)
    kernel /= np.sqrt((kernel**2).sum())
    across, down = (ndimage.convolve(alpha, k, mode="nearest") for k in (kernel, kernel.T))
    return np.hypot(across, down)


def defined_connectedness(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    level = np.full(truth.shape, -1.0)
    for step in range(1, 11):
        labels, number = ndimage.label((prediction >= step / 10) & (truth >= step / 10))
        largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if number else labels > 0
        level[(level == -1) & ~largest] = (step - 1) / 10
    level[level == -1] = 1
    excesses = (alpha - level for alpha in (prediction, truth))
    ours, theirs = (1 - excess * (excess >= 0.15 - 1e-7) for excess in excesses)
    return ours, theirs


@pytest.mark.parametrize("with_trimap", [False, True])
def test_definitions(with_trimap: bool) -> None:
    for seed in range(6):
        prediction, truth, trimap = mattes(seed)
        ours, theirs = prediction / 255, truth / 255
        where = trimap == 128 if with_trimap else np.ones(truth.shape, bool)
        connected = defined_connectedness(ours, theirs)
        expected = {
            "SAD": np.abs(ours - theirs)[where].sum() / 1000,
            "matteMSE": ((ours - theirs) ** 2)[where].mean(),
            "Grad": ((defined_gradient(ours) - defined_gradient(theirs)) ** 2)[where].sum() / 1000,
            "Conn": np.abs(connected[0] - connected[1])[where].sum() / 1000,
        }
        values = Scorer(MATTE_MEASURES).update(prediction, truth, trimap if with_trimap else None)
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_equal_mattes_have_no_error_and_nowhere_to_look_none_either() -> None:
    prediction, truth, trimap = mattes(0)
    assert Scorer(MATTE_MEASURES).update(truth, truth) == pytest.approx(
        dict.fromkeys(("SAD", "matteMSE", "Grad", "Conn"), 0)
    )
    nowhere = np.where(trimap == 128, 255, trimap).astype(np.uint8)
    assert set(Scorer(MATTE_MEASURES).update(prediction, truth, nowhere).values()) == {0.0}


def test_empty_mattes_are_measured() -> None:
    empty, full = np.zeros((20, 30), np.float32), np.ones((20, 30), np.float32)
    values = Scorer(MATTE_MEASURES).update(full, empty)
    assert values == pytest.approx({"SAD": 0.6, "matteMSE": 1, "Grad": 0, "Conn": 0.6})


def test_of_two_largest_regions_the_uppermost_counts() -> None:
    truth = np.zeros((9, 40), np.float32)
    truth[1:4, 30:34] = truth[5:8, 3:7] = 1  # as large as each other, the second one further left
    lost_upper, lost_lower = truth.copy(), truth.copy()
    lost_upper[1:4, 30:34] = 0
    lost_lower[5:8, 3:7] = 0
    for prediction in (lost_upper, lost_lower):
        assert Scorer(["Conn"]).update(prediction, truth)["Conn"] == pytest.approx(0.012)
    beside = truth[:, ::-1].copy()
    beside[1:4, 30:34] = 1
    # Everything agrees, so whichever region is taken, both mattes are as disconnected.
    assert Scorer(["Conn"]).update(beside, beside)["Conn"] == 0


def test_stretched_gradients() -> None:
    prediction, truth, _ = mattes(1)
    faint = (truth // 2).astype(np.uint8)
    plain = Scorer(["Grad"]).update(faint, truth)["Grad"]
    stretched = Scorer(["Grad"], Conventions(stretch_mattes=True)).update(faint, truth)["Grad"]
    assert stretched < plain / 50
    flat = np.full_like(prediction, 7)
    assert Scorer(["Grad"], Conventions(stretch_mattes=True)).update(flat, flat)["Grad"] == 0
