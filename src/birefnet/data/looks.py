"""What photos look like: colours, sharpness, noise and the marks of compression, as tensor operations on any device.

For `birefnet.data.augment`, whose rule holds here too: no rounding may depend on how the work is parted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.299, 0.587, 0.114)


class Look(NamedTuple):
    """How one photo is changed; factors as those of Pillow's ImageEnhance.

    Attributes:
        brightness: factor.
        contrast: factor.
        colour: factor.
        sharpness: factor.
        hue: turn in radians.
        tint: factors of red, green and blue.
        grey: whether it loses its colours.
        coarse: the lower resolution it is shown from, as a share; None for none.
        blur: standard deviation of a Gaussian in pixels; None for none.
        noise: standard deviation of noise; None for none.
        quality: of a JPEG compression; None for none.
        pepper: part of the pixels that become black or white.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    colour: float = 1.0
    sharpness: float = 1.0
    hue: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grey: bool = False
    coarse: float | None = None
    blur: float | None = None
    noise: float | None = None
    quality: float | None = None
    pepper: float = 0.0


def change_looks(
    images: Tensor,
    looks: Sequence[Look],
    generators: Sequence[torch.Generator],
    *,
    stepwise: bool,
    recolours: bool,
    sharpens: bool,
) -> Tensor:
    """Change colours and quality.

    What is done is said for the whole of a run, not told from the looks: a photo that is not changed must come out the
    same whether others of its batch are or not.

    Args:
        images: (B, 3, H, W), values up to 255; may be overwritten.
        looks: what to do to each photo.
        generators: of noise, one for each photo; not needed where there is none.
        stepwise: brightness, contrast and colour follow each other as in Pillow.
        recolours: there is more to change of colours.
        sharpens: sharpness may look.

    Returns:
        (B, 3, H, W) of its own, values up to 1.
    """
    if stepwise:
        _enhance(images, looks)
        looks = [look._replace(brightness=1.0, contrast=1.0, colour=1.0) for look in looks]
    images = _recolour(images, looks) if recolours else images / 255
    if sharpens:
        _sharpen(images, _column(images, [look.sharpness for look in looks]))
    for index, look in enumerate(looks):
        _degrade(images[index], look, generators[index] if generators else None)
    return images


def resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch to a size, without aliasing where that is smaller: (B, C, h, w) -> (B, C, H, W)."""
    before = tuple(planes.shape[-2:])
    if before == size:
        return planes
    shrinks = size[0] < before[0] or size[1] < before[1]
    return F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=shrinks)


def _column(images: Tensor, values: Sequence[float]) -> Tensor:
    return images.new_tensor(values).view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return (red * _LUMA[0]).add_(green * _LUMA[1]).add_(blue * _LUMA[2])


def _mean_grey(images: Tensor) -> Tensor:
    """Mean grey level, a whole number as Pillow takes it: (B, 1, 1, 1)."""
    red, green, blue = images.mean((2, 3), dtype=torch.float64).view(-1, 3, 1, 1, 1).unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).round().to(images.dtype)


def _enhance(images: Tensor, looks: Sequence[Look]) -> None:
    """Change brightness, contrast and colour as Pillow's ImageEnhance does, in place: values up to 255."""
    brightness, contrast, colour = (
        _column(images, [getattr(look, name) for look in looks]) for name in ("brightness", "contrast", "colour")
    )
    images.mul_(brightness).clamp_(0, 255)
    towards = _mean_grey(images) * (1 - contrast)
    images.mul_(contrast).add_(towards).clamp_(0, 255)
    towards = _luma(images).mul_(1 - colour)
    images.mul_(colour).add_(towards).clamp_(0, 255)


def _recolour(images: Tensor, looks: Sequence[Look]) -> Tensor:
    """Change all that concerns colour at once, one affine map a photo: values up to 255 -> up to 1."""
    maps = images.new_tensor([_colour_map(look) for look in looks]).view(-1, 3, 3, 1, 1)
    shifts = _column(images, [look.brightness * (1 - look.contrast) / 255 for look in looks])
    shifts = shifts * _mean_grey(images)
    result = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    red, green, blue = images.unbind(1)
    for channel in range(3):
        row = maps[:, channel]
        plane = result[:, channel]
        torch.mul(red, row[:, 0], out=plane)
        plane.add_(green * row[:, 1]).add_(blue * row[:, 2]).add_(shifts[:, 0])
    return result.clamp_(0, 1)


