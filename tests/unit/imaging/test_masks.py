from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.data.cache import decode_pair
from birefnet.data.facts import examine, read_mask
from birefnet.data.pairs import Pair
from birefnet.errors import DataError, ImageError
from birefnet.imaging.masks import read_map, truth_notes

RAMP = np.arange(0, 240, 5, np.uint8).reshape(6, 8)


def save(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "name", "kinds"),
    [
        ("L", "m.png", []),
        ("RGB", "m.png", []),
        ("I;16", "m.png", ["16-bit"]),
        ("LA", "m.png", ["alpha"]),
        ("RGBA", "m.tif", ["alpha"]),
        ("RGB", "m.webp", []),
        ("P", "m.png", ["palette"]),
        ("P", "m.gif", ["palette"]),
    ],
)
def test_maps_of_all_kinds_have_the_levels_that_were_meant(
    tmp_path: Path, mode: str, name: str, kinds: list[str]
) -> None:
    path = tmp_path / name
    grey = Image.fromarray(RAMP)
    if mode == "I;16":
        Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    elif mode == "P":
        image = Image.new("P", grey.size)
        image.putdata([list(RAMP.ravel()).index(level) for level in RAMP.ravel()])
        image.putpalette([int(level) for level in RAMP.ravel() for _ in range(3)])
        image.save(path)
    else:
        grey.convert(mode).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    read = read_map(path)
    assert np.array_equal(read.levels, RAMP)
    assert [note.kind for note in read.notes] == kinds


def test_which_channel_of_a_cut_out_is_used_is_said(tmp_path: Path) -> None:
    colours = np.dstack([np.full_like(RAMP, 200)] * 3 + [RAMP])
    read = read_map(save(colours, tmp_path / "cut.png"))
    assert np.array_equal(read.levels, RAMP)
    assert read.notes[0] == ("alpha", "RGBA: the alpha channel is used, not the colours")
    opaque = np.dstack([RAMP] * 3 + [np.full_like(RAMP, 255)])
    read = read_map(save(opaque, tmp_path / "opaque.png"))
    assert np.array_equal(read.levels, RAMP)
    assert "the colours are used, not the alpha channel, which is 255 everywhere" in read.notes[0].detail


def test_binary_colour_and_turned_maps(tmp_path: Path) -> None:
    black = RAMP > 100
    Image.fromarray(black).save(tmp_path / "one.png")
    assert np.array_equal(read_map(tmp_path / "one.png").levels, np.where(black, 255, 0))
    red = np.dstack([RAMP, RAMP * 0, RAMP * 0])
    assert [note.kind for note in read_map(save(red, tmp_path / "red.png")).notes] == ["colour"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=exif)
    read = read_map(tmp_path / "turned.png")
    assert np.array_equal(read.levels, np.rot90(RAMP, -1))
    assert [note.kind for note in read.notes] == ["turned"]


def test_what_is_no_map_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    whole = save(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("text.png", "not an image"),
        ("float.tif", "floating-point"),
        ("cut.png", "damaged or cut off"),
        ("none.png", "no such file"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message) as error:
            read_map(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(error.value)


def test_odd_truth_is_noticed() -> None:
    assert truth_notes(np.where(RAMP > 100, 255, 0).astype(np.uint8), 128) == []
    (note,) = truth_notes(np.ones((4, 4), np.uint8), 128)
    assert note.kind == "empty-truth"
    assert "is it a mask of zeros and ones?" in note.detail
    assert truth_notes(np.zeros((4, 4), np.uint8), 128)[0].kind == "empty-truth"
    (note,) = truth_notes(np.array([[0, 255], [255, 17]], np.uint8), 128)
    assert note == ("soft-truth", "25.00% of the pixels are neither 0 nor 255")


def as_palette(levels: np.ndarray) -> Image.Image:
    image = Image.fromarray(levels // 255).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


def as_cut_out(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*levels.shape, 3), 90, np.uint8), levels]))


@pytest.mark.parametrize(
    "form",
    [
        Image.fromarray,
        as_palette,
        as_cut_out,
        lambda levels: Image.fromarray(levels.astype(np.uint16) * 257),
        lambda levels: Image.fromarray(levels > 0),
        lambda levels: Image.fromarray(np.dstack([levels] * 3)),
    ],
    ids=["grey", "palette", "alpha", "16-bit", "bilevel", "rgb"],
)
def test_masks_are_read_alike_by_scoring_checking_and_training(tmp_path: Path, form) -> None:
    levels = np.zeros((40, 50), np.uint8)
    levels[10:30, 8:33] = 255
    pair = Pair("a", tmp_path / "photo.png", tmp_path / "mask.png")
    Image.new("RGB", (50, 40), (80, 120, 160)).save(pair.image)
    form(levels).save(pair.mask)
    np.testing.assert_array_equal(read_map(pair.mask).levels, levels)
    np.testing.assert_array_equal(read_mask(pair.mask), levels)
    np.testing.assert_array_equal(decode_pair(pair, (40, 50))[3], np.where(levels, 254, 0))
    (facts,) = examine([pair])
    assert facts.mask is not None
    assert facts.mask.foreground == (levels > 0).mean()


def test_masks_of_ones_are_refused_where_they_would_teach_that_all_is_background(tmp_path: Path) -> None:
    pair = Pair("a", tmp_path / "photo.png", tmp_path / "mask.png")
    Image.new("RGB", (50, 40)).save(pair.image)
    save(np.ones((40, 50), np.uint8), pair.mask)
    with pytest.raises(DataError, match=r"mask\.png: its greatest level is 1, foreground is 255: multiply it by 255"):
        decode_pair(pair, (40, 50))


def test_photos_are_trained_on_as_they_are_cut_out(tmp_path: Path) -> None:
    pair = Pair("a", tmp_path / "photo.png", tmp_path / "mask.png")
    save(np.full((40, 50), 255, np.uint8), pair.mask)
    save(np.full((40, 50), 200 * 257, np.uint16), pair.image)
    assert (decode_pair(pair, (40, 50))[:3] == 200).all()
    clear = np.zeros((40, 50, 4), np.uint8)
    save(clear, pair.image)
    assert (decode_pair(pair, (40, 50))[:3] == 255).all()
