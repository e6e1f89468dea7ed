"""What objects are set before: drawn grounds and empty parts of photos."""

import numpy as np
import pytest

from birefnet.data.grounds import _largest_empty, draw_ground, empty_part, set_drape, set_skyline


def test_a_ground_follows_from_its_generator() -> None:
    for seed in range(6):
        ground = draw_ground(48, 80, np.random.default_rng(seed))
        assert (ground.shape, ground.dtype) == ((48, 80, 3), np.uint8)
        assert np.array_equal(ground, draw_ground(48, 80, np.random.default_rng(seed)))


def test_grounds_differ() -> None:
    grounds = [draw_ground(64, 64, np.random.default_rng(seed)) for seed in range(40)]
    assert len({tuple(ground.reshape(-1, 3).mean(0).round().astype(int).tolist()) for ground in grounds}) > 35


@pytest.mark.parametrize("chance", ["TABLE", "MASTS", "SKYLINE", "DRAPE"])
def test_tables_masts_skylines_and_drapes_are_drawn(chance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in {"TABLE", "MASTS", "SKYLINE", "DUSK", "DRAPE"} - {chance}:
        monkeypatch.setattr(f"birefnet.data.grounds.{other}", 0.0)
    changed = []
    for seed in range(20):
        monkeypatch.setattr(f"birefnet.data.grounds.{chance}", 0.0)
        bare = draw_ground(96, 96, np.random.default_rng(seed)).astype(int)
        monkeypatch.setattr(f"birefnet.data.grounds.{chance}", 1.0)
        changed.append(float((np.abs(draw_ground(96, 96, np.random.default_rng(seed)) - bare).max(2) > 8).mean()))
    assert sum(share > 0 for share in changed) >= 15
    # A table fills a part of the photo and may leave the rest in the dark, masts are thin and drapes at one side.
    assert (float(np.mean(changed)) > 0.3) == (chance == "TABLE")


def test_a_skyline_lies_below_and_has_lamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.data.grounds.DUSK", 0.0)
    grey = np.full((120, 160, 3), 90, np.uint8)
    before = grey.copy()
    changed, brighter = np.zeros((120, 160)), np.zeros((120, 160))
    for seed in range(60):
        drawn = set_skyline(grey, np.random.default_rng(seed)).astype(int)
        changed += (np.abs(drawn - grey).max(2) > 20) / 60
        brighter += (drawn.min(2) > 200) / 60
    assert np.array_equal(grey, before)
    assert brighter.sum() > 10
    assert brighter[60:].sum() > 10 * brighter[:60].sum()
    assert changed[110:].mean() > 0.2 > 10 * changed[:60].mean()


def test_a_drape_hangs_at_a_side_in_one_piece_and_differs() -> None:
    grey = np.full((120, 160, 3), 90, np.uint8)
    before, changed, colours = grey.copy(), np.zeros((120, 160)), set()
    for seed in range(60):
        drawn = set_drape(grey, np.random.default_rng(seed)).astype(int)
        there = np.abs(drawn - grey).max(2) > 6
        changed += there / 60
        if there.mean() > 0.05:
            colours.add(tuple((drawn[there].mean(0) // 8).tolist()))
    assert np.array_equal(grey, before)
    sides = changed[:, :10].mean() + changed[:, -10:].mean()
    assert 0.6 < sides < 1.0
    assert abs(changed[:, :10].mean() - changed[:, -10:].mean()) < 0.4
    assert changed[:, 70:90].mean() < 0.1
    assert len(colours) > 25


def test_an_empty_part_has_nothing_of_the_object() -> None:
    photo = np.full((90, 120, 3), (10, 20, 200), np.uint8)
    occupied = np.zeros((90, 120), bool)
    occupied[20:60, 83:118] = True
    photo[occupied] = (250, 10, 10)
    for seed in range(8):
        ground = empty_part(photo, occupied, np.random.default_rng(seed))
        assert ground is not None
        assert ground.shape == photo.shape
        assert (ground == (10, 20, 200)).all()


def test_an_empty_part_is_mirrored_and_turned_now_and_then() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    parts = [empty_part(photo, np.zeros((96, 96), bool), np.random.default_rng(seed)) for seed in range(24)]
    ways = [photo, photo[:, ::-1], photo[::-1], photo[::-1, ::-1]]
    assert {next(i for i, way in enumerate(ways) if np.array_equal(part, way)) for part in parts} == {0, 1, 2, 3}


def test_what_fills_its_photo_leaves_no_empty_part() -> None:
    occupied = np.ones((60, 60), bool)
    assert empty_part(np.zeros((60, 60, 3), np.uint8), occupied, np.random.default_rng(0)) is None
    occupied[:, :12] = False  # a strip, a fifth of the photo
    assert empty_part(np.zeros((60, 60, 3), np.uint8), occupied, np.random.default_rng(0)) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_rectangle(seed: int) -> None:
    occupied = np.random.default_rng(seed).random((7, 9)) < 0.25
    top, bottom, left, right = _largest_empty(occupied)
    assert not occupied[top:bottom, left:right].any()
    areas = [
        (b - t) * (r - left_)
        for t in range(7)
        for b in range(t + 1, 8)
        for left_ in range(9)
        for r in range(left_ + 1, 10)
        if not occupied[t:b, left_:r].any()
    ]
    assert (bottom - top) * (right - left) == max(areas)
