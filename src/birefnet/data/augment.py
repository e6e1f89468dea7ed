"""Random changes to whole batches of photos and their masks, as batched tensor operations on any device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD
from birefnet.data.cache import FULL, UNLABELLED

HEADROOM = 1.25
"""The side of packed photos over the side of a batch that suits augmentation best.

The warp samples single points, so what it reads must hold little finer detail than what it writes, yet enough to zoom
in. Photos with more than `_MOST_DETAIL` times the side are shrunk first, which takes longer than the warp itself.
"""

_MOST_DETAIL = 1.5

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """How far a photo may be changed. A share is the part of the photos that a change is made to.

    Attributes:
        zoom: range of the part of the photo's side that is seen; above 1, mirrored surroundings are seen too.
        aspect: largest change of the aspect ratio, as a factor.
        flip: share mirrored left to right.
        rotation: share rotated.
        degrees: largest angle of a rotation.
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
        saturation: largest relative change of saturation.
        hue: largest turn of the hue in degrees.
        tint: largest relative change of one colour channel.
        grey: share made grey.
        noise: share with Gaussian and salt-and-pepper noise.
        blur: share shown as from a lower resolution.
    """

    zoom: tuple[float, float] = (0.65, 1.1)
    aspect: float = 1.25
    flip: float = 0.5
    rotation: float = 0.3
    degrees: float = 15.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.5
    hue: float = 15.0
    tint: float = 0.1
    grey: float = 0.05
    noise: float = 0.1
    blur: float = 0.1


@dataclass(frozen=True)
class Batch:
    """What the network is trained on.

    Attributes:
        images: (B, 3, S, S), normalised.
        target: share of foreground (B, 1, S, S) in [0, 1].
        valid: 1 where the target is known, else 0 (B, 1, S, S).
    """

    images: Tensor
    target: Tensor
    valid: Tensor


def augment(
    pixels: Tensor,
    size: int,
    settings: Augmentation | None = None,
    generator: torch.Generator | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Batch:
    """Turn packed pixels into a batch at a given size, changed at random or, without settings, only resized.

    Photo, mask and unlabelled region go through the same warp.

    Args:
        pixels: uint8 (B, 4, S, S): red, green, blue and the label of `birefnet.data.cache`.
        size: side of the square wanted.
        settings: how far to change the photos; None changes nothing.
        generator: source of randomness, on the CPU whatever the device: the same seed gives the same changes.
        mean: per-channel mean subtracted from the photo in [0, 1].
        std: per-channel standard deviation the difference is divided by.
    """
    planes = _planes(pixels)
    side = pixels.shape[-1]
    if settings is None:
        planes = _resize(planes, size)
    elif side > size * _MOST_DETAIL:
        planes = _resize(planes, round(size * HEADROOM))
    if settings is not None:
        planes = _warp(planes, size, _warp_matrices(len(pixels), settings, generator))
    images, foreground, known = planes[:, :3], planes[:, 3:4], planes[:, 4:]
    images = images / 255 if settings is None else _change_looks(images, settings, generator)
    centre, scale = (images.new_tensor(value).view(1, 3, 1, 1) for value in (mean, std))
    valid = (known > 0.99).float()
    return Batch(images.sub_(centre).div_(scale), (foreground * valid).div_(FULL).clamp_(0, 1), valid)


def _planes(pixels: Tensor) -> Tensor:
    """Split the label into foreground, 0 where unlabelled, and known: (B, 4, S, S) bytes -> (B, 5, S, S) floats."""
    values = pixels.float()
    known = (pixels[:, 3:] != UNLABELLED).float()
    values[:, 3:] *= known
    return torch.cat([values, known], dim=1)


def _resize(planes: Tensor, size: int) -> Tensor:
    if planes.shape[-1] == size:
        return planes
    shrinks = size < planes.shape[-1]
    return F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)


def _uniform(count: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _chosen(count: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Draw which of the photos a change is made to."""
    return torch.rand(count, generator=generator) < share


