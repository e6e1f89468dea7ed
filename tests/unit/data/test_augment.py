import pytest
import torch

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD
from birefnet.data.augment import Augmentation, Batch, augment
from birefnet.data.cache import FULL, UNLABELLED

STILL = Augmentation(
    zoom=(1.0, 1.0),
    aspect=1.0,
    flip=0,
    rotation=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    tint=0,
    grey=0,
    noise=0,
    blur=0,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int = 8, size: int = 64) -> torch.Tensor:
    """Photos whose red channel is the mask, with an unlabelled square."""
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = torch.zeros(count, 4, size, size, dtype=torch.uint8)
    for index in range(count):
        inside = (ys - size / 2) ** 2 + (xs - size / 3) ** 2 < (size / 5 + index) ** 2
        pixels[index, 0] = inside * 255
        pixels[index, 1:3] = 100
        pixels[index, 3] = inside * FULL
    pixels[:, 3, -size // 4 :, -size // 4 :] = UNLABELLED
    return pixels


def colours(batch: Batch) -> torch.Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return batch.images * std + mean


def test_without_settings_it_only_normalises() -> None:
    pixels = blobs()
    batch = augment(pixels, 64)
    assert batch.images.shape == (8, 3, 64, 64)
    torch.testing.assert_close(colours(batch), pixels[:, :3] / 255)
    assert set(batch.valid.unique().tolist()) == {0.0, 1.0}
    assert batch.valid.mean() == pytest.approx(15 / 16)
    torch.testing.assert_close(batch.target, (pixels[:, 3:] == FULL).float())


def test_settings_that_change_nothing_change_nothing() -> None:
    pixels = blobs()
    still = augment(pixels, 64, STILL, seeded())
    plain = augment(pixels, 64)
    torch.testing.assert_close(still.images, plain.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(still.target, plain.target, atol=1e-3, rtol=0)
    assert (still.valid != plain.valid).float().mean() < 0.02  # only where a pixel is cut by rounding


def test_input_is_left_alone() -> None:
    pixels = blobs()
    before = pixels.clone()
    augment(pixels, 48, Augmentation(), seeded())
    augment(pixels, 64)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_any_size_and_values_in_range(size: int) -> None:
    batch = augment(blobs(), size, Augmentation(noise=1, blur=1, grey=0.5), seeded())
    assert batch.images.shape == (8, 3, size, size)
    assert batch.target.shape == batch.valid.shape == (8, 1, size, size)
    assert batch.images.isfinite().all()
    values = colours(batch)
    assert values.min() > -1e-5
    assert values.max() < 1 + 1e-5
    assert 0 <= batch.target.min() <= batch.target.max() <= 1


def test_a_seed_decides_everything() -> None:
    pixels = blobs()
    settings = Augmentation(noise=1)
    first, same, other = (augment(pixels, 64, settings, seeded(n)) for n in (1, 1, 2))
    assert torch.equal(first.images, same.images)
    assert torch.equal(first.target, same.target)
    assert not torch.equal(first.images, other.images)


def test_global_randomness_is_not_touched() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augment(blobs(), 64, Augmentation(noise=1, blur=1), seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_mask_follows_the_photo_through_every_warp() -> None:
    shape_only = Augmentation(
        rotation=1, brightness=0, contrast=0, saturation=0, hue=0, tint=0, grey=0, noise=0, blur=0
    )
    batch = augment(blobs(32), 64, shape_only, seeded())
    red = colours(batch)[:, :1]
    # Red is the mask by construction, wherever it went; unlabelled pixels have no truth.
    torch.testing.assert_close(batch.target, red * batch.valid, atol=0.01, rtol=0)
    assert not (batch.target * (1 - batch.valid)).any()
    moved = (batch.target - augment(blobs(32), 64).target).abs().mean((1, 2, 3))
    assert (moved > 0.005).float().mean() > 0.9


def test_flip() -> None:
    settings = Augmentation(**{**vars(STILL), "flip": 1.0})
    batch = augment(blobs(), 64, settings, seeded())
    torch.testing.assert_close(batch.target, augment(blobs(), 64).target.flip(-1), atol=1e-3, rtol=0)


def test_unlabelled_pixels_bleed_into_no_truth() -> None:
    pixels = torch.zeros(4, 4, 64, 64, dtype=torch.uint8)
    pixels[:, 3, :, :32] = FULL
    pixels[:, 3, :, 32:] = UNLABELLED
    for size in (32, 40, 64):
        batch = augment(pixels, size, Augmentation(), seeded())
        # All that is known is foreground.
        torch.testing.assert_close(batch.target, batch.valid, atol=0.02, rtol=0)


def test_share_of_changed_photos() -> None:
    settings = Augmentation(**{**vars(STILL), "grey": 0.25})
    batch = augment(blobs(400, 32), 32, settings, seeded())
    values = colours(batch)
    grey = (values.amax(1) - values.amin(1)).amax((1, 2)) < 1e-3
    assert 0.15 < grey.float().mean() < 0.35


def test_colours_keep_grey_grey_when_hue_and_saturation_change() -> None:
    pixels = torch.full((16, 4, 32, 32), 120, dtype=torch.uint8)
    settings = Augmentation(**{**vars(STILL), "saturation": 0.9, "hue": 60.0})
    torch.testing.assert_close(colours(augment(pixels, 32, settings, seeded())), pixels[:, :3] / 255)


def test_brightness_and_contrast_stay_within_their_limits() -> None:
    pixels = torch.full((64, 4, 32, 32), 100, dtype=torch.uint8)
    settings = Augmentation(**{**vars(STILL), "brightness": 0.3, "contrast": 0.3})
    ratio = colours(augment(pixels, 32, settings, seeded())) / (100 / 255)
    assert 0.69 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.31
