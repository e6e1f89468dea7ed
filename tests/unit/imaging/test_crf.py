"""Tests of the agreement of pixels that look alike."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from birefnet.config import MAX_CRF
from birefnet.imaging.crf import settle

Array = NDArray[np.float32]

RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.7)
WEIGHT = 5.0


def photo(left: tuple[float, ...] = RED, right: tuple[float, ...] = BLUE, side: int = 96) -> Array:
    """Two halves of a colour each, (3, side, side)."""
    colours = np.empty((3, side, side), np.float32)
    colours[:, :, : side // 2] = np.reshape(left, (3, 1, 1))
    colours[:, :, side // 2 :] = np.reshape(right, (3, 1, 1))
    return colours


def settled(alpha: Array, colours: Array, weight: float = WEIGHT) -> Array:
    return settle(alpha[None], colours[None], weight)[0]


def logits(alpha: Array) -> Array:
    return np.log(alpha / (1 - alpha))


def noise(height: int, width: int, seed: int = 0) -> tuple[Array, Array]:
    """A smooth alpha and smooth colours that have something to do with it."""
    rng = np.random.default_rng(seed)
    planes = [cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 3) for _ in range(4)]
    alpha, *colours = (plane / plane.std() for plane in planes)
    shades = [0.5 + 0.15 * (alpha * share + plane) for plane, share in zip(colours, (0.8, -0.5, 0.2), strict=True)]
    return (1 / (1 + np.exp(-alpha))).astype(np.float32), np.stack(shades).clip(0, 1).astype(np.float32)


def test_what_is_undecided_goes_to_the_side_that_it_looks_like() -> None:
    alpha = np.zeros((96, 96), np.float32)
    alpha[:, :48] = 1
    alpha[40:52, 30:66] = 0.5  # across the edge
    found = settled(alpha, photo())
    assert found[40:52, 30:48].min() > 0.85
    assert found[40:52, 48:66].max() < 0.15
    # What was sure stays so.
    sure = alpha != 0.5
    assert np.array_equal(found[sure], alpha[sure])


def test_an_edge_is_drawn_where_the_colours_change() -> None:
    place = np.arange(96, dtype=np.float32)
    smooth = np.broadcast_to(1 / (1 + np.exp((place - 47.5) / 3)), (96, 96)).astype(np.float32)
    found = settled(smooth, photo())
    assert (found[:, 46] - found[:, 49]).min() > 3 * (smooth[0, 46] - smooth[0, 49])
    # Without colours to tell them apart the edge stays where it is, and softer.
    alike = settled(smooth, photo(RED, RED))
    assert alike[:, 47] + alike[:, 48] == pytest.approx(1, abs=1e-4)
    assert (alike[:, 46] - alike[:, 49]).max() < 0.9 * (found[:, 46] - found[:, 49]).min()


def test_specks_go_with_what_is_around_them() -> None:
    # Of a colour of their own, so that no other pixel of it has a say.
    colours, alpha = photo(RED, RED, 384), np.zeros((384, 384), np.float32)
    alpha[100:102, 100:102], alpha[200:240, 200:240] = 0.6, 0.6
    colours[:, 100:102, 100:102] = colours[:, 200:240, 200:240] = np.reshape((0.2, 0.9, 0.2), (3, 1, 1))
    found = settled(alpha, colours)
    assert found[100:102, 100:102].max() < 0.55
    assert found[205:235, 205:235].min() > 0.9


def test_what_is_far_away_has_no_say() -> None:
    alpha = np.full((96, 96), 0.5, np.float32)
    alpha[:12] = 1
    found = settled(alpha, photo(RED, RED))
    assert found[20].min() > 0.8
    assert (np.diff(found[:, 0]) < 1e-6).all()
    assert found[92:] == pytest.approx(0.5, abs=1e-6)


def test_no_logit_moves_by_more_than_the_weight() -> None:
    alpha, colours = noise(70, 90)
    for weight in (0.5, 3.0, 20.0):
        moved = logits(settled(alpha, colours, weight).clip(1e-12, 1 - 1e-7)) - logits(alpha)
        assert np.abs(moved).max() <= weight + 1e-3
        assert np.abs(moved).max() > 0.3 * min(weight, 3)
    assert settled(alpha, colours, 0.0) == pytest.approx(alpha, abs=1e-6)


def test_foreground_and_background_are_treated_alike() -> None:
    alpha, colours = noise(64, 64)
    assert settled(1 - alpha, colours) == pytest.approx(1 - settled(alpha, colours), abs=1e-5)


def test_it_comes_near_an_exact_mean_field() -> None:
    # Every pixel hears every other one. The grid's kernel has the variances that its interpolation and blur make.
    alpha, colours = noise(32, 48)
    lab = cv2.cvtColor(colours.transpose(1, 2, 0).copy(), cv2.COLOR_RGB2LAB)
    pitch, alike = np.sqrt(32 * 48) / 8, 4.0
    places = np.stack(np.mgrid[:32, :48], -1).reshape(-1, 2)
    deviation = pitch * np.sqrt(0.5 + 2 / 6)
    features = np.concatenate([places / deviation, lab.reshape(-1, 3) / alike / np.sqrt(0.5 + 2 / 12)], 1)
    kernel = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
    nearest = np.exp(-((places[:, None] - places[None]) ** 2).sum(-1) / 2 / (np.sqrt(32 * 48) / 128) ** 2)
    current = first = logits(alpha).ravel()
    for _ in range(2):
        opinion = np.tanh(current / 2)
        certainty = np.abs(opinion)
        current = first + 0.5 * WEIGHT * (kernel @ (certainty * opinion)) / (kernel @ certainty)
    heard = current
    for _ in range(3):
        current = heard + 0.5 * WEIGHT * (nearest @ np.tanh(current / 2)) / nearest.sum(1)
    exact = (1 / (1 + np.exp(-current))).reshape(32, 48)
    found = settled(alpha, colours)
    assert np.abs(found - exact).mean() < 0.25 * np.abs(alpha - exact).mean()


def test_each_photo_of_a_batch_is_settled_by_itself() -> None:
    pairs = [noise(33, 65, seed) for seed in range(3)]
    together = settle(np.stack([alpha for alpha, _ in pairs]), np.stack([colours for _, colours in pairs]), WEIGHT)
    assert together.dtype == np.float32
    for one, (alpha, colours) in zip(together, pairs, strict=True):
        assert np.array_equal(one, settled(alpha, colours))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3), (512, 480)])
def test_photos_of_any_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    alpha, colours = rng.random(size, np.float32), rng.random((3, *size), np.float32)
    for weight in (WEIGHT, MAX_CRF):
        found = settled(alpha, colours, weight)
        assert found.shape == size
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


def test_alphas_that_an_engine_rounds_beyond_their_range_are_kept_in_it() -> None:
    alpha = np.where(photo()[0] > 0.5, np.float32(1 + 1e-6), np.float32(-1e-6))
    found = settled(alpha, photo())
    assert np.array_equal(found, alpha.clip(0, 1))
