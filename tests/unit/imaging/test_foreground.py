import threading

import cv2
import numpy as np
import pytest

from birefnet.imaging import foreground
from birefnet.imaging.foreground import estimate_foreground


def defined(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blur fusion of a whole photo in float64, as the formula says."""
    image, a = rgb / 255, alpha[..., None].astype(np.float64)
    front = back = image
    for radius in (90, 6):

        def blur(x: np.ndarray, radius: int = radius) -> np.ndarray:
            return cv2.blur(x, (radius, radius)).reshape(x.shape)

        share = blur(a)
        front = blur(front * a) / (share + 1e-5)
        back = blur(back * (1 - a)) / (1 - share + 1e-5)
        front = (front + a * (image - a * front - (1 - a) * back)).clip(0, 1)
    return front * 255


def soft_disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height * 0.45, x - width * 0.55)
    return ((0.35 * min(height, width) - distance) / 12 + 0.5).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("size", [(61, 83), (300, 410), (513, 97), (1, 40), (1, 1)])
@pytest.mark.parametrize(("cell", "block"), [(16, 2), (64, 8)])
def test_boxes_give_what_the_formula_gives_for_the_whole_photo(
    size: tuple[int, int], cell: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "CELL", cell)
    monkeypatch.setattr(foreground, "BLOCK", block)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for alpha in (soft_disc(*size), np.random.default_rng(1).random(size, np.float32)):
        actual = estimate_foreground(rgb, alpha)
        expected = defined(rgb, alpha)
        assert np.abs(actual - expected)[alpha > 0].max() <= 0.6  # rounded to 8 bit


def test_what_a_network_leaves_undecided_beyond_8_bit_costs_at_most_a_level() -> None:
    # Alpha as a sigmoid gives it: nowhere 0, nowhere 1.
    y, x = np.mgrid[:900, :1000]
    alpha = (1 / (1 + np.exp((np.hypot(y - 450, x - 500) - 250) / 6))).clip(1e-5, 1 - 1e-5).astype(np.float32)
    rgb = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), np.uint8)
    actual = estimate_foreground(rgb, alpha)
    seen = np.rint(alpha * 255) > 0
    difference = np.abs(actual - np.rint(defined(rgb, alpha))).max(axis=2)
    assert difference[seen].max() <= 1
    # Around the object colours go on; where nothing near is seen, none are made up.
    near = cv2.dilate(seen.view(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert difference[near].max() <= 1
    assert not actual[:60, :60].any()


def test_boxes_cover_what_is_undecided_once_and_nothing_far_from_it() -> None:
    random = np.random.default_rng(0)
    for share in (0.02, 0.3, 1.0):
        cells = random.random((23, 37)) < share
        covered = np.zeros(cells.shape, int)
        for box in foreground._boxes(cells):
            covered[box.part] += 1
            assert max(box.bottom - box.top, box.right - box.left) <= foreground.BLOCK
            assert cells[box.part].any(axis=1)[[0, -1]].all()
            assert cells[box.part].any(axis=0)[[0, -1]].all()
        assert covered.max() == 1
        assert (covered[cells] == 1).all()


def test_the_old_background_leaves_the_edge() -> None:
    # A red disc on green: mixtures at the edge must become red again.
    alpha = soft_disc(200, 200)
    red, green = np.array([200.0, 20, 20]), np.array([10.0, 220, 10])
    rgb = np.rint(alpha[..., None] * red + (1 - alpha[..., None]) * green).astype(np.uint8)
    edge = (alpha > 0.1) & (alpha < 0.9)
    assert np.abs(rgb[edge] - red).mean() > 50
    assert np.abs(estimate_foreground(rgb, alpha)[edge] - red).mean() < 8


def test_inside_colours_are_kept_and_far_outside_is_black() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (600, 700, 3), np.uint8)
    alpha = np.zeros((600, 700), np.float32)
    alpha[200:400, 100:500] = 1
    colours = estimate_foreground(rgb, alpha)
    assert np.array_equal(colours[200:400, 100:500], rgb[200:400, 100:500])
    alpha[196:404, 96:504] = 1
    assert not colours[alpha == 0].any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_alpha_without_edges(value: float) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    colours = estimate_foreground(rgb, np.full((300, 300), value, np.float32))
    assert np.array_equal(colours, rgb * np.uint8(value))


def test_an_error_in_a_box_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(foreground, "_fuse_twice", fail)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            # As many boxes as outnumber the threads.
            estimate_foreground(np.zeros((64, 4096, 3), np.uint8), np.full((64, 4096), 0.5, np.float32))
        except MemoryError as error:
            failed.append(error)

    monkeypatch.setattr(foreground, "processors", lambda: 2)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert failed
