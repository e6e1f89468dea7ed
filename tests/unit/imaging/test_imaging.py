"""Photos in and masks out."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from birefnet.config import InputSpec
from birefnet.engines.testing import FakeEngine
from birefnet.errors import ImageError, OutputError
from birefnet.imaging.io import read_photo, write_image
from birefnet.imaging.postprocess import restore
from birefnet.imaging.preprocess import grey_world, mirrored, prepare
from birefnet.predictor import Predictor


def test_a_photo_is_read_as_it_is(astronaut: Path) -> None:
    image = read_photo(astronaut).rgb
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
    assert np.array_equal(read_photo(path).rgb, upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_modes_become_rgb(mode: str) -> None:
    colours = (
        [(0, 0, 0), (255, 255, 255)] if mode in ("1", "L", "LA") else [(200, 80, 60), (60, 80, 160), (250, 250, 250)]
    )
    picture = Image.new("RGB", (len(colours), 4))
    for x, colour in enumerate(colours):
        picture.paste(colour, (x, 0, x + 1, 4))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    else:
        image = picture.convert(mode if mode != "PA" else "P", palette=Image.Palette.ADAPTIVE)
        image = image.convert(mode)
    assert image.mode == mode
    rgb = read_photo(image).rgb
    assert rgb.shape == (4, len(colours), 3)
    assert np.abs(rgb.astype(int) - np.asarray(picture)).max() <= 6  # HSV and Lab round


def test_files_bytes_images_and_arrays_give_the_same(astronaut: Path) -> None:
    with Image.open(astronaut) as image:
        array = np.asarray(image)
        photos = [read_photo(source) for source in (str(astronaut), astronaut, astronaut.read_bytes(), image, array)]
    assert all(np.array_equal(photo.rgb, array) for photo in photos)
    assert read_photo(photos[0]) is photos[0]
    assert read_photo(array[..., 0]).rgb.shape == (512, 512, 3)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(4, np.uint8)],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="must be uint8"):
        read_photo(array)


@pytest.mark.parametrize("how", ["RGBA", "LA", "P", "RGB"])
def test_transparency_becomes_opacity_on_white(tmp_path: Path, how: str) -> None:
    rgba = np.full((2, 3, 4), (60, 60, 60, 255), np.uint8)
    rgba[:, 1] = (90, 90, 90, 0)
    path, image = tmp_path / "photo.png", Image.fromarray(rgba)
    if how in ("RGBA", "LA"):
        image.convert(how).save(path)
    elif how == "RGB":  # one colour that stands for transparent
        image.convert("RGB").save(path, transparency=(90, 90, 90))
    else:
        palette = Image.new("P", (3, 2))
        palette.putpalette([60, 60, 60, 90, 90, 90])
        palette.putdata([0, 1, 0] * 2)
        palette.save(path, transparency=1)
    photo = read_photo(path)
    assert photo.opacity is not None
    assert photo.opacity.dtype == np.float32
    assert photo.opacity.tolist() == [[1, 0, 1]] * 2
    assert photo.rgb[0, :, 0].tolist() == [60, 255, 60]
    alpha = Predictor(FakeEngine(), InputSpec(size=(32, 32))).predict(photo).alpha
    assert (alpha[:, 1] == 0).all()
    assert (alpha[:, 0] > 0.1).all()


def test_a_photo_that_uses_no_transparency_is_opaque() -> None:
    assert read_photo(Image.new("RGBA", (2, 2), (1, 2, 3, 255))).opacity is None


def test_colour_profile_and_resolution_are_kept(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", icc_profile=srgb, dpi=(240, 120))
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.icc_profile == srgb
    assert photo.dpi == (240, 120)
    plain = read_photo(Image.new("RGB", (4, 4)))
    assert (plain.icc_profile, plain.dpi, plain.notices) == (None, None, ())


def test_a_profile_that_is_not_for_rgb_is_not_kept() -> None:
    image = Image.new("L", (4, 4))
    image.info["icc_profile"] = bytes(16) + b"GRAY" + bytes(200)
    assert read_photo(image).icc_profile is None


@pytest.mark.parametrize("dpi", [(0, 0), (-1, 72), (float("nan"), 72), (float("inf"), 72), "high", (72,), None])
def test_nonsense_for_a_resolution_is_ignored(dpi: object) -> None:
    image = Image.new("RGB", (4, 4))
    image.info["dpi"] = dpi
    assert read_photo(image).dpi is None


def test_of_animations_the_first_frame_is_used_and_said_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "a.webp" else {})
        )
        photo = read_photo(tmp_path / name)
        assert photo.notices == ("has 2 frames; the first one is used",)
        assert photo.rgb[0, 0].tolist() == [255, 0, 0]


def test_photos_with_too_many_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("1", (1000, 1001)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large.png: 1000 x 1001 pixels are over the limit of 1,000,000"):
        read_photo(tmp_path / "large.png", max_pixels=1_000_000)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match=r"bomb.png: too many pixels"):
        read_photo(tmp_path / "bomb.png")


def test_damaged_headers_are_not_taken_for_gigantic_photos() -> None:
    with pytest.raises(ImageError, match="sides of more than 65,535 pixels"):
        read_photo(Image.new("1", (70_000, 10)))
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60)).save(buffer, "WEBP")
    with pytest.raises(ImageError, match="over the limit of 3,333"):  # a third, for what its decoder takes
        read_photo(buffer.getvalue(), max_pixels=10_000 - 1)


def test_tall_photos_are_turned_into_rgb_strip_by_strip() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (1300, 9, 4), np.uint8)
    rgba[:600, :, 3] = 255  # the first strip is opaque, the others are not
    photo = read_photo(Image.fromarray(rgba))
    assert photo.opacity is not None
    np.testing.assert_allclose(photo.opacity, rgba[..., 3] / 255, atol=1e-6)
    share = rgba[..., 3:] / 255
    assert np.abs(photo.rgb - (share * rgba[..., :3] + (1 - share) * 255)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_photos_of_one_pixel_a_side_are_photos(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    assert read_photo(tmp_path / "thin.png").rgb.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / name)
    image = read_photo(tmp_path / name).rgb
    expected = np.rint(values / 257).astype(np.uint8)
    assert all(np.array_equal(image[..., channel], expected) for channel in range(3))


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"float.tif: a floating-point image"):
        read_photo(tmp_path / "float.tif")


def test_odd_but_readable_files_give_no_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = bytes([0, 128, 255])
    palette.save(tmp_path / "palette.png")
    assert read_photo(tmp_path / "palette.png").rgb.shape == (4, 4, 3)


def test_what_is_no_photo_is_refused_in_one_line(tmp_path: Path, astronaut: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.open(astronaut).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    (tmp_path / "cut.png").write_bytes(astronaut.read_bytes()[:5000])
    for name in ("text.jpg", "empty.png", "cut.jpg", "cut.png", "missing.png", "."):
        with pytest.raises(ImageError) as error:
            read_photo(tmp_path / name)
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


def test_a_grey_world_has_no_cast_of_colour(astronaut: Path) -> None:
    def means(images: np.ndarray, spec: InputSpec) -> np.ndarray:
        return images[0].mean((1, 2)) * np.array(spec.std) + np.array(spec.mean)

    rgb = np.rint(read_photo(astronaut).rgb * np.array([0.8, 0.6, 0.3])).astype(np.uint8)  # under a warm lamp
    left_as_it_is, half, whole = (InputSpec(size=(96, 64), balance=balance) for balance in (0, 0.5, 1))
    images = prepare(rgb, whole)[None]
    assert np.array_equal(grey_world(images, left_as_it_is), np.ones((1, 3)))
    assert np.array_equal(mirrored(images, grey_world(images, left_as_it_is), whole), images[..., ::-1])

    cast = means(images, whole)
    gains = grey_world(images, whole)
    assert gains.shape == (1, 3)
    assert gains.dtype == np.float32
    assert gains[0] == pytest.approx(cast.mean() / cast, rel=1e-4)
    assert grey_world(images, half) == pytest.approx(np.sqrt(gains), rel=1e-4)

    looked = mirrored(images, gains, whole)
    assert looked.shape == images.shape
    assert looked.dtype == np.float32
    assert looked.flags.c_contiguous
    levels = looked[0].transpose(1, 2, 0) * np.array(whole.std) + np.array(whole.mean)
    assert levels.min() >= -1e-6
    assert levels.max() <= 1 + 1e-6
    # Nearly grey: what would be brighter than white is cut off.
    balanced = means(looked, whole)
    assert np.ptp(balanced) < 0.2 * np.ptp(cast)
    dark = np.abs(levels - 0.5).max(-1) < 0.4
    expected = (images[0, :, :, ::-1].transpose(1, 2, 0) * whole.std + whole.mean) * gains[0]
    assert np.abs(levels - expected)[dark].max() < 1e-5


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 1)])
def test_photos_of_one_colour_have_gains_too(colour: tuple[int, int, int]) -> None:
    spec = InputSpec(size=(32, 32), balance=1)
    images = prepare(np.full((40, 50, 3), colour, np.uint8), spec)[None]
    gains = grey_world(images, spec)
    assert np.isfinite(gains).all()
    assert (gains > 0).all()
    if len(set(colour)) == 1:
        assert gains == pytest.approx(np.ones((1, 3)), abs=1e-4)
    assert np.isfinite(mirrored(images, gains, spec)).all()


def test_each_photo_of_a_batch_has_gains_of_its_own() -> None:
    spec = InputSpec(size=(32, 32), balance=0.7)
    photos = [np.full((32, 32, 3), colour, np.uint8) for colour in ((200, 100, 50), (90, 90, 90), (30, 60, 120))]
    images = np.stack([prepare(photo, spec) for photo in photos])
    together = mirrored(images, grey_world(images, spec), spec)
    for index in range(3):
        one = images[index : index + 1]
        assert np.array_equal(together[index : index + 1], mirrored(one, grey_world(one, spec), spec))


def test_preparation_is_antialiased_bilinear(astronaut: Path) -> None:
    # Written out: each output pixel is the mean of the photo under a triangle as wide as the shrinking asks for.
    photo = read_photo(astronaut).rgb[:300, :400]
    expected = photo.astype(np.float64)
    for axis, side in ((0, 96), (1, 64)):
        scale = expected.shape[axis] / side
        centres = (np.arange(side) + 0.5) * scale
        distances = np.abs(np.arange(expected.shape[axis]) + 0.5 - centres[:, None]) / scale
        weights = (1 - distances).clip(0)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = np.moveaxis(np.tensordot(weights, expected, axes=(1, axis)), 0, axis)
    x = prepare(photo, InputSpec(size=(96, 64)))
    pixels = (x.transpose(1, 2, 0) * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406)) * 255
    assert np.abs(pixels - expected).max() < 1.5  # Pillow rounds to 8 bit after each axis


def test_the_papers_policy_is_bilinear_without_antialiasing() -> None:
    # Halved, each pixel is the mean of the four around its centre; at a quarter, of the middle four of sixteen.
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    middle = image.reshape(64, 4, 64, 4, 3)[:, 1:3, :, 1:3].astype(float).mean(axis=(1, 3))
    x = prepare(image, InputSpec(size=(64, 64), resize="cv2_linear", mean=(0, 0, 0), std=(1, 1, 1)))
    assert np.abs(x.transpose(1, 2, 0) * 255 - middle).max() <= 1
    assert np.abs(prepare(image, InputSpec(size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1))) - x).max() > 0.1


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (1, 1), (300, 2)])
def test_the_papers_way_back_aligns_corners(size: tuple[int, int]) -> None:
    alpha = np.random.default_rng(0).random((32, 32), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(alpha)[None, None], size=size, mode="bilinear", align_corners=True
    )
    actual = restore(alpha, size, "cv2_linear")
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected[0, 0].numpy(), atol=1e-5)


def test_the_policy_of_the_weights_is_used_on_the_way_in_and_back() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    alphas = [
        Predictor(FakeEngine(), InputSpec(size=(32, 32), resize=resize)).predict(photo).alpha
        for resize in ("pil_bilinear", "cv2_linear")
    ]
    assert np.abs(alphas[0] - alphas[1]).max() > 0.05


def test_alpha_is_enlarged_by_cubic_interpolation() -> None:
    # Keys' cubic with a = -0.5, Pillow's, at the middle between two samples: (-1, 9, 9, -1) / 16.
    alpha = np.zeros((8, 8), np.float32)
    alpha[:, 4:] = 0.8
    enlarged = restore(alpha, (8, 24))
    assert enlarged[0, 13] == pytest.approx(0.8)  # the centre of sample 4
    assert enlarged[0, 10] == pytest.approx(0.0, abs=1e-6)  # the centre of sample 3

    def cubic(distance: float) -> float:
        d = abs(distance)
        if d < 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    for column in range(6, 18):
        place = (column + 0.5) / 3 - 0.5
        expected = sum(cubic(place - i) * alpha[0, i] for i in range(8))
        assert enlarged[0, column] == pytest.approx(min(max(expected, 0), 1), abs=1e-5)


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
    alpha = Predictor(engine, InputSpec(size=(64, 32))).predict(image).alpha
    assert engine.shapes == [(1, 3, 64, 32)]
    assert alpha.shape == size
    np.testing.assert_allclose(alpha, 0.2, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".webp", ".PNG"])
def test_lossless_formats_lose_nothing(tmp_path: Path, suffix: str, mode: str) -> None:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(1, 256, (31, 45, *channels), np.uint8)
    path = tmp_path / f"image{suffix}"
    write_image(Image.fromarray(pixels), path)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image.convert(mode)), pixels)


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"use \.png"):
        write_image(Image.new("L", (20_000, 1)), tmp_path / "mask.webp")
    with pytest.raises(OutputError, match=r"transparency cannot be written as \.jpg"):
        write_image(Image.new("RGBA", (2, 2)), tmp_path / "cutout.jpg")
    assert list(tmp_path.iterdir()) == []


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write_image(Image.new("L", (2, 2)), path)
    assert path.exists()


def test_impossible_suffixes_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("mask", "mask.txt", "mask.psd", "mask.ico"):
        with pytest.raises(OutputError) as error:
            write_image(Image.new("L", (2, 2)), tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
    assert list(tmp_path.iterdir()) == []
