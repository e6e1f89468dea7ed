import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import cuts

from birefnet.data import photos as module
from birefnet.data.cache import Pack, write_portable
from birefnet.data.pairs import Pair
from birefnet.data.photos import PackPhotos, PairPhotos, open_photos
from birefnet.errors import DataError

SIZES = [(32, 32), (32, 64)]


@pytest.fixture
def pairs(tmp_path: Path, chelsea: Path) -> list[Pair]:
    return cuts(chelsea, tmp_path / "data")


def test_packs_hold_what_decoding_gives(pairs: list[Pair], tmp_path: Path) -> None:
    decoded = open_photos(pairs, SIZES, headroom=1.25)
    calls: list[tuple[int, int]] = []
    packed = open_photos(
        pairs, SIZES, cache=tmp_path / "cache", headroom=1.25, advance=lambda *done: calls.append(done)
    )
    assert isinstance(packed, PairPhotos)
    assert set(packed.packs) == {(40, 40), (40, 80)}
    assert calls == [(number, 14) for number in range(1, 15)]
    for height, width in [*SIZES, (64, 64)]:
        pixels = packed.read([3, 0, 3], height, width)
        assert pixels.shape == (3, 4, height * 5 // 4, width * 5 // 4)
        assert torch.equal(pixels, decoded.read([3, 0, 3], height, width))
    assert len(packed) == len(decoded) == 7


def test_packs_are_made_once_and_again_when_the_data_change(pairs: list[Pair], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    open_photos(pairs, SIZES, cache=cache)
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 2
    open_photos(pairs, SIZES, cache=cache, advance=lambda *_: pytest.fail("packed again"))
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made
    pairs[0].mask.touch()
    open_photos(pairs, SIZES, cache=cache)
    assert len(list(cache.iterdir())) == 4


def test_packs_that_do_not_fit_on_the_disk_are_not_made(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free", lambda _: 60_000)
    photos = open_photos(pairs, [(128, 128), (32, 32)], cache=tmp_path / "cache")
    assert isinstance(photos, PairPhotos)
    assert set(photos.packs) == {(32, 32)}
    assert photos.read([0], 128, 128).shape == (1, 4, 128, 128)


def test_what_photos_are(pairs: list[Pair]) -> None:
    photos = open_photos(pairs)
    assert photos.names == [pair.name for pair in pairs]
    assert photos.categories == [pair.category for pair in pairs]
    assert set(photos.sources) == {"cats", "flower17"}
    both = open_photos([*pairs, Pair("x", pairs[0].image, pairs[0].mask, "other")])
    assert both.names[0] == f"data/{pairs[0].name}"
    assert both.names[-1] == "other/x"
    with pytest.raises(DataError, match="no pairs"):
        open_photos([])


def test_a_portable_pack_has_one_size(pairs: list[Pair], tmp_path: Path) -> None:
    pixels = open_photos(pairs).read(range(7), 40, 64).numpy()
    pack = Pack([pair.name for pair in pairs], pixels, [pair.category for pair in pairs], [1.5] * 7)
    write_portable(pack, tmp_path / "data.npz")
    photos = open_photos(tmp_path / "data.npz", SIZES)
    assert isinstance(photos, PackPhotos)
    assert (photos.names, photos.categories, photos.aspects) == (pack.names, pack.categories, pack.aspects)
    assert photos.sources == [pair.source for pair in pairs]
    assert photos.read([2, 5], 999, 999).shape == (2, 4, 40, 64)
    np.testing.assert_array_equal(photos.read([2, 5], 32, 32)[:, 3], pixels[[2, 5], 3])


def test_other_processes_map_the_packs_themselves(pairs: list[Pair], tmp_path: Path) -> None:
    photos = open_photos(pairs, [(32, 32)], cache=tmp_path / "cache")
    expected = photos.read([1, 2], 32, 32)
    copy = pickle.dumps(photos)
    assert len(copy) < 7 * 4 * 32 * 32
    assert torch.equal(pickle.loads(copy).read([1, 2], 32, 32), expected)


def test_reading_gives_bytes_of_its_own(pairs: list[Pair], tmp_path: Path) -> None:
    photos = open_photos(pairs, [(32, 32)], cache=tmp_path / "cache")
    first = photos.read([1], 32, 32)
    before = first.clone()
    first.zero_()
    assert torch.equal(photos.read([1], 32, 32), before)
