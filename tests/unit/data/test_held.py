import numpy as np
import pytest

from birefnet.data.held import draw_thing


@pytest.mark.parametrize("side", [8, 41, 160])
def test_a_thing_is_one_body_within_its_square(side: int) -> None:
    for seed in range(30):
        thing = draw_thing(side, np.random.default_rng(seed))
        assert thing.surface.shape == (side, side, 3)
        assert thing.coverage.shape == (side, side)
        assert thing.surface.dtype == thing.coverage.dtype == np.uint8
        assert 0.25 < thing.coverage.mean() / 255 < 0.9
        assert thing.coverage[side // 2, side // 2] == 255
        # Its outline is an edge, not smoke.
        assert ((thing.coverage > 0) & (thing.coverage < 255)).mean() < 8 / side


def test_a_thing_follows_from_its_generator() -> None:
    first, again, other = (draw_thing(64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.surface, again.surface)
    assert np.array_equal(first.coverage, again.coverage)
    assert not np.array_equal(first.coverage, other.coverage)


def test_at_another_size_it_is_the_same_thing() -> None:
    for seed in range(10):
        small, large = (draw_thing(side, np.random.default_rng(seed)) for side in (60, 180))
        shrunk = large.coverage.reshape(60, 3, 60, 3).mean((1, 3))
        assert np.abs(shrunk - small.coverage).mean() < 3
        inside = small.coverage == 255
        colours = large.surface.reshape(60, 3, 60, 3, 3).mean((1, 3))
        assert np.abs(colours - small.surface)[inside].mean() < 8


def test_many_are_black_and_shine() -> None:
    black = shining = 0
    for seed in range(100):
        thing = draw_thing(64, np.random.default_rng(seed))
        grey = thing.surface.mean(2)[thing.coverage == 255]
        if np.median(grey) < 50:
            black += 1
            shining += bool(np.quantile(grey, 0.98) > 100)
    assert 45 < black < 85
    assert black / 3 < shining < black