def _warp_matrices(count: int, settings: Augmentation, generator: torch.Generator | None) -> Tensor:
    """Draw the affine maps from the output's coordinates to the photo's, both from -1 to 1: (B, 2, 3)."""
    zoom = _uniform(count, *settings.zoom, generator)
    stretch = _uniform(count, -0.5, 0.5, generator) * math.log(settings.aspect)
    across, down = zoom * stretch.exp(), zoom * (-stretch).exp()
    # A view smaller than the photo stays inside it, a larger one holds it whole.
    right = (1 - across).abs() * _uniform(count, -1, 1, generator)
    lower = (1 - down).abs() * _uniform(count, -1, 1, generator)
    turned = _chosen(count, settings.rotation, generator)
    angle = _uniform(count, -1, 1, generator) * math.radians(settings.degrees) * turned
    mirrored = 1 - 2 * _chosen(count, settings.flip, generator).float()
    rows = (mirrored * across * angle.cos(), -across * angle.sin(), right)
    columns = (mirrored * down * angle.sin(), down * angle.cos(), lower)
    return torch.stack([torch.stack(rows, dim=1), torch.stack(columns, dim=1)], dim=1)


def _warp(planes: Tensor, size: int, matrices: Tensor) -> Tensor:
    grid = F.affine_grid(matrices.to(planes.device), [len(planes), 1, size, size], align_corners=False)
    # Reflection keeps every pixel labelled: what is mirrored into view has its mask mirrored with it.
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _change_looks(images: Tensor, settings: Augmentation, generator: torch.Generator | None) -> Tensor:
    return _degrade(_recolour(images, settings, generator), settings, generator)


def _recolour(images: Tensor, settings: Augmentation, generator: torch.Generator | None) -> Tensor:
    """Change all that concerns colour at once, one affine map per photo: values up to 255 -> up to 1."""
    count = len(images)
    gain = 1 + _uniform(count, -1, 1, generator) * settings.brightness
    contrast = 1 + _uniform(count, -1, 1, generator) * settings.contrast
    saturation = 1 + _uniform(count, -1, 1, generator) * settings.saturation
    saturation *= ~_chosen(count, settings.grey, generator)
    tint = 1 + _uniform(3 * count, -1, 1, generator).view(count, 3, 1) * settings.tint
    luma = torch.tensor(_LUMA)
    turn = _hue_rotation(_uniform(count, -1, 1, generator) * math.radians(settings.hue))
    mixing = saturation.view(-1, 1, 1) * torch.eye(3) + (1 - saturation).view(-1, 1, 1) * luma.expand(3, 3)
    matrices = (gain * contrast / 255).view(-1, 1, 1) * tint * (mixing @ turn)
    offsets = (gain * (1 - contrast) / 255).to(images.device) * (images.mean((2, 3)) @ luma.to(images.device))
    # One fused multiply and add per pixel, clamped to what a photo can hold.
    mixed = torch.baddbmm(offsets.view(-1, 1, 1), matrices.to(images.device), images.flatten(2))
    return mixed.view(images.shape).clamp_(0, 1)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Rotations of RGB about its grey axis (Rodrigues' formula): (B,) radians -> (B, 3, 3)."""
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return cosine * torch.eye(3) + (1 - cosine) / 3 + sine * cross


def _degrade(images: Tensor, settings: Augmentation, generator: torch.Generator | None) -> Tensor:
    """Blur some photos and make some noisy, in place."""
    size = images.shape[-1]
    blurred = _chosen(len(images), settings.blur, generator).nonzero().flatten()
    factor = float(_uniform(1, 0.35, 0.8, generator))
    if len(blurred):
        where = blurred.to(images.device)
        coarse = max(1, round(size * factor))
        small = F.interpolate(images[where], (coarse, coarse), mode="bilinear", antialias=True)
        images[where] = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    noisy = _chosen(len(images), settings.noise, generator).nonzero().flatten()
    strength = _uniform(len(images), 0, 0.08, generator)
    if len(noisy):
        where = noisy.to(images.device)
        noise = torch.randn((len(noisy), *images.shape[1:]), generator=generator).to(images.device)
        grainy = images[where] + noise * strength[noisy].view(-1, 1, 1, 1).to(images.device)
        # The rarest draws, 0.3% of them, become pepper and salt.
        images[where] = torch.where(noise.abs() > 3, (noise > 0).float(), grainy.clamp(0, 1))
    return images
