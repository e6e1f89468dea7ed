"""Photos in and masks out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.config import InputSpec
from birefnet.engines.testing import FakeEngine
from birefnet.errors import ImageError, OutputError
from birefnet.imaging.io import read_rgb, write_mask
from birefnet.imaging.postprocess import restore
from birefnet.imaging.preprocess import prepare
from birefnet.predictor import Predictor


def test_a_photo_is_read_as_it_is(astronaut: Path) -> None:
    image = read_rgb(astronaut)
    assert image.shape == (512, 512, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.asarray(Image.open(astronaut)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :15] = (255, 0, 0)
    upright[10:, 15:] = (0, 0, 255)
    # How a camera stores the upright picture for each value of the tag.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    assert np.array_equal(read_rgb(path), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.tiff" if mode in ("CMYK", "YCbCr") else "photo.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_rgb(path)
    assert image.shape == (4, 5, 3)
    assert image.min() >= 250


def test_what_is_no_photo_is_refused_in_one_line(tmp_path: Path, astronaut: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.open(astronaut).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    (tmp_path / "cut.png").write_bytes(astronaut.read_bytes()[:5000])
    for name in ("text.jpg", "empty.png", "cut.jpg", "cut.png", "missing.png", "."):
        with pytest.raises(ImageError) as error:
            read_rgb(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)


def test_preparation_stretches_and_normalises() -> None:
    spec = InputSpec(size=(64, 96))
    image = np.full((10, 20, 3), (0, 128, 255), np.uint8)
    x = prepare(image, spec)
    assert x.shape == (3, 64, 96)
    assert x.dtype == np.float32
    expected = (np.array([0, 128, 255]) / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(x, np.broadcast_to(expected[:, None, None], x.shape), rtol=1e-5)


def test_alpha_comes_back_to_the_photos_size_within_bounds() -> None:
    alpha = np.zeros((32, 32), np.float32)
    alpha[:, 16:] = 1
    restored = restore(alpha, (77, 131))
    assert restored.shape == (77, 131)
    assert restored.dtype == np.float32
    assert restored.min() == 0
    assert restored.max() == 1
    assert np.abs(restored[:, :60]).max() < 0.01
    assert np.abs(restored[:, 71:] - 1).max() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (31, 7), (512, 300)])
def test_the_predictor_takes_photos_of_any_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 51, np.uint8)
    engine = FakeEngine()
    alpha = Predictor(engine, InputSpec(size=(64, 32))).predict(image)
    assert engine.shapes == [(1, 3, 64, 32)]
    assert alpha.shape == size
    np.testing.assert_allclose(alpha, 0.2, atol=1e-5)


def test_masks_are_rounded_to_eight_bits(tmp_path: Path) -> None:
    alpha = np.linspace(0, 1, 511, dtype=np.float32)[None]
    write_mask(alpha, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), np.rint(alpha * 255))


def test_impossible_targets_are_refused_in_one_line(tmp_path: Path) -> None:
    alpha = np.zeros((2, 2), np.float32)
    for path in (tmp_path / "mask", tmp_path / "mask.txt", tmp_path / "nowhere" / "mask.png"):
        with pytest.raises(OutputError) as error:
            write_mask(alpha, path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == []
