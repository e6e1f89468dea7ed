"""Tests of what makes a decision of a network's answer."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from birefnet.imaging.crf import settle
from birefnet.imaging.decide import close_gaps, decide, drop_tufts, finer, smooth_outline

Array = NDArray[np.float32]

WEIGHT = 5.0


def dark_and_bright() -> Array:
    """Something black before a white wall, half and half, (3, 96, 96)."""
    colours = np.full((3, 96, 96), 0.95, np.float32)
    colours[:, :, :48] = 0.05
    return colours


def blurred_noise(seed: int, blur: float) -> Array:
    """A smooth alpha, (96, 96)."""
    plane = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(96, 96)), (0, 0), blur)
    return (1 / (1 + np.exp(-plane / plane.std()))).astype(np.float32)


def closed(settled: Array, alpha: Array) -> Array:
    return close_gaps(settled[None], alpha[None])[0]


def smoothed(settled: Array, alpha: Array) -> Array:
    return smooth_outline(settled[None], alpha[None])[0]


def test_a_reflection_is_no_gap_but_a_hole_is() -> None:
    colours = dark_and_bright()
    colours[:, 41:45, 20:24] = 0.95  # looks like the wall
    alpha = np.zeros((96, 96), np.float32)
    alpha[:, :48] = 0.99
    alpha[41:45, 20:24] = 0.45
    found = settle(alpha[None], colours[None], WEIGHT)[0]
    assert found[42:44, 21:23].max() < 0.3
    assert closed(found, alpha)[41:45, 20:24].min() > 0.7
    # What the network saw through stays open.
    alpha[41:45, 20:24] = 0.2
    found = settle(alpha[None], colours[None], WEIGHT)[0]
    assert closed(found, alpha)[42:44, 21:23].max() < 0.05


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(40, 64), slice(10, 34)), (slice(46, 50), slice(0, 20)), (slice(46, 50), slice(30, 96))],
    ids=["wide", "open to the border", "open to the background"],
)
def test_what_is_no_gap_stays_open(rows: slice, columns: slice) -> None:
    found = np.zeros((96, 96), np.float32)
    found[:, :70] = 1
    found[rows, columns] = 0
    assert np.array_equal(closed(found, np.ones_like(found)), found)


def test_a_gap_is_closed_by_degrees() -> None:
    found = np.ones((96, 96), np.float32)
    found[46:50, 40:60] = 0.1
    amounts = [closed(found, np.full_like(found, doubt))[48, 50] for doubt in (0.15, 0.25, 0.3, 0.35, 0.45)]
    assert amounts == pytest.approx([0.1, 0.25, 0.5, 0.75, 1])
    # And by how high the wall around it is.
    found[:46, 50] = 0.6
    assert closed(found, np.ones_like(found))[48, 55] == pytest.approx(0.6)


def test_rounding_decides_nothing() -> None:
    alpha = blurred_noise(0, 2)
    found = 1 - alpha**6  # much foreground with gaps in it
    alpha = 0.2 + 0.4 * alpha
    plain = closed(found, alpha)
    assert (plain > found + 0.05).mean() > 0.01
    shaken = (found + np.random.default_rng(0).uniform(-1e-5, 1e-5, found.shape)).clip(0, 1).astype(np.float32)
    assert np.abs(closed(shaken, alpha + np.float32(1e-5)) - plain).max() < 1e-4


# --- tufts ---


def without_tufts(settled: Array, alpha: Array) -> Array:
    return drop_tufts(settled[None], alpha[None])[0]


def test_a_tuft_goes_and_what_the_network_was_sure_of_stays() -> None:
    body = np.zeros((576, 576), np.float32)
    body[200:400, 200:400] = 1
    found = body.copy()
    found[300:308, 400:430] = 1  # narrower than twice five pixels and one more
    found[300:312, 170:200] = 1  # wider
    doubted = np.full_like(found, 0.6)
    opened = without_tufts(found, doubted)
    assert opened[302:306, 402:].max() == 0
    assert opened[302:310, 180:200].min() == 1
    assert opened[220:380, 220:380].min() == 1
    assert np.array_equal(without_tufts(found, found), found)
    amounts = [without_tufts(found, np.full_like(found, sure))[304, 415] for sure in (0.7, 0.76, 0.825, 0.95)]
    assert amounts == pytest.approx([0, 0.24, 0.5, 1], abs=1e-6)


def test_what_the_border_cuts_off_is_no_tuft() -> None:
    found = np.zeros((576, 576), np.float32)
    found[:3] = found[:, 570:] = 1
    found[300:, :4] = 1
    opened = without_tufts(found, np.full_like(found, 0.5))
    assert opened[:3, :560].min() == 1
    assert opened[:, 572:].min() == 1
    assert opened[310:, :4].min() == 1
    assert opened[3:290, :560].max() == 0


# --- at more pixels ---


def test_more_pixels_than_a_small_network_saw() -> None:
    assert finer((384, 384)) == (576, 576)
    assert finer((320, 448)) == (480, 672)
    assert finer((768, 768)) == (1024, 1024)
    for size in ((1024, 1024), (1152, 928), (2048, 1024)):
        assert finer(size) == size


def test_an_edge_is_found_between_the_pixels_that_the_network_saw() -> None:
    # The edge lies at 22.5 of 48 pixels, so that two of the network's see both sides, and know it roughly.
    colours = np.full((1, 3, 72, 72), 0.9, np.float32)
    colours[..., :34] = 0.1  # at 33.75 of 72
    place = np.arange(48, dtype=np.float32) + 0.5
    alpha = np.broadcast_to(1 / (1 + np.exp(place - 22.5)), (1, 48, 48)).astype(np.float32)
    found = decide(alpha, colours, WEIGHT)
    assert found.shape == (1, 72, 72)
    assert found[..., :33].min() > 0.9
    assert found[..., 35:].max() < 0.1
    # No weight only stretches it, and keeps its logits' slope.
    plain = decide(alpha, colours, 0.0)[0, 36]
    logits = np.log(plain[20:50] / (1 - plain[20:50]))
    assert np.diff(logits) == pytest.approx(-2 / 3, abs=1e-3)


def test_what_is_certain_stays_so_when_enlarged() -> None:
    alpha = np.zeros((1, 48, 48), np.float32)
    alpha[:, 10:30, 10:30] = 1
    found = decide(alpha, np.full((1, 3, 72, 72), 0.5, np.float32), 0.0)[0]
    assert found[20:40, 20:40].min() > 1 - 1e-5
    assert found[:10].max() < 1e-5


# --- outlines ---


def test_teeth_and_crumbs_go_and_straight_edges_stay() -> None:
    straight = np.zeros((96, 96), np.float32)
    straight[20:80, 30:60] = 1
    frayed = straight.copy()
    frayed[30, 60:64] = frayed[50:52, 60:63] = frayed[82, 40] = 1
    frayed[40, 56:60] = frayed[60:62, 57:60] = 0
    unsure = np.full_like(frayed, 0.5)
    found = smoothed(frayed, unsure)
    wrong = found != straight
    assert not wrong[82].any()
    assert not wrong[24:76, :59].any()
    assert not wrong[24:76, 61:].any()  # of what was up to four pixels deep one is left
    corners = smoothed(straight, unsure) != straight
    assert corners.sum() == 4 * 3
    assert not corners[24:76].any()


def test_what_the_network_was_sure_of_stays_however_thin() -> None:
    alpha = np.zeros((96, 96), np.float32)
    alpha[20:50] = 1
    alpha[20:50, 40] = 0  # a slit
    alpha[50:90, 60] = 1  # a hair
    assert np.array_equal(smoothed(alpha, alpha), alpha)
    # Of what it doubted neither is left.
    doubted = smoothed(alpha, 0.3 + 0.4 * alpha)
    assert doubted[25:45, 40].min() > 1 - 1e-6
    assert doubted[55:, 60].max() < 1e-6
    # And by degrees between.
    hair = [smoothed(alpha, sure * alpha)[70, 60] for sure in (0.7, 0.76, 0.825, 0.95)]
    assert hair == pytest.approx([0, 0.24, 0.5, 1], abs=1e-6)


def test_foreground_and_background_are_smoothed_alike() -> None:
    found, alpha = blurred_noise(1, 1), blurred_noise(2, 2)
    assert smoothed(1 - found, 1 - alpha) == pytest.approx(1 - smoothed(found, alpha), abs=1e-6)


def test_an_edge_between_like_colours_is_smooth() -> None:
    # Mottled on either side, one a little lighter: only the network knows where the edge is, and that roughly.
    colours = np.random.default_rng(0).uniform(0.3, 0.6, (1, 3, 192, 192)).astype(np.float32)
    colours[..., :96] += 0.1
    place = np.arange(192, dtype=np.float32)
    alpha = np.broadcast_to(1 / (1 + np.exp((place - 95.5) / 30)), (1, 192, 192)).astype(np.float32)
    frayed, found = settle(alpha, colours, 10)[0], decide(alpha, colours, 10)[0]

    def roughness(decided: Array) -> float:
        widths = (decided > 0.5).sum(1)
        return float(np.abs(np.diff(widths)).mean())

    assert roughness(frayed) > 0.2
    assert roughness(found) < 0.3 * roughness(frayed)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3), (512, 480)])
def test_photos_of_any_size_and_each_by_itself(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    alphas, colours = rng.random((2, *size), np.float32), rng.random((2, 3, *size), np.float32)
    found = decide(alphas, colours, WEIGHT)
    assert found.shape == alphas.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(found[1:], decide(alphas[1:], colours[1:], WEIGHT))


def test_alphas_that_an_engine_rounds_beyond_their_range_are_kept_in_it() -> None:
    alpha = np.where(dark_and_bright()[0] < 0.5, np.float32(1 + 1e-6), np.float32(-1e-6))
    assert np.array_equal(decide(alpha[None], dark_and_bright()[None], WEIGHT)[0], alpha.clip(0, 1))
