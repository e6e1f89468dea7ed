"""Random changes to whole batches of photos and their masks, as batched tensor operations on any device.

Every photo has its own stream of random numbers, drawn on the CPU, and what is done to it depends on no other photo of
its batch: the same photo comes out the same, to the bit, in a batch of any size, from any process. For that the
per-photo numbers are computed in Python, and pixels only by operations whose rounding does not depend on how the work
is parted: products and sums apart, never a matrix product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD
from birefnet.data.cache import FULL, UNLABELLED
from birefnet.data.looks import Look, change_looks, resize
from birefnet.errors import ConfigError

HEADROOM = 1.25
"""The side of packed photos over the side of a batch that suits a zooming augmentation best.

The warp samples single points, so what it reads must hold little finer detail than what it writes, yet enough to zoom
in. Photos with more than `_MOST_DETAIL` times the side are shrunk first, which takes longer than the warp itself.
"""

_MOST_DETAIL = 1.5

# Uniform numbers drawn for each photo at once, more than are used, so that a new change moves no old one.
_DRAWS = 32

Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """How far a photo may be changed; by itself, not at all.

    A share is the part of the photos that a change is made to, a range that of an evenly drawn number. Factors are
    those of Pillow's ImageEnhance: 1 leaves the photo as it is.

    Attributes:
        zoom: range of the part of the photo's side that is seen; above 1, mirrored surroundings are seen too.
        aspect: largest change of the aspect ratio, as a factor.
        flip: share mirrored left to right.
        rotation: share rotated.
        degrees: largest angle of a rotation.
        brightness: range of the factor of brightness, 0 for black.
        contrast: range of the factor of contrast, 0 for plain grey.
        colour: range of the factor of saturation, 0 for grey levels.
        sharpness: range of the factor of sharpness, 0 for smoothed.
        stepwise: brightness, contrast and colour follow each other, each cut off at black and white as in Pillow; else
            they are one map of colours, cut off at the end, in a third of the time.
        hue: largest turn of the hue in degrees.
        tint: largest relative change of one colour channel.
        grey: share made grey.
        coarse: share shown as from a lower resolution.
        blur: share blurred by a Gaussian.
        noise: share with Gaussian noise, and black and white specks.
        pepper: part of the pixels of every photo that become black or white.
        jpeg: share compressed as JPEG.
        quality: range of the quality of that compression.
    """

    zoom: Range = (1.0, 1.0)
    aspect: float = 1.0
    flip: float = 0.0
    rotation: float = 0.0
    degrees: float = 15.0
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    colour: Range = (1.0, 1.0)
    sharpness: Range = (1.0, 1.0)
    stepwise: bool = False
    hue: float = 0.0
    tint: float = 0.0
    grey: float = 0.0
    coarse: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    pepper: float = 0.0
    jpeg: float = 0.0
    quality: Range = (40.0, 95.0)

    def __post_init__(self) -> None:
        for name in ("flip", "rotation", "grey", "coarse", "blur", "noise", "pepper", "jpeg", "tint"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augmentation: {name} must be from 0 to 1, not {getattr(self, name)}")
        for name, least in (("zoom", 0.05), ("brightness", 0), ("contrast", 0), ("colour", 0), ("sharpness", 0)):
            self._check_range(name, least, math.inf)
        self._check_range("quality", 1, 100)
        if not (self.aspect >= 1 and 0 <= self.degrees <= 180 and 0 <= self.hue <= 180):
            raise ConfigError("augmentation: aspect must be at least 1, degrees and hue from 0 to 180")

    def _check_range(self, name: str, least: float, most: float) -> None:
        low, high = getattr(self, name)
        if not least <= low <= high <= most:
            upper = "" if math.isinf(most) else f" and at most {most:g}"
            raise ConfigError(
                f"augmentation: {name} must be (LOW, HIGH), at least {least:g}{upper}, not ({low}, {high})"
            )

    @property
    def zooms(self) -> bool:
        """Whether photos are seen nearer, farther or out of proportion."""
        return self.zoom != (1.0, 1.0) or self.aspect != 1

    @property
    def recolours(self) -> bool:
        """Whether colours are changed by a map of colours; brightness, contrast and colour by steps are not."""
        ranges = () if self.stepwise else (self.brightness, self.contrast, self.colour)
        return any(each != (1.0, 1.0) for each in ranges) or bool(self.hue or self.tint or self.grey)

    @property
    def headroom(self) -> float:
        """How much larger than the batch the photos should be that it is made from."""
        return HEADROOM if self.zooms else 1.0


NONE = Augmentation()
"""Photos as they are."""

REFERENCE = Augmentation(
    flip=0.5,
    rotation=0.2,
    degrees=15.0,
    brightness=(0.5, 1.5),
    contrast=(0.5, 1.5),
    colour=(0.0, 2.0),
    sharpness=(0.0, 3.0),
    stepwise=True,
    pepper=0.0015,
)
"""What the published networks were trained with; only that corners which a rotation uncovers are mirrored, not black,
and that factors are drawn evenly, not in tenths."""

MODERATE = Augmentation(
    zoom=(0.75, 1.05),
    aspect=1.2,
    flip=0.5,
    rotation=0.15,
    degrees=10.0,
    brightness=(0.8, 1.2),
    contrast=(0.8, 1.2),
    colour=(0.7, 1.3),
    hue=8.0,
    tint=0.05,
    grey=0.03,
    coarse=0.03,
    blur=0.03,
    noise=0.05,
    jpeg=0.05,
)
"""For a small network trained from scratch, which has trouble enough with the photos as they are: docs/log.md."""

GENTLE = Augmentation(
    zoom=(0.85, 1.05),
    aspect=1.1,
    flip=0.5,
    rotation=0.1,
    degrees=10.0,
    brightness=(0.85, 1.15),
    contrast=(0.85, 1.15),
    colour=(0.8, 1.2),
    hue=5.0,
    tint=0.03,
    jpeg=0.1,
    quality=(60.0, 95.0),
)
"""For fine-tuning a network that is good already."""


class Augmented(NamedTuple):
    """Photos with their truth, as a network is trained on them.

    Attributes:
        images: (B, 3, H, W) float32, normalised.
        target: share of foreground (B, 1, H, W) in [0, 1], 0 where it is not known.
        valid: 1 where the target is known, else 0 (B, 1, H, W).
    """

    images: Tensor
    target: Tensor
    valid: Tensor


def augment(
    pixels: Tensor,
    size: tuple[int, int],
    settings: Augmentation = NONE,
    generators: Sequence[torch.Generator] = (),
    plain: Tensor | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Augmented:
    """Turn packed pixels into a batch at a given size, each photo changed at random by its own generator.

    Photo, mask and unlabelled region go through the same warp. JPEG compression and the drawing of noise happen on the
    CPU; of photos on another device the few that are chosen are copied there and back.

    Args:
        pixels: uint8 (B, 4, H', W'): red, green, blue and the label of `birefnet.data.cache`.
        size: (H, W) wanted.
        settings: how far to change the photos.
        generators: one for each photo, on the CPU whatever the device; not needed for `NONE`.
        plain: bool (B,), photos of which nothing is changed but that they may be mirrored.
        mean: per-channel mean subtracted from the photo in [0, 1].
        std: per-channel standard deviation the difference is divided by.
    """
    marked = [False] * len(pixels) if plain is None else plain.tolist()
    if settings == NONE:
        drawn = [(_View(), Look())] * len(pixels)
    else:
        drawn = [_draw(settings, g, only_flip=p) for g, p in zip(generators, marked, strict=True)]
    values, known = _place(pixels, size, settings, [view for view, _ in drawn])
    label = values[:, 3:]
    images = change_looks(
        values[:, :3],
        [look for _, look in drawn],
        generators,
        stepwise=settings.stepwise,
        recolours=settings.recolours,
        sharpens=settings.sharpness != (1.0, 1.0),
    )
    valid = torch.ones_like(label)
    for index, plane in known.items():
        valid[index, 0] = plane > 0.99
        label[index] *= valid[index]
    centre, scale = (images.new_tensor(value).view(1, 3, 1, 1) for value in (mean, std))
    return Augmented(images.sub_(centre).div_(scale), label.div(FULL).clamp_(0, 1), valid)


# --- what to do to each photo ---


class _View(NamedTuple):
    """Which part of a photo is seen, and how: its sides as shares of the photo's, and how far its middle is moved."""

    mirrored: bool = False
    angle: float = 0.0
    across: float = 1.0
    down: float = 1.0
    right: float = 0.0
    lower: float = 0.0

    def matrix(self, ratio: float) -> tuple[float, ...]:
        """Affine map from the output's coordinates to the photo's, both from -1 to 1: two rows of three.

        Args:
            ratio: width over height.
        """
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        mirror = -1 if self.mirrored else 1
        # A rotation by pixels, which in units of the sides is none unless they are equal.
        first = (mirror * self.across * cosine, -self.across * sine / ratio, self.right)
        second = (mirror * self.down * sine * ratio, self.down * cosine, self.lower)
        return first + second


def _draw(settings: Augmentation, generator: torch.Generator, *, only_flip: bool) -> tuple[_View, Look]:
    draws = iter(torch.rand(_DRAWS, generator=generator).tolist())

    def uniform(low: float, high: float) -> float:
        return float(low + (high - low) * next(draws))

    def chosen(share: float) -> bool:
        return bool(next(draws) < share)

    mirrored = chosen(settings.flip)
    if only_flip:
        return _View(mirrored), Look()
    zoom = uniform(*settings.zoom)
    stretch = math.exp(uniform(-0.5, 0.5) * math.log(settings.aspect))
    across, down = zoom * stretch, zoom / stretch
    view = _View(
        mirrored,
        angle=math.radians(uniform(-1, 1) * settings.degrees) * chosen(settings.rotation),
        across=across,
        down=down,
        # A view smaller than the photo stays inside it, a larger one holds it whole.
        right=abs(1 - across) * uniform(-1, 1),
        lower=abs(1 - down) * uniform(-1, 1),
    )
    red, green, blue = (1 + uniform(-1, 1) * settings.tint for _ in range(3))
    look = Look(
        brightness=uniform(*settings.brightness),
        contrast=uniform(*settings.contrast),
        colour=uniform(*settings.colour),
        sharpness=uniform(*settings.sharpness),
        hue=math.radians(uniform(-1, 1) * settings.hue),
        tint=(red, green, blue),
        grey=chosen(settings.grey),
        coarse=_if(chosen(settings.coarse), uniform(0.35, 0.8)),
        blur=_if(chosen(settings.blur), uniform(0.4, 1.6)),
        noise=_if(chosen(settings.noise), uniform(0, 0.08)),
        quality=_if(chosen(settings.jpeg), uniform(*settings.quality)),
        pepper=settings.pepper,
    )
    return view, look


