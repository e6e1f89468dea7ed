from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import InputError
from birefnet.imaging.io import Photo, read_photo, write_image
from birefnet.imaging.matte import Matte


def matte_of(alpha: np.ndarray, colour: tuple[int, int, int] = (200, 100, 50), **facts: object) -> Matte:
    rgb = np.full((*alpha.shape, 3), colour, np.uint8)
    return Matte(Photo(rgb, **facts), alpha.astype(np.float32))  # type: ignore[arg-type]


@pytest.fixture
def square() -> Matte:
    alpha = np.zeros((40, 60))
    alpha[10:30, 20:45] = 1
    return matte_of(alpha)


def test_mask_and_cutout_carry_alpha(square: Matte) -> None:
    soft = matte_of(np.linspace(0, 1, 256).reshape(16, 16))
    assert np.array_equal(np.asarray(soft.mask()).ravel(), np.arange(256))
    for decontaminate in (True, False):
        rgba = soft.cutout(decontaminate=decontaminate)
        assert rgba.mode == "RGBA"
        assert np.array_equal(np.asarray(rgba)[..., 3].ravel(), np.arange(256))
    assert np.array_equal(np.asarray(square.cutout(decontaminate=False))[..., :3], square.photo.rgb)


def test_composites_mix_by_alpha() -> None:
    alpha = np.linspace(0, 1, 101)[None].repeat(3, axis=0)
    matte = matte_of(alpha, (200, 100, 50))
    mixed = np.asarray(matte.composite("#0064ff", decontaminate=False)).astype(float)
    expected = alpha[..., None] * (200, 100, 50) + (1 - alpha[..., None]) * (0, 100, 255)
    assert np.abs(mixed - expected).max() <= 1


def test_an_image_behind_covers_the_photo_without_distortion(square: Matte) -> None:
    stripes = Image.new("RGB", (10, 100), "blue")
    stripes.paste("red", (0, 40, 10, 60))
    mixed = np.asarray(square.composite(stripes))
    assert mixed.shape == (40, 60, 3)
    # 60 px wide means scaled 6 times: the middle 40 of 600 rows are all within the red stripe.
    assert (mixed[0] == (255, 0, 0)).all()
    assert (mixed[20, 30] == (200, 100, 50)).all()


def test_behind_blur_is_the_photos_background_without_the_object() -> None:
    alpha = np.zeros((120, 160), np.float32)
    alpha[40:80, 50:110] = 1
    rgb = np.where(alpha[..., None] > 0, (255, 0, 0), (0, 0, 200)).astype(np.uint8)
    blurred = np.asarray(Matte(Photo(rgb), alpha).composite("blur"))
    assert (blurred[alpha == 1] == (255, 0, 0)).all()
    outside = blurred[alpha == 0].astype(int)
    assert np.abs(outside - (0, 0, 200)).max() <= 2


@pytest.mark.parametrize("colour", ["no-colour", "#12", "rgb(1,2)", ""])
def test_what_is_no_colour_is_refused(square: Matte, colour: str) -> None:
    with pytest.raises(InputError, match="is no colour"):
        square.composite(colour)


def test_trimap_keeps_an_unknown_band_around_the_edge(square: Matte) -> None:
    trimap = np.asarray(square.trimap(3))
    assert sorted(np.unique(trimap)) == [0, 128, 255]
    assert (trimap[13:27, 23:42] == 255).all()
    assert (trimap[20, 17:23] == 128).all()
    assert trimap[20, 16] == 0
    soft = matte_of(np.full((5, 5), 0.3))
    assert (np.asarray(soft.trimap()) == 128).all()


def test_box_and_crop(square: Matte) -> None:
    assert square.box() == (10, 20, 30, 45)
    assert square.box(15) == (0, 5, 40, 60)
    cropped = square.crop(2)
    assert cropped.alpha.shape == cropped.photo.rgb.shape[:2] == (24, 29)
    empty = matte_of(np.zeros((4, 4)))
    assert empty.box() is None
    assert empty.crop() is empty


def test_edges_are_hardened_softened_and_moved(square: Matte) -> None:
    soft = matte_of(np.linspace(0, 1, 11)[None])
    assert soft.harden(0.3).alpha.tolist() == [[0] * 3 + [1] * 8]
    assert square.grow(4).box() == (6, 16, 34, 49)
    assert square.grow(-4).box() == (14, 24, 26, 41)
    feathered = square.feather(2).alpha
    assert 0.4 < feathered[20, 20] < 0.65
    assert feathered[20, 32] == pytest.approx(1, abs=1e-3)
    assert feathered.min() >= 0
    assert feathered.max() <= 1
    assert square.grow(0) is square
    assert square.feather(0) is square


def test_levels_make_insides_solid_and_keep_the_slope_of_edges() -> None:
    soft = matte_of(np.linspace(0, 1, 11)[None])
    assert soft.levels(0.2, 0.7).alpha[0] == pytest.approx([0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], abs=1e-6)
    assert np.array_equal(soft.levels(0, 1).alpha, soft.alpha)
    assert soft.levels(0.1, 0.3).alpha.dtype == np.float32
    grey = matte_of(np.full((4, 4), 0.9))
    assert (grey.levels(0.1, 0.9).alpha == 1).all()


@pytest.mark.parametrize("levels", [(0.5, 0.5), (0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1)])
def test_impossible_levels_are_refused(square: Matte, levels: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"^levels .*: must be two numbers from 0 to 1, the lower one first$"):
        square.levels(*levels)


def test_profile_and_resolution_reach_the_file(tmp_path: Path) -> None:
    matte = matte_of(np.ones((8, 8)), icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 200, dpi=(300.0, 150.0))
    for name, image in (("a.png", matte.cutout()), ("a.jpg", matte.composite("red")), ("a.tiff", matte.cutout())):
        write_image(image, tmp_path / name)
        photo = read_photo(tmp_path / name)
        assert photo.icc_profile == matte.photo.icc_profile
        assert photo.dpi == pytest.approx((300, 150), abs=0.1)
    assert "icc_profile" not in matte.mask().info
    assert matte.mask().info["dpi"] == (300, 150)
