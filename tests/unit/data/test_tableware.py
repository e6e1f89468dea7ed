"""Tableware drawn on tables, to train on."""

import cv2
import numpy as np
import pytest

from birefnet.data.tableware import _dish_colour, _Picture, _View, draw_tableware


@pytest.mark.parametrize(("height", "width"), [(96, 96), (80, 121), (160, 100)])
def test_tableware_is_one_body_without_holes(height: int, width: int) -> None:
    for seed in range(15):
        photo, coverage = draw_tableware(height, width, np.random.default_rng(seed))
        assert (photo.shape, photo.dtype) == ((height, width, 3), np.uint8)
        assert (coverage.shape, coverage.dtype) == ((height, width), np.uint8)
        inside = (coverage > 127).astype(np.uint8)
        assert 0.03 < inside.mean() < 0.9
        count, _, amounts, _ = cv2.connectedComponentsWithStats(inside)
        # Nothing but the plate and what reaches beyond it, and the table around it.
        assert amounts[1:, cv2.CC_STAT_AREA].max() > 0.98 * inside.sum(), f"{seed}: {count - 1} parts"
        framed = cv2.copyMakeBorder(1 - inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
        _, _, gaps, _ = cv2.connectedComponentsWithStats(framed)
        assert gaps[1:, cv2.CC_STAT_AREA].max() > 0.97 * framed.sum()
        assert ((coverage > 8) & (coverage < 247)).mean() < 0.12


def test_it_follows_from_its_generator() -> None:
    first, again, other = (draw_tableware(72, 90, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for one, same, different in zip(first, again, other, strict=True):
        assert np.array_equal(one, same)
        assert not np.array_equal(one, different)


def test_dishes_differ_and_many_have_the_colour_of_their_table() -> None:
    table = np.full((40, 40, 3), (150, 90, 40), np.uint8)
    colours = np.array([_dish_colour(table, np.random.default_rng(seed)) for seed in range(300)])
    assert colours.min() >= 0
    assert colours.max() <= 255
    hue = colours / colours.sum(1, keepdims=True)
    alike = np.abs(hue - np.array([150, 90, 40]) / 280).max(1) < 0.08
    assert 0.3 < alike.mean() < 0.6
    assert 0.1 < (colours.min(1) > 130).mean() < 0.35
    assert 0.04 < (colours.max(1) < 45).mean() < 0.3


def view(height: int = 120, width: int = 160) -> _View:
    return _View.drawn(height, width, np.random.default_rng(4))


def test_a_shadow_belongs_to_the_table() -> None:
    grey = np.full((120, 160, 3), 180, np.uint8)
    for seed in range(10):
        picture = _Picture(grey, view())
        picture.cast(0, 0, 1, 0.2, np.random.default_rng(seed))
        assert picture.coverage.max() == 0
        assert picture.surface.min() < 0.72 * 180
        assert picture.surface.max() == 180
        photo, coverage = picture.taken(np.random.default_rng(seed))
        assert coverage.max() == 0
        assert np.abs(photo.astype(int).min() - picture.surface.min()) < 40


def test_circles_look_like_ellipses_and_rise_with_their_height() -> None:
    seen = view()
    low, high = (seen.inside(seen.disc(0, 0, z, 0.8)[0], 0.8) for z in (0.0, 0.3))
    area = np.pi * 0.8**2 * seen.flat / seen.pixel**2
    assert low.sum() == pytest.approx(area, rel=0.02)
    rows = np.arange(120)[:, None]
    middles = [(share * rows).sum() / share.sum() for share in (low, high)]
    assert middles[0] - middles[1] == pytest.approx(0.3 * seen.up / seen.pixel, rel=0.05)


def test_a_stroke_goes_where_the_view_has_its_points() -> None:
    seen = view()
    points = np.array([[-0.5, 0.2, 0.0], [0.5, 0.2, 0.0]])
    share = seen.strokes(points, 0.05)
    assert share.sum() * seen.pixel**2 == pytest.approx(0.05 * 1.0, rel=0.15)
    middle = np.unravel_index(np.hypot(seen.x, seen.y - np.float32(0.2 * seen.flat)).argmin(), share.shape)
    assert share[middle] == 1
