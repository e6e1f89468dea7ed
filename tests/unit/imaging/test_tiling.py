"""Windows cover what is marked, stay inside the photo, and are few."""

import numpy as np
import pytest

from birefnet.imaging.tiling import Window, cover, taper


def covered(windows: list[Window], size: tuple[int, int], margin: tuple[int, int]) -> np.ndarray:
    """Pixels that lie in the core of a window, the photo's own borders being no window's."""
    result = np.zeros(size, bool)
    for window in windows:
        top = window.top + margin[0] * (window.top > 0)
        left = window.left + margin[1] * (window.left > 0)
        bottom = window.bottom - margin[0] * (window.bottom < size[0])
        right = window.right - margin[1] * (window.right < size[1])
        result[top:bottom, left:right] = True
    return result


def pixels(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = np.arange(cells.shape[0] + 1) * size[0] // cells.shape[0]
    columns = np.arange(cells.shape[1] + 1) * size[1] // cells.shape[1]
    return np.repeat(np.repeat(cells, np.diff(rows), axis=0), np.diff(columns), axis=1)


@pytest.mark.parametrize("seed", range(60))
def test_every_marked_cell_lies_in_the_core_of_a_window_inside_the_photo(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(random.integers(1, 400, 2).tolist())
    window = tuple(random.integers(24, 120, 2).tolist())
    margin = (window[0] // 8, window[1] // 8)
    shape = tuple(int(random.integers(max(1, -(-side // 12)), max(2, side + 1))) for side in size)
    cells = random.random(shape) < random.choice([0.001, 0.02, 0.5, 1])
    windows = cover(cells, size, window, margin)
    for top, left, bottom, right in windows:
        assert 0 <= top < bottom <= size[0]
        assert 0 <= left < right <= size[1]
        assert (bottom - top, right - left) == (min(window[0], size[0]), min(window[1], size[1]))
    assert covered(windows, size, margin)[pixels(cells, size)].all()
    assert len(set(windows)) == len(windows)
    assert windows == cover(cells, size, window, margin)


def test_windows_are_few() -> None:
    cells = np.ones((100, 100), bool)
    assert len(cover(cells, (1000, 1000), (1000, 1000), (125, 125))) == 1
    assert len(cover(cells, (1000, 1000), (600, 600), (50, 50))) == 4
    line = np.zeros((100, 100), bool)
    line[:, 50] = True  # one window wide, two high
    assert len(cover(line, (1000, 1000), (600, 600), (50, 50))) == 2
    diagonal = np.eye(100, dtype=bool)  # a grid of windows would be 25
    assert len(cover(diagonal, (1000, 1000), (260, 260), (20, 20))) <= 9


def test_strips_run_along_the_better_axis() -> None:
    # Two tall bars, one shifted: along rows each strip needs two windows, along columns each bar has its own.
    cells = np.zeros((40, 40), bool)
    cells[0:10, 2] = True
    cells[5:15, 30] = True
    bars = cover(cells, (400, 400), (120, 120), (10, 10))
    assert len(bars) == 2
    turned = cover(cells.T.copy(), (400, 400), (120, 120), (10, 10))
    assert sorted((w.left, w.top) for w in turned) == sorted((w.top, w.left) for w in bars)


def test_a_window_has_its_cells_in_the_middle() -> None:
    cells = np.zeros((100, 100), bool)
    cells[50, 40:44] = True
    assert cover(cells, (1000, 1000), (200, 200), (20, 20)) == [Window(405, 320, 605, 520)]
    corner = np.zeros((100, 100), bool)
    corner[99, 0] = True
    assert cover(corner, (1000, 1000), (200, 200), (20, 20)) == [Window(800, 0, 1000, 200)]


def test_nothing_marked_needs_no_window() -> None:
    assert cover(np.zeros((7, 9), bool), (70, 91), (32, 32), (4, 4)) == []


def test_weights_fall_smoothly_towards_neighbours_only() -> None:
    size, margin = (300, 300), (12, 8)
    inner = taper(Window(50, 60, 150, 160), size, margin)
    assert inner.shape == (100, 100)
    assert inner.dtype == np.float32
    assert (inner[12:-12, 8:-8] == 1).all()
    assert (np.diff(inner[:13, 50]) > 0).all()
    assert np.array_equal(inner, inner[::-1, ::-1])
    assert 0 < inner.min() < 0.01
    whole = taper(Window(0, 0, 300, 300), size, margin)
    assert (whole == 1).all()
    corner = taper(Window(0, 200, 100, 300), size, margin)
    assert (corner[:88, 8:] == 1).all()
    assert corner[-1, 50] < 0.05
    assert corner[50, 0] < 0.05
    assert (taper(Window(50, 60, 150, 160), size, (0, 0)) == 1).all()
