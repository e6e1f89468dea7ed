from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD
from birefnet.data.augment import (
    GENTLE,
    HEADROOM,
    MODERATE,
    NONE,
    REFERENCE,
    Augmentation,
    Augmented,
    augment,
)
from birefnet.data.cache import FULL, UNLABELLED
from birefnet.data.looks import _blur
from birefnet.errors import ConfigError

ALL = replace(MODERATE, grey=0.3, coarse=0.5, blur=0.5, noise=0.5, jpeg=0.5, pepper=0.01, sharpness=(0.0, 2.0))


def seeded(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + index) for index in range(count)]


def changed(pixels: torch.Tensor, size: tuple[int, int], settings: Augmentation, seed: int = 0) -> Augmented:
    return augment(pixels, size, settings, seeded(len(pixels), seed))


def blobs(count: int = 8, height: int = 64, width: int = 64) -> torch.Tensor:
    """Photos whose red channel is the mask, with an unlabelled square."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.zeros(count, 4, height, width, dtype=torch.uint8)
    for index in range(count):
        inside = (ys - height / 2) ** 2 + (xs - width / 3) ** 2 < (height / 5 + index) ** 2
        pixels[index, 0] = inside * 255
        pixels[index, 1:3] = 100
        pixels[index, 3] = inside * FULL
    pixels[:, 3, -height // 4 :, -width // 4 :] = UNLABELLED
    return pixels


def colours(batch: Augmented) -> torch.Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return batch.images * std + mean


def photo(chelsea: str, height: int = 64, width: int = 80) -> torch.Tensor:
    with Image.open(chelsea) as image:
        array = np.asarray(image.convert("RGB").resize((width, height)))
    pixels = torch.zeros(1, 4, height, width, dtype=torch.uint8)
    pixels[0, :3] = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return pixels


def test_without_settings_it_only_normalises() -> None:
    pixels = blobs()
    batch = augment(pixels, (64, 64))
    torch.testing.assert_close(colours(batch), pixels[:, :3] / 255)
    assert set(batch.valid.unique().tolist()) == {0.0, 1.0}
    assert batch.valid.mean() == pytest.approx(15 / 16)
    torch.testing.assert_close(batch.target, (pixels[:, 3:] == FULL).float())


def test_a_warp_that_moves_nothing_changes_nothing() -> None:
    pixels = blobs()
    # Zoomed as good as not at all, so that it goes through the warp.
    still = changed(pixels, (64, 64), Augmentation(zoom=(1.0, 1.0 + 1e-7)))
    plain = augment(pixels, (64, 64))
    torch.testing.assert_close(still.images, plain.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(still.target, plain.target, atol=1e-3, rtol=0)
    assert (still.valid != plain.valid).float().mean() < 0.02  # only where a pixel is cut by rounding


def test_input_is_left_alone() -> None:
    pixels = blobs()
    before = pixels.clone()
    for settings in (ALL, REFERENCE, NONE):
        for size in ((48, 48), (64, 64)):
            changed(pixels, size, settings)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 96), (32, 96), (96, 64)])
@pytest.mark.parametrize("settings", [ALL, replace(REFERENCE, rotation=0.5), NONE], ids=["all", "reference", "none"])
def test_any_size_and_values_in_range(size: tuple[int, int], settings: Augmentation) -> None:
    batch = changed(blobs(), size, settings)
    assert batch.images.shape == (8, 3, *size)
    assert batch.target.shape == batch.valid.shape == (8, 1, *size)
    assert batch.images.isfinite().all()
    values = colours(batch)
    assert values.min() > -1e-5
    assert values.max() < 1 + 1e-5
    assert 0 <= batch.target.min() <= batch.target.max() <= 1


@pytest.mark.parametrize("settings", [ALL, replace(REFERENCE, rotation=0.5)], ids=["all", "reference"])
def test_a_photo_comes_out_the_same_in_any_batch(settings: Augmentation) -> None:
    pixels = blobs(12, 80, 64)
    pixels[::2, 3] = pixels[::2, 3] % UNLABELLED  # half of them have no unlabelled pixels
    together = augment(pixels, (64, 48), settings, seeded(12))
    other = changed(pixels, (64, 48), settings, seed=1)
    assert not torch.equal(together.images, other.images)
    threads = torch.get_num_threads()
    try:
        for parts, number in ((1, 1), (2, 3), (3, 2), (12, 1), (12, 4)):
            torch.set_num_threads(number)
            generators = seeded(12)
            step = 12 // parts
            shares = [
                augment(pixels[start : start + step], (64, 48), settings, generators[start : start + step])
                for start in range(0, 12, step)
            ]
            for name in ("images", "target", "valid"):
                assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(together, name))
    finally:
        torch.set_num_threads(threads)


def test_global_randomness_is_not_touched() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    changed(blobs(), (64, 64), ALL)
    assert torch.equal(torch.get_rng_state(), state)


WARPS = {
    "zoom": Augmentation(zoom=(0.65, 1.1)),
    "aspect": Augmentation(aspect=1.5),
    "flip": Augmentation(flip=1),
    "rotation": Augmentation(rotation=1, degrees=30),
    "strong": Augmentation(zoom=(0.65, 1.1), aspect=1.25, flip=0.5, rotation=1),
}


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
@pytest.mark.parametrize("kind", WARPS)
def test_mask_follows_the_photo_through_every_warp(kind: str, shape: tuple[int, int]) -> None:
    pixels = blobs(16, 64, 64)
    batch = changed(pixels, shape, WARPS[kind])
    red = colours(batch)[:, :1]
    # Red is the mask by construction, wherever it went; unlabelled pixels have no truth.
    torch.testing.assert_close(batch.target, red * batch.valid, atol=0.02, rtol=0)
    assert not (batch.target * (1 - batch.valid)).any()
    moved = (batch.target - augment(pixels, shape).target).abs().mean((1, 2, 3))
    assert (moved > 0.003).float().mean() > 0.85


LOOKS = {
    field.name: replace(NONE, **{field.name: value})
    for field in fields(Augmentation)
    for value in [
        {
            "brightness": (0.5, 0.6),
            "contrast": (0.4, 0.5),
            "colour": (0.0, 0.5),
            "sharpness": (2.0, 3.0),
            "hue": 40.0,
            "tint": 0.5,
            "pepper": 0.05,
        }.get(field.name, 1.0)
    ]
    if field.name in ("brightness", "contrast", "colour", "sharpness", "hue", "tint", "pepper")
    or field.name in ("grey", "coarse", "blur", "noise", "jpeg")
}


@pytest.mark.parametrize("kind", LOOKS)
def test_what_changes_looks_changes_the_photo_in_place_and_no_mask(kind: str, chelsea: str) -> None:
    pixels = photo(chelsea)
    pixels[:, 3, 10:40, 20:50] = FULL
    pixels[:, 3, 50:] = UNLABELLED
    before, after = augment(pixels, (64, 80)), changed(pixels, (64, 80), LOOKS[kind])
    assert torch.equal(before.target, after.target)
    assert torch.equal(before.valid, after.valid)
    assert not torch.allclose(before.images, after.images, atol=1e-3)
    # Still the same photo: alike in the large, and nowhere else more than where it is.
    small, other = (torch.nn.functional.avg_pool2d(colours(b).mean(1, keepdim=True), 8) for b in (before, after))
    shifts = {s: torch.corrcoef(torch.stack([small.roll(s, -1).flatten(), other.flatten()]))[0, 1] for s in (-1, 0, 1)}
    assert shifts[0] > 0.9
    assert max(shifts, key=lambda shift: float(shifts[shift])) == 0


def test_flip() -> None:
    batch = changed(blobs(), (64, 64), Augmentation(flip=1.0))
    assert torch.equal(batch.images, augment(blobs(), (64, 64)).images.flip(-1))
    assert torch.equal(batch.valid, augment(blobs(), (64, 64)).valid.flip(-1))


def test_rotation_is_by_pixels_also_where_sides_differ() -> None:
    pixels = torch.zeros(1, 4, 64, 128, dtype=torch.uint8)
    pixels[:, 3, 22:42, 54:74] = FULL  # a square in the middle
    turned = changed(pixels, (64, 128), Augmentation(rotation=1, degrees=45), seed=3).target[0, 0]
    ys, xs = turned.nonzero().unbind(1)
    assert turned.sum() == pytest.approx(400, rel=0.01)
    # A square stays as wide as high, at any angle.
    assert (ys.max() - ys.min()) == pytest.approx(int(xs.max() - xs.min()), abs=1)
    assert int(ys.max() - ys.min()) > 21


def test_unlabelled_pixels_bleed_into_no_truth() -> None:
    pixels = torch.zeros(4, 4, 64, 64, dtype=torch.uint8)
    pixels[:, 3, :, :32] = FULL
    pixels[:, 3, :, 32:] = UNLABELLED
    for settings in (MODERATE, replace(REFERENCE, rotation=1)):
        for size in ((32, 32), (40, 64), (64, 64)):
            batch = changed(pixels, size, settings)
            # All that is known is foreground.
            torch.testing.assert_close(batch.target, batch.valid, atol=0.02, rtol=0)
            assert 0 < batch.valid.mean() < 1


def test_share_of_changed_photos() -> None:
    values = colours(changed(blobs(400, 32, 32), (32, 32), Augmentation(grey=0.25)))
    grey = (values.amax(1) - values.amin(1)).amax((1, 2)) < 1e-3
    assert 0.18 < grey.float().mean() < 0.32


def test_colours_keep_grey_grey_when_hue_and_saturation_change() -> None:
    pixels = torch.full((16, 4, 32, 32), 120, dtype=torch.uint8)
    after = colours(changed(pixels, (32, 32), Augmentation(colour=(0.1, 1.9), hue=60.0)))
    torch.testing.assert_close(after, pixels[:, :3] / 255)


@pytest.mark.parametrize("stepwise", [False, True])
def test_brightness_and_contrast_stay_within_their_limits(stepwise: bool) -> None:
    pixels = torch.full((64, 4, 32, 32), 100, dtype=torch.uint8)
    settings = Augmentation(brightness=(0.7, 1.3), contrast=(0.7, 1.3), stepwise=stepwise)
    ratio = colours(changed(pixels, (32, 32), settings)) / (100 / 255)
    assert 0.69 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.31


ENHANCERS: dict[str, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "colour": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_equal_pillows(name: str, factor: float, chelsea: str) -> None:
    pixels = photo(chelsea)
    expected = ENHANCERS[name](Image.fromarray(pixels[0, :3].permute(1, 2, 0).numpy())).enhance(factor)
    settings = replace(NONE, **{name: (factor, factor)}, stepwise=True, zoom=(1.0, 1.0), quality=(1.0, 2.0))
    ours = colours(changed(pixels, (64, 80), settings))[0].permute(1, 2, 0).numpy() * 255
    # Pillow cuts off fractions: of the result, and of the smoothed copy or grey that it starts from.
    difference = ours - np.asarray(expected).astype(float)
    assert np.abs(difference).max() <= 1.01 + 0.51 * abs(1 - factor)


def test_enhancements_follow_each_other_as_pillows_do(chelsea: str) -> None:
    pixels = photo(chelsea)
    image = Image.fromarray(pixels[0, :3].permute(1, 2, 0).numpy())
    factors = {"brightness": 1.5, "contrast": 0.6, "colour": 1.8, "sharpness": 2.0}
    for name, factor in factors.items():
        image = ENHANCERS[name](image).enhance(factor)
    settings = Augmentation(stepwise=True, **{name: (factor, factor) for name, factor in factors.items()})
    ours = colours(changed(pixels, (64, 80), settings))[0].permute(1, 2, 0).numpy() * 255
    difference = np.abs(ours - np.asarray(image).astype(float))
    assert difference.mean() < 1.5
    assert difference.max() < 8


def test_blur_is_gaussian(chelsea: str) -> None:
    pixels = photo(chelsea)
    ours = pixels[0, :3].float() / 255
    _blur(ours, 1.5)
    image = Image.fromarray(pixels[0, :3].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(1.5))
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    inner = (slice(None), slice(6, -6), slice(6, -6))
    assert (ours[inner] - expected[inner]).abs().mean() < 0.004
    narrow = torch.rand(3, 2, 1)
    _blur(narrow, 1.5)
    assert narrow.isfinite().all()


def test_pepper_falls_on_its_part_of_the_pixels() -> None:
    pixels = torch.full((4, 4, 200, 200), 120, dtype=torch.uint8)
    values = colours(changed(pixels, (200, 200), Augmentation(pepper=0.0015)))
    black, white = ((values - level).abs().amax(1) < 1e-3 for level in (0, 1))
    assert 0.0013 < (black | white).float().mean() <= 0.0015
    assert 0.3 < black.sum() / (black | white).sum() < 0.7


def test_jpeg_keeps_colours_in_their_channels(chelsea: str) -> None:
    pixels = photo(chelsea)
    settings = Augmentation(jpeg=1, quality=(95, 95))
    after = colours(changed(pixels, (64, 80), settings))
    assert (after - pixels[:, :3] / 255).abs().mean() < 0.02
    worse = colours(changed(pixels, (64, 80), replace(settings, quality=(10, 10))))
    assert (worse - pixels[:, :3] / 255).abs().mean() > (after - pixels[:, :3] / 255).abs().mean()


def test_plain_photos_are_only_mirrored() -> None:
    pixels = blobs()
    plain = torch.tensor([True, False] * 4)
    for settings in (replace(REFERENCE, flip=1.0), REFERENCE, replace(REFERENCE, flip=0.0)):
        batch = augment(pixels, (64, 64), settings, seeded(8), plain)
        still = augment(pixels, (64, 64))
        for index in range(0, 8, 2):
            mirrored = torch.equal(batch.images[index], still.images[index].flip(-1))
            assert mirrored or torch.equal(batch.images[index], still.images[index])
            assert settings.flip == 0.5 or mirrored == bool(settings.flip)
            assert not torch.equal(batch.images[index + 1], still.images[index + 1])


def test_settings_that_zoom_ask_for_headroom() -> None:
    assert [each.headroom for each in (NONE, GENTLE, REFERENCE, MODERATE)] == [1.0, HEADROOM, 1.0, HEADROOM]


@pytest.mark.parametrize(
    "values",
    [
        {"flip": 1.5},
        {"jpeg": -0.1},
        {"brightness": (1.5, 0.5)},
        {"zoom": (0.0, 1.0)},
        {"quality": (0, 50)},
        {"aspect": 0.5},
        {"degrees": 200},
    ],
)
def test_impossible_settings(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Augmentation(**values)
