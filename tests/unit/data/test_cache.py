import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.data.cache import FULL, UNLABELLED, load_pack, read_portable, write_portable
from birefnet.errors import DataError


def save_pair(folder: Path, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    for part, array in (("im", photo), ("gt", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.png")


def gradient_photo(height: int, width: int) -> np.ndarray:
    photo = np.empty((height, width, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 255, width)
    photo[..., 1] = np.linspace(0, 255, height)[:, None]
    photo[..., 2] = 90
    return photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mask = np.zeros((60, 80), np.uint8)
    mask[:, :40] = 255
    mask[:, 40:44] = 128
    for name in ("flower17-a", "people-b"):
        save_pair(tmp_path / "data", name, gradient_photo(60, 80), mask)
    return tmp_path / "data"


def test_photos_are_stretched_and_masks_become_shares(folder: Path, tmp_path: Path) -> None:
    pack = load_pack(folder, 40, tmp_path / "cache")
    assert pack.names == ["flower17-a", "people-b"]
    assert pack.pixels.shape == (2, 4, 40, 40)
    assert pack.size == 40
    expected = np.asarray(Image.fromarray(gradient_photo(60, 80)).resize((40, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pack.pixels[0, :3].transpose(1, 2, 0), expected)
    flower, people = pack.pixels[:, 3]
    assert (flower[:, :19] == FULL).all()
    assert (flower[:, 20:22] == UNLABELLED).all()
    assert (flower[:, 23:] == 0).all()
    # Elsewhere 128 is a grey level like others, above the threshold.
    assert (people[:, :21] == FULL).all()
    assert not (people == UNLABELLED).any()


def test_edges_are_soft_by_shrinking_alone(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :30] = 200  # grey levels of the file do not matter, only which side of 127 they are on
    mask[:, 30:32] = 100
    save_pair(tmp_path / "data", "x", gradient_photo(64, 64), mask)
    labels = load_pack(tmp_path / "data", 16, tmp_path / "cache").pixels[0, 3]
    assert (labels[:, :6] == FULL).all()
    assert 0 < labels[0, 7] < FULL
    assert (labels[:, 9:] == 0).all()


def test_a_pack_is_made_once_and_again_when_the_data_change(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_pack(folder, 32, cache)
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 2
    load_pack(folder, 32, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made
    os.utime(folder / "gt" / "people-b.png", ns=(1, 1))
    load_pack(folder, 32, cache)
    assert len(list(cache.iterdir())) == 4


def test_changing_a_loaded_pack_leaves_the_file_alone(folder: Path, tmp_path: Path) -> None:
    first = load_pack(folder, 32, tmp_path / "cache")
    before = first.pixels.copy()
    first.pixels[:] = 7
    np.testing.assert_array_equal(load_pack(folder, 32, tmp_path / "cache").pixels, before)


def test_portable_pack_keeps_labels_exactly_and_photos_nearly(folder: Path, tmp_path: Path) -> None:
    pack = load_pack(folder, 48, tmp_path / "cache")
    path = tmp_path / "data.npz"
    quality = write_portable(pack, path)
    again = load_pack(path, 999, tmp_path / "unused")
    assert quality == 95
    assert again.names == pack.names
    np.testing.assert_array_equal(again.pixels[:, 3], pack.pixels[:, 3])
    assert np.abs(again.pixels[:, :3].astype(int) - pack.pixels[:, :3]).mean() < 4
    assert not (tmp_path / "unused").exists()


def test_portable_pack_lowers_the_quality_to_fit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    save_pair(tmp_path / "data", "x", noise, np.zeros((128, 128), np.uint8))
    pack = load_pack(tmp_path / "data", 128, tmp_path / "cache")
    path = tmp_path / "data.npz"
    assert write_portable(pack, path) == 95
    limit = round(0.7 * path.stat().st_size)
    assert write_portable(pack, path, limit) < 95
    assert path.stat().st_size <= limit
    with pytest.raises(DataError, match="pack at a smaller size"):
        write_portable(pack, path, limit=1000)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04cut", None])
def test_damaged_portable_pack(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: cannot be read as a pack"):
        read_portable(path)


def test_npz_that_is_no_pack(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, something=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as a pack"):
        read_portable(path)


def test_unreadable_image(folder: Path, tmp_path: Path) -> None:
    (folder / "im" / "people-b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"people-b\.png: cannot be read as an image"):
        load_pack(folder, 32, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_photo_and_mask_of_different_sizes(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 79), np.uint8)).save(folder / "gt" / "people-b.png")
    with pytest.raises(DataError, match=r"people-b\.png: is 79 x 60, its photo 80 x 60"):
        load_pack(folder, 32, tmp_path / "cache")
