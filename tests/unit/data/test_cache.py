import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_files import save_pair
from PIL import ExifTags, Image

from birefnet.data.cache import (
    FULL,
    UNLABELLED,
    Pack,
    decode_pair,
    open_raw,
    raw_bytes,
    raw_path,
    read_aspect,
    read_portable,
    write_portable,
    write_raw,
)
from birefnet.data.pairs import find_pairs
from birefnet.errors import DataError, OutputError
from birefnet.imaging.io import read_photo


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


def packed(folder: Path, size: tuple[int, int], cache: Path) -> Pack:
    pairs = find_pairs(folder)
    path = raw_path(pairs, size, cache)
    write_raw(path, pairs, size)
    return Pack(
        [pair.name for pair in pairs],
        open_raw(path, len(pairs), size),
        [None, 3] if len(pairs) == 2 else [None],
        [read_aspect(pair.image) for pair in pairs],
    )


def test_photos_are_stretched_and_masks_become_shares(folder: Path, tmp_path: Path) -> None:
    pack = packed(folder, (30, 40), tmp_path / "cache")
    assert pack.names == ["flower17-a", "people-b"]
    assert pack.pixels.shape == (2, 4, 30, 40)
    assert pack.size == (30, 40)
    expected = np.asarray(Image.fromarray(gradient_photo(60, 80)).resize((40, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pack.pixels[0, :3].transpose(1, 2, 0), expected)
    flower, people = pack.pixels[:, 3]
    assert (flower[:, :19] == FULL).all()
    assert (flower[:, 20:22] == UNLABELLED).all()
    assert (flower[:, 23:] == 0).all()
    # Elsewhere 128 is a grey level like others, above the threshold.
    assert (people[:, :21] == FULL).all()
    assert not (people == UNLABELLED).any()
    (path,) = (tmp_path / "cache").iterdir()
    assert path.stat().st_size == pytest.approx(raw_bytes(2, (30, 40)), abs=200)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_proportions_are_those_of_the_upright_photo(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(gradient_photo(40, 80)).save(path, exif=exif)
    height, width, _ = read_photo(path).rgb.shape
    assert read_aspect(path) == width / height == (2 if orientation < 5 else 0.5)


def test_proportions_of_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_text("none")
    with pytest.raises(DataError, match=r"photo\.jpg.*: replace or remove it"):
        read_aspect(path)


def test_edges_are_soft_by_shrinking_alone(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :30] = 200  # grey levels of the file do not matter, only which side of 127 they are on
    mask[:, 30:32] = 100
    save_pair(tmp_path / "data", "x", gradient_photo(64, 64), mask)
    (pair,) = find_pairs(tmp_path / "data")
    labels = decode_pair(pair, (16, 16))[3]
    assert (labels[:, :6] == FULL).all()
    assert 0 < labels[0, 7] < FULL
    assert (labels[:, 9:] == 0).all()


def test_mattes_keep_their_levels(tmp_path: Path) -> None:
    levels = np.arange(0, 256, 4, np.uint8)[None].repeat(8, 0)
    save_pair(tmp_path / "data", "x", gradient_photo(8, 64), levels)
    (pair,) = find_pairs(tmp_path / "data")
    np.testing.assert_allclose(decode_pair(pair, (8, 64), soft=True)[3] / FULL, levels / 255, atol=0.003)
    assert set(np.unique(decode_pair(pair, (8, 64))[3])) == {0, FULL}
    assert raw_path([pair], (8, 64), tmp_path) != raw_path([pair], (8, 64), tmp_path, soft=True)


def test_the_name_of_a_pack_tells_what_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    pairs = find_pairs(folder)
    names = {raw_path(pairs, (32, 32), tmp_path), raw_path(pairs, (32, 64), tmp_path)}
    names.add(raw_path(pairs[:1], (32, 32), tmp_path))
    assert raw_path(find_pairs(folder), (32, 32), tmp_path) in names
    os.utime(folder / "gt" / "people-b.png", ns=(1, 1))
    names.add(raw_path(pairs, (32, 32), tmp_path))
    assert len(names) == 4
    assert all(name.name.startswith("data-32x") for name in names)
    (folder / "im" / "people-b.png").unlink()
    with pytest.raises(DataError, match=r"people-b\.png: cannot be read"):
        raw_path(pairs, (32, 32), tmp_path)


def test_changing_mapped_pixels_leaves_the_file_alone(folder: Path, tmp_path: Path) -> None:
    first = packed(folder, (32, 32), tmp_path / "cache")
    before = first.pixels.copy()
    first.pixels[:] = 7
    (path,) = (tmp_path / "cache").iterdir()
    np.testing.assert_array_equal(open_raw(path, 2, (32, 32)), before)


def test_a_damaged_raw_pack(folder: Path, tmp_path: Path) -> None:
    packed(folder, (32, 32), tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    with pytest.raises(DataError, match="the pack is damaged: delete it"):
        open_raw(path, 3, (32, 32))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot be read .*: delete it"):
        open_raw(path, 2, (32, 32))


@pytest.mark.parametrize("form", [(60, 80), (1,)], ids=["wide", "square as of old"])
def test_portable_pack_keeps_labels_exactly_and_photos_nearly(
    folder: Path, tmp_path: Path, form: tuple[int, ...]
) -> None:
    size = (48, 64) if len(form) == 2 else (48, 48)
    pack = packed(folder, size, tmp_path / "cache")
    path = tmp_path / "data.npz"
    quality = write_portable(pack, path)
    if len(form) == 1:  # packs written before sizes had two sides and photos categories and proportions
        with np.load(path) as file:
            arrays = dict(file)
        arrays["size"] = np.array(48)
        del arrays["categories"], arrays["aspects"]
        np.savez(path, **arrays)
    again = read_portable(path)
    assert quality == 95
    assert again.names == pack.names
    assert again.size == size
    assert again.categories == (pack.categories if len(form) == 2 else [None, None])
    assert again.aspects == (pytest.approx([4 / 3] * 2) if len(form) == 2 else [1, 1])
    np.testing.assert_array_equal(again.pixels[:, 3], pack.pixels[:, 3])
    assert np.abs(again.pixels[:, :3].astype(int) - pack.pixels[:, :3]).mean() < 4


def test_portable_pack_lowers_the_quality_to_fit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    save_pair(tmp_path / "data", "x", noise, np.zeros((128, 128), np.uint8))
    pack = packed(tmp_path / "data", (128, 128), tmp_path / "cache")
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


def test_unreadable_files_leave_no_pack(folder: Path, tmp_path: Path) -> None:
    (folder / "im" / "people-b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"people-b\.png: not an image.*: replace or remove it"):
        packed(folder, (32, 32), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_photo_and_mask_of_different_sizes(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 79), np.uint8)).save(folder / "gt" / "people-b.png")
    with pytest.raises(DataError, match=r"people-b\.png: is 79 x 60, its photo 80 x 60"):
        packed(folder, (32, 32), tmp_path / "cache")


def test_a_cache_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/cache: the folder cannot be made .*: name another cache folder"):
        packed(folder, (32, 32), tmp_path / "file" / "cache")


def test_packing_that_is_stopped_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = (
        "from pathlib import Path; from birefnet.data.cache import raw_path, write_raw; "
        "from birefnet.data.pairs import find_pairs; "
        f"pairs = find_pairs({str(folder)!r}) * 20000; cache = Path({str(cache)!r}); "
        "write_raw(cache / 'x.npy', pairs, (16, 16), advance=lambda: print('.', flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert not list(cache.iterdir())


def test_a_portable_pack_with_long_names_keeps_to_its_limit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (200, 4, 16, 16), np.uint8)
    pack = Pack([f"{i:03d}" + "n" * 120 for i in range(200)], pixels, [None] * 200, [1.0] * 200)
    write_portable(pack, tmp_path / "pack.npz", 400_000)
    assert (tmp_path / "pack.npz").stat().st_size <= 400_000
