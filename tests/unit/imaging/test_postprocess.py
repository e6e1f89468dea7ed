"""The way back to the photo's size against Pillow and against the interpolation written out."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from birefnet.imaging.postprocess import join, restore, without_scraps

SIZES = [(300, 401), (100, 75), (64, 96), (64, 150), (1, 1), (300, 2), (1, 500)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source", [(64, 96), (1, 1), (3, 2), (32, 1)])
def test_bicubic_is_pillows_to_rounding(source: tuple[int, int], size: tuple[int, int]) -> None:
    alpha = np.random.default_rng(0).random(source, np.float32)
    expected = np.asarray(Image.fromarray(alpha).resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    actual = restore(alpha, size)
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source", [(64, 96), (1, 1), (3, 2), (32, 1)])
def test_linear_has_the_ends_on_the_ends(source: tuple[int, int], size: tuple[int, int]) -> None:
    alpha = np.random.default_rng(0).random(source, np.float32)
    expected = alpha.astype(np.float64)
    for axis in (0, 1):
        place = np.linspace(0, source[axis] - 1, size[axis])
        lines = np.moveaxis(expected, axis, -1)
        known = np.arange(source[axis])
        turned = np.stack([np.interp(place, known, line) for line in lines.reshape(-1, source[axis])])
        expected = np.moveaxis(turned.reshape(*lines.shape[:-1], size[axis]), -1, axis)
    np.testing.assert_allclose(restore(alpha, size, "cv2_linear"), expected, atol=1e-5)


def test_the_networks_output_is_left_as_it_is() -> None:
    alpha = np.linspace(-0.5, 1.5, 64, dtype=np.float32).reshape(8, 8)
    before = alpha.copy()
    restored = restore(alpha, (8, 8))
    assert (restored.min(), restored.max()) == (0, 1)
    assert np.array_equal(alpha, before)


@pytest.mark.parametrize("policy", ["pil_bilinear", "cv2_linear"])
def test_logits_are_stretched_where_all_is_decided(policy: str) -> None:
    logits = np.random.default_rng(0).uniform(-4, 4, (24, 32)).astype(np.float32)
    alpha = 1 / (1 + np.exp(-logits))
    expected = _interpolated(logits, (100, 75), policy)
    least = 1 / (1 + np.exp(6))
    expected = ((1 / (1 + np.exp(-expected.clip(-6, 6))) - least) / (1 - 2 * least)).clip(0, 1)
    actual = restore(alpha, (100, 75), policy, decided=True)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    before = alpha.copy()
    restore(alpha, (24, 32), policy, decided=True)
    assert np.array_equal(alpha, before)


def _interpolated(values: NDArray[np.float32], size: tuple[int, int], policy: str) -> NDArray[np.float64]:
    if policy == "pil_bilinear":
        return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC), np.float64)
    for axis, length in enumerate(size):
        place = np.linspace(0, values.shape[axis] - 1, length)
        known = np.arange(values.shape[axis])
        values = np.apply_along_axis(lambda line: np.interp(place, known, line), axis, values)  # noqa: B023
    return values.astype(np.float64)


def test_a_decided_edge_stays_sharp_and_smooth_when_it_is_enlarged() -> None:
    row, column = np.mgrid[:32, :32].astype(np.float32)
    line = column - 16 - 0.4 * (row - 16)  # of pixels, to the right of a slanting edge
    alpha = 1 / (1 + np.exp(-4 * line))
    wide = restore(alpha, (256, 256), decided=True)
    assert (wide[:, 0].max(), wide[:, -1].min()) == (0, 1)  # what is sure is so to the last bit
    row, column = np.mgrid[:256, :256]
    exact = (column + 0.5) / 8 - 0.5 - 16 - 0.4 * ((row + 0.5) / 8 - 0.5 - 16)
    wrong, usual = ((restored >= 0.5) != (exact >= 0) for restored in (wide, restore(alpha, (256, 256))))
    assert wrong[16:-16].sum() < 0.1 * usual[16:-16].sum()
    soft, usual_soft = (((a > 0.1) & (a < 0.9)).sum() for a in (wide, restore(alpha, (256, 256))))
    assert soft < 0.8 * usual_soft


def test_specks_and_what_the_border_cuts_off_are_no_part_of_the_object() -> None:
    alpha = np.zeros((100, 120), np.float32)
    alpha[30:70, 40:90] = 1  # 2,000 pixels
    alpha[50, 89:92] = (1, 0.5, 0.01)
    kept = alpha.copy()
    kept[10:16, 60:70] = 1  # small, but whole
    kept[90:, 10:21] = 1  # cut off, but not small
    scraps = kept.copy()
    scraps[:9, :10] = 0.9
    scraps[80:84, 110:114], scraps[84, 110] = 1, 0.03
    assert np.array_equal(without_scraps(scraps), kept)
    assert np.array_equal(without_scraps(kept), kept)
    for whole in (np.zeros_like(alpha), np.ones_like(alpha)):
        assert np.array_equal(without_scraps(whole), whole)
    assert without_scraps(scraps).dtype == np.float32


def test_two_looks_are_joined_by_the_mean_of_their_logits() -> None:
    levels = np.linspace(0.001, 0.999, 97, dtype=np.float32)
    first, second = np.meshgrid(levels, levels)
    joined = join(first, second)
    assert joined.dtype == np.float32
    logits = (np.log(first / (1 - first)) + np.log(second / (1 - second))) / 2
    assert np.abs(joined - 1 / (1 + np.exp(-logits))).max() < 1e-5
    # To the last bit where both are sure, and neither one nor the other where they contradict.
    sure, unsure = np.float32([0, 1, 0, 1]), np.float32([0, 1, 1, 0])
    assert join(sure, unsure).tolist() == [0, 1, 0.5, 0.5]
    assert join(np.float32([1]), np.float32([0.3]))[0] > 0.999