def _if(wanted: bool, value: float) -> float | None:
    return value if wanted else None


# --- where pixels go ---


def _place(
    pixels: Tensor, size: tuple[int, int], settings: Augmentation, views: Sequence[_View]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Bring pixels to their place.

    Returns:
        Colours and foreground (B, 4, H, W), 0 to 255 and 0 to 254; and, of each photo with unlabelled pixels, by its
        position, how much of every pixel is known (H, W).
    """
    values = pixels.float()
    unknown = pixels[:, 3:] == UNLABELLED
    partly = unknown.flatten(1).any(1).nonzero().flatten().tolist()
    known = 1 - unknown[partly].float()
    for index, plane in zip(partly, known, strict=True):
        values[index, 3:] *= plane
    some = [views[index] for index in partly]
    placed = [_move(values, size, settings, views), _move(known, size, settings, some) if partly else known]
    return placed[0], dict(zip(partly, placed[1][:, 0], strict=True))


def _move(planes: Tensor, size: tuple[int, int], settings: Augmentation, views: Sequence[_View]) -> Tensor:
    height, width = planes.shape[-2:]
    if settings.zooms:
        if max(height / size[0], width / size[1]) > _MOST_DETAIL:
            planes = resize(planes, (round(size[0] * HEADROOM), round(size[1] * HEADROOM)))
        return _warp(planes, size, views)
    planes = resize(planes, size)
    for index, view in enumerate(views):
        if view.angle:
            planes[index] = _warp(planes[index : index + 1], size, [view])[0]
        elif view.mirrored:
            planes[index] = planes[index].flip(-1)
    return planes


def _warp(planes: Tensor, size: tuple[int, int], views: Sequence[_View]) -> Tensor:
    height, width = size
    rows = planes.new_tensor([view.matrix(width / height) for view in views]).view(-1, 2, 3, 1)
    xs, ys = (
        torch.arange(1 - side, side, 2, device=planes.device, dtype=planes.dtype) / side for side in (width, height)
    )
    grid = planes.new_empty(len(planes), height, width, 2)
    for axis in range(2):
        a, b, c = rows[:, axis].unbind(1)
        torch.add((a * xs).unsqueeze(1), (b * ys + c).unsqueeze(2), out=grid[..., axis])
    # Reflection keeps every pixel labelled: what is mirrored into view has its mask mirrored with it.
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