def _colour_map(look: Look) -> list[list[float]]:
    """Colours to colours: hue is turned, then saturation, tint, brightness and contrast are changed, and all is / 255.

    The turn is a rotation of RGB about its grey axis (Rodrigues' formula).
    """
    colour = 0.0 if look.grey else look.colour
    cosine, sine = math.cos(look.hue), math.sin(look.hue)
    turn = [
        [cosine * (i == j) + (1 - cosine) / 3 + sine / math.sqrt(3) * ((0, -1, 1)[(j - i) % 3]) for j in range(3)]
        for i in range(3)
    ]
    greys = [sum(_LUMA[k] * turn[k][j] for k in range(3)) for j in range(3)]
    gain = look.brightness * look.contrast / 255
    return [[gain * look.tint[i] * (colour * turn[i][j] + (1 - colour) * greys[j]) for j in range(3)] for i in range(3)]


def _sharpen(images: Tensor, factors: Tensor) -> None:
    """Move photos away from their smoothed copy, or towards it, as Pillow's ImageEnhance does; in place, up to 1.

    The smoothing weighs a pixel 5 and its eight neighbours 1, and leaves the border alone.
    """
    rows = images[:, :, :-2] + images[:, :, 1:-1]
    rows += images[:, :, 2:]
    smooth = rows[..., :-2] + rows[..., 1:-1]
    smooth += rows[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    smooth.add_(inner * 4).div_(13).mul_(1 - factors)
    inner.mul_(factors).add_(smooth).clamp_(0, 1)


def _degrade(image: Tensor, look: Look, generator: torch.Generator | None) -> None:
    """Lower the quality of one photo as drawn, in place: (3, H, W) up to 1."""
    height, width = image.shape[-2:]
    if look.coarse is not None:
        small = (max(1, round(height * look.coarse)), max(1, round(width * look.coarse)))
        image.copy_(resize(resize(image[None], small), (height, width))[0])
    if look.blur is not None:
        _blur(image, look.blur)
    if look.noise is not None:
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        # The rarest draws, 0.3% of them, become black and white.
        specks = noise.abs() > 3
        light = (noise > 0).to(image.dtype)
        image.copy_(torch.where(specks, light, noise.mul_(look.noise).add_(image).clamp_(0, 1)))
    if look.pepper:
        count = int(look.pepper * height * width)
        places = torch.randint(height * width, (count,), generator=generator)
        white = torch.rand(count, generator=generator) < 0.5
        flat = image.flatten(1)
        flat[:, places[white].to(image.device)] = 1
        flat[:, places[~white].to(image.device)] = 0
        image.copy_(flat.view_as(image))
    if look.quality is not None:
        image.copy_(_through_jpeg(image, round(look.quality)))


def _blur(image: Tensor, sigma: float) -> None:
    radius = math.ceil(2.5 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (1, 2):
        side = image.shape[axis]
        where = torch.arange(-radius, side + radius, device=image.device).abs()
        # Reflected at both borders; a photo narrower than the filter repeats its border.
        where = torch.minimum(where, 2 * (side - 1) - where).clamp_(0, side - 1)
        wide = image.index_select(axis, where)
        image.copy_(wide.narrow(axis, radius, side)).mul_(weights[0] / total)
        for offset in range(1, radius + 1):
            both = wide.narrow(axis, radius - offset, side) + wide.narrow(axis, radius + offset, side)
            image.add_(both.mul_(weights[offset] / total))


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    levels = (image * 255).round_().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    # OpenCV takes blue first; which is first matters, because JPEG keeps less of some colours.
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(levels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    restored = torch.from_numpy(np.ascontiguousarray(decoded[..., ::-1].transpose(2, 0, 1)))
    return restored.to(image.device, image.dtype).div_(255)
