"""The way back to the photo's size against Pillow and against the interpolation written out."""

import numpy as np
import pytest
from PIL import Image

from birefnet.imaging.postprocess import join, restore

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
