"""Photos put together anew: on other backgrounds, with another photo's object, with what is drawn into them.

All of it works on packed bytes, before augmentation, and keeps the truth exact: what is laid over a photo is laid over
its label by the same share. Every sample is worked on by itself and draws from its own generator, always as many
numbers, so that what becomes of it depends neither on its batch nor on what is done to others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from birefnet.data.cache import FULL, UNLABELLED
from birefnet.data.grounds import draw_ground, empty_part, set_drape, set_skyline
from birefnet.data.held import draw_thing
from birefnet.data.lamps import Lamps
from birefnet.data.shapes import draw_shape, log_uniform
from birefnet.data.structures import cast_shadow, colour_shape, scaled, shade
from birefnet.data.tableware import draw_tableware
from birefnet.errors import ConfigError

GREY, NEAR = 0.4, 0.4
"""Shares of the synthetic backgrounds that are one grey level, and near the foreground's mean colour; the rest are one
random colour. The reference's rule."""

SPREAD = 0.2
"""How far a background near the foreground's mean colour is from it, as a share of each channel."""

SCALES = (0.3, 0.9)
"""Longest side of a pasted object, as a share of the photo's longer side."""

SQUEEZE = (1.5, 5.0)
"""How much thinner an object becomes that is made slender."""

SKYLINE, DUSK = 0.5, 0.6
"""Shares of the photos with lamps whose lamps stand on masts at the lower border, and of these that become darker."""

HELD, HIDDEN = (0.18, 0.65), 0.5
"""Sizes of what an object holds, as shares of the photo's side, and how often it is dark behind it."""

OWN, TONED = 0.25, 0.25
"""Shares of the grounds of scenes that are an empty part of the photo, and that take the object's mean colour."""

_CHANCES = 24
_SEEDS = 2**62

# A cut-out enlarged further than this would be told by its blur.
_MOST_ENLARGED = 1.5
# Less than so many pixels are no object; an object that takes more of its photo leaves nothing to paste it on.
_LEAST_PIXELS, _MOST_SHARE = 16.0, 0.7
# How far beyond the photo an object is moved that its own photo cuts off, as a share of its size.
_BEYOND = 0.3

# The two box blurs of blur fusion, as shares of the photo's side: 90 and 6 pixels of about 1000.
_FAR, _NEAR = 0.09, 0.006


@dataclass(frozen=True)
class Composition:
    """Which photos are put together anew. A share is the part of the photos that it happens to.

    Attributes:
        background: share whose background is replaced by one colour.
        paste: share that get the object of another photo pasted on, at a random scale and place, maybe mirrored.
        donors: sources (`Pair.source`) of the photos whose objects may be pasted; () for all.
        structures: share onto which thin structures are drawn.
        lights: share with glaring lamps added to the background, which draw the eye and belong to no object; half of
            them on masts between roofs.
        scenes: share whose object is pasted, as with `paste`, onto a ground of `birefnet.data.grounds` with nothing
            else in it.
        slender: share of all pasted objects that become thinner, by a factor from `SQUEEZE`; poles, pens and towers are
            rare in photos that were collected for their objects.
        held: share with a drawn glossy thing of `birefnet.data.held` before their object, which belongs to it.
        drapes: share with a flag, a banner or a curtain that hangs at a border, behind the object.
        shadows: share whose object casts a shadow on what is behind it.
        tableware: share that give way to drawn tableware on a table (`birefnet.data.tableware`).

    Raises:
        ConfigError: a share is not from 0 to 1.
    """

    background: float = 0.0
    paste: float = 0.0
    donors: tuple[str, ...] = ()
    structures: float = 0.0
    lights: float = 0.0
    scenes: float = 0.0
    slender: float = 0.0
    held: float = 0.0
    drapes: float = 0.0
    shadows: float = 0.0
    tableware: float = 0.0

    def __post_init__(self) -> None:
        for name, share in self._shares().items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}: {share} is no share: give a number from 0 to 1")

    @property
    def changes(self) -> bool:
        """Whether anything is done to any photo."""
        return any(share > 0 for name, share in self._shares().items() if name != "slender")

    def _shares(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "donors"}


class Donors(Protocol):
    """Photos by their places in the batch, such as a tensor."""

    def __getitem__(self, index: int, /) -> Tensor:
        """Give the photo of a place, uint8 (4, H, W)."""


def compose(
    pixels: Tensor, donors: Donors | None, settings: Composition, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Put photos together anew, as far as their generators have it.

    A photo gives way to drawn tableware, or its object is set before a scene, or else its background replaced; then it
    gets a thing to hold and something that hangs behind it, then another is pasted, then structures are drawn, shadows
    cast and lamps lit behind all of it, so that one photo may get all of that. The truth is the union. Unlabelled
    pixels of a donor are not pasted; those of a photo stay unlabelled unless they are covered wholly. A photo without
    an object keeps its background and gets nothing to hold, a donor without one gives none.

    Args:
        pixels: uint8 (B, 4, H, W): red, green, blue and the label of `birefnet.data.cache`; left as it is.
        donors: a candidate for each photo whose object may be pasted, uint8 (B, 4, H, W), or what reads it when it is
            asked for by its index; None where there is none.
        settings: how much to do.
        generators: source of randomness of each photo, on the CPU whatever the device.

    Returns:
        uint8 (B, 4, H, W), and bool (B,): which photos have a synthetic background.
    """
    composed = pixels.clone()
    plain = torch.zeros(len(pixels), dtype=torch.bool)
    for index, generator in enumerate(generators):
        chances = torch.rand(_CHANCES, generator=generator, dtype=torch.float64).tolist()
        seed = int(torch.randint(_SEEDS, (), generator=generator))
        squeeze = _squeeze(chances[19]) if chances[18] < settings.slender else 1.0
        if chances[23] < settings.tableware:
            composed[index] = serve(composed[index], np.random.default_rng((seed, 6)))
        elif chances[17] < settings.scenes:
            composed[index] = set_before_scene(composed[index], np.random.default_rng((seed, 2)), squeeze)
        elif chances[0] < settings.background:
            replaced = replace_background(composed[index], chances[3:8])
            if replaced is not None:
                composed[index], plain[index] = replaced, True
        if chances[20] < settings.held:
            composed[index] = hold(composed[index], np.random.default_rng((seed, 3)))
        if chances[21] < settings.drapes:
            composed[index] = hang_behind(composed[index], np.random.default_rng((seed, 4)))
        if chances[1] < settings.paste and donors is not None:
            composed[index] = paste(composed[index], donors[index], chances[8:16], squeeze)
        if chances[2] < settings.structures:
            composed[index] = draw_on(composed[index], np.random.default_rng(seed))
        if chances[22] < settings.shadows:
            composed[index] = shade_behind(composed[index], np.random.default_rng((seed, 5)))
        if chances[16] < settings.lights:
            composed[index] = light_up(composed[index], np.random.default_rng((seed, 1)))
    return composed, plain


# --- synthetic backgrounds ---


def replace_background(photo: Tensor, chances: Sequence[float]) -> Tensor | None:
    """Set a photo's object on one colour, by the reference's rule; None where it has no object.

    Unlabelled pixels stay as they are.

    Args:
        photo: uint8 (4, H, W).
        chances: five numbers in [0, 1): which rule, the level, and one for each channel.

    Returns:
        uint8 (4, H, W).
    """
    image, alpha, known = _layers(photo)
    amount = float(alpha.sum())
    if amount < _LEAST_PIXELS:
        return None
    own = foreground_colours(image, alpha, known)
    which, level, *channels = chances
    each = image.new_tensor(channels)
    if which < GREY:
        colour = image.new_full((3,), 255 * level)
    elif which < GREY + NEAR:
        mean = (own * alpha).sum((1, 2)) / amount
        colour = (mean * (1 - SPREAD + 2 * SPREAD * each)).clamp(0, 255)
    else:
        colour = 255 * each
    flat = colour.view(3, 1, 1)
    replaced = photo.clone()
    replaced[:3] = torch.where(known > 0, _to_bytes(flat + alpha * (own - flat)), photo[:3])
    return replaced


# --- copy and paste ---


def paste(photo: Tensor, donor: Tensor, chances: Sequence[float], squeeze: float = 1.0) -> Tensor:
    """Paste the object of one photo onto another, its edge free of its old background.

    Where the donor's border cuts its object off, that side comes to lie at the photo's border or beyond.

    Args:
        photo: uint8 (4, H, W).
        donor: uint8 (4, H, W).
        chances: eight numbers in [0, 1), of which scale, place, flip and light follow.
        squeeze: by how much the object's shorter side is made shorter.

    Returns:
        uint8 (4, H, W); the photo as it is where the donor has nothing to paste.
    """
    _, height, width = photo.shape
    image, alpha, known = _layers(donor)
    amount = float(alpha.sum())
    if not _LEAST_PIXELS <= amount <= _MOST_SHARE * alpha.numel():
        return photo
    (top, bottom), (left, right) = (_extent(alpha[0].amax(1 - axis)) for axis in (0, 1))
    cut_off = _cut_sides(alpha[0])
    # Cut out with what its colours depend on.
    margin = round(_FAR * max(height, width)) + 1
    y, x = max(top - margin, 0), max(left - margin, 0)
    around = np.s_[:, y : bottom + margin, x : right + margin]
    own = foreground_colours(image[around], alpha[around], known[around], max(height, width))
    inside = np.s_[:, top - y : bottom - y, left - x : right - x]
    own, alpha = own[inside], alpha[:, top:bottom, left:right]

    bigger, across, down, flip, light, *_ = chances
    gain = _matching_light((own * alpha).sum((1, 2)) / amount, photo[:3].float().mean((1, 2)), light)
    # Colours times alpha, so that scaling mixes in nothing from outside the object.
    layer = torch.cat([own * gain.view(3, 1, 1) * alpha, alpha])
    if flip < 0.5:
        layer, cut_off = layer.flip(2), (*cut_off[:2], cut_off[3], cut_off[2])
    wanted = (SCALES[0] + bigger * (SCALES[1] - SCALES[0])) * max(height, width)
    scale = min(wanted / max(bottom - top, right - left), _MOST_ENLARGED)
    tall = bottom - top >= right - left
    size = [
        max(1, round(scale * (bottom - top) / (1 if tall else squeeze))),
        max(1, round(scale * (right - left) / (squeeze if tall else 1))),
    ]
    layer = F.interpolate(layer[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    first_row = _place(down, height, size[0], cut_off[:2])
    first_column = _place(across, width, size[1], cut_off[2:])
    rows = slice(max(first_row, 0), min(first_row + size[0], height))
    columns = slice(max(first_column, 0), min(first_column + size[1], width))
    seen = layer[:, rows.start - first_row : rows.stop - first_row, columns.start - first_column :]
    seen = seen[:, :, : columns.stop - columns.start].clamp_min(0)
    pasted = photo.clone()
    pasted[:, rows, columns] = lay_over(photo[:, rows, columns], seen[:3], seen[3:].clamp_max(1))
    return pasted


def set_before_scene(photo: Tensor, generator: np.random.Generator, squeeze: float = 1.0) -> Tensor:
    """Paste a photo's object onto a ground with nothing else in it: a drawn one, or an empty part of the photo itself.

    Args:
        photo: uint8 (4, H, W).
        generator: source of randomness.
        squeeze: as of `paste`.

    Returns:
        uint8 (4, H, W); the photo as it is where it has nothing to paste.
    """
    _, height, width = photo.shape
    ground = None
    if generator.random() < OWN:
        ground = empty_part(_pixels(photo), (photo[3] > 0).cpu().numpy(), generator)
    if ground is None:
        ground = draw_ground(height, width, generator)
    inside = photo[3] == FULL
    if generator.random() < TONED and bool(inside.any()):  # told from the object by texture and shape alone
        own_colour = photo[:3, inside].float().mean(1).cpu().numpy()
        gain = (own_colour + 10) / (ground.mean((0, 1)) + 10)
        ground = np.clip(ground * gain.clip(0.4, 2.5), 0, 255).astype(np.uint8)
    scene = torch.cat([_planes(ground), torch.zeros_like(photo[3:], device="cpu")]).to(photo.device)
    pasted = paste(scene, photo, generator.random(8).tolist(), squeeze)
    if not bool(pasted[3].any()):
        return photo
    alpha = pasted[3:].float() / FULL
    shaded = _planes(cast_shadow(ground, np.rint(255 * alpha[0].cpu().numpy()).astype(np.uint8), generator))
    darker = shaded.to(photo.device).float() - scene[:3].float()
    pasted[:3] = _to_bytes(pasted[:3] + (1 - alpha) * darker)
    return pasted


def serve(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw tableware on a table in place of a photo.  uint8 (4, H, W) -> (4, H, W)."""
    drawn, coverage = draw_tableware(photo.shape[1], photo.shape[2], generator)
    label = np.rint(coverage * np.float32(FULL / 255)).astype(np.uint8)
    return torch.cat([_planes(drawn), torch.from_numpy(label)[None]]).to(photo.device)


def _pixels(photo: Tensor) -> NDArray[np.uint8]:
    """The image without its label: (4, H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(photo[:3].permute(1, 2, 0).cpu().numpy())


def _behind(photo: Tensor, changed: NDArray[np.uint8]) -> Tensor:
    """Take what is changed (H, W, 3) where a photo's background is seen and known, by its share: (4, H, W)."""
    _, alpha, known = _layers(photo)
    there = _planes(changed).to(photo.device).float()
    result = photo.clone()
    result[:3] = _to_bytes(photo[:3] + (1 - alpha) * known * (there - photo[:3].float()))
    return result


def _planes(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _squeeze(chance: float) -> float:
    return float(SQUEEZE[0] * (SQUEEZE[1] / SQUEEZE[0]) ** chance)


def _extent(present: Tensor) -> tuple[int, int]:
    """First place with anything, and the one behind the last: (N,) -> two ints."""
    found = present.nonzero()
    return int(found[0]), int(found[-1]) + 1


def _cut_sides(alpha: Tensor) -> tuple[bool, bool, bool, bool]:
    """Whether an object goes on beyond the top, bottom, left and right border: (H, W) -> four flags."""
    borders = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
    top, bottom, left, right = (bool(border.sum() > 3) for border in borders)
    return top, bottom, left, right


def _place(chance: float, room: int, length: int, cut_off: Sequence[bool]) -> int:
    """Where an object begins, along one side: its middle within the photo, or what is cut off at the border."""
    low, high = cut_off
    if low == high:
        return round(chance * room - length / 2)
    beyond = round(chance * _BEYOND * length)
    return room - length + beyond if high else -beyond


def _matching_light(own: Tensor, surroundings: Tensor, chance: float) -> Tensor:
    """Draw how far an object takes on the light of where it is pasted: a gain for each channel (3,)."""
    return ((surroundings + 20) / (own + 20)).pow(0.6 * chance).clamp(0.7, 1.4)


# --- structures ---


def draw_on(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw a thin structure onto a photo, in colours of the photo or in others.

    Args:
        photo: uint8 (4, H, W).
        generator: source of randomness.

    Returns:
        uint8 (4, H, W).
    """
    _, height, width = photo.shape
    shape = draw_shape(height, width, generator)
    behind = _pixels(photo)
    if generator.random() < 0.5:
        colours = behind[generator.integers(0, height, 2), generator.integers(0, width, 2)].astype(np.float32)
    else:
        colours = (generator.uniform(0, 255, 3) + generator.uniform(-30, 30, (2, 1))).clip(0, 255).astype(np.float32)
    surface = torch.from_numpy(colour_shape(shape, colours, behind, generator)).to(photo.device)
    alpha = torch.from_numpy(shape.coverage).to(photo.device)[None].float() / 255
    return lay_over(photo, surface.permute(2, 0, 1) * alpha, alpha)


# --- held things ---


def hold(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw a glossy thing before a photo's object, partly beyond it, as if it was held; often it is dark behind.

    Args:
        photo: uint8 (4, H, W).
        generator: source of randomness.

    Returns:
        uint8 (4, H, W); the photo as it is where it has no object.
    """
    _, height, width = photo.shape
    label = photo[3].cpu().numpy()
    unit = math.sqrt(height * width)
    present = ((label > FULL // 2) & (label != UNLABELLED)).astype(np.uint8)
    if present.sum() < _LEAST_PIXELS:
        return photo
    # Mostly at its outline: what is held is in part beyond it.
    outline = present - cv2.erode(present, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero(outline if generator.random() < 0.75 and outline.any() else present)
    size = max(8, round(unit * log_uniform(generator, *HELD)))
    # Hands are in the lower part of what is seen of people, seldom at their heads.
    picks = generator.integers(0, len(rows), generator.integers(1, 6))
    pick = int(picks[rows[picks].argmax()])
    middle = np.array([rows[pick], columns[pick]]) + generator.normal(0, 0.3 * size, 2)
    thing = draw_thing(size, generator)
    top, left = (np.rint(middle - size / 2).astype(int)).tolist()
    inside = np.s_[max(top, 0) : max(0, min(top + size, height)), max(left, 0) : max(0, min(left + size, width))]
    part = np.s_[max(-top, 0) : max(0, height - top), max(-left, 0) : max(0, width - left)]
    layer = np.zeros((height, width, 4), np.float32)
    share = thing.coverage[part].astype(np.float32)[..., None] / 255
    layer[inside] = np.concatenate([thing.surface[part] * share, share], axis=2)
    # As sharp as photos are.
    soft = np.asarray(cv2.GaussianBlur(layer, (0, 0), generator.uniform(0.4, 1.0)), np.float32)
    held = photo
    if generator.random() < HIDDEN:
        held = _darken_behind(held, middle, size, generator)
    planes = torch.from_numpy(soft).permute(2, 0, 1).to(photo.device)
    return lay_over(held, planes[:3], planes[3:].clamp(0, 1))


def _darken_behind(photo: Tensor, middle: NDArray[np.float64], size: float, rng: np.random.Generator) -> Tensor:
    """Let the background around a place be in the dark."""
    _, height, width = photo.shape
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(middle[0])) / np.float32(size)
    x = (np.arange(width, dtype=np.float32)[None] - np.float32(middle[1])) / np.float32(size)
    if rng.random() < 0.5:  # a shadow
        beyond = np.hypot(x, y) - log_uniform(rng, 0.7, 2)
    else:  # something black that stands there, down to the border
        aside, wide, top = rng.normal(0, 0.5), log_uniform(rng, 0.4, 2), rng.uniform(-1, 0.3)
        beyond = np.maximum(np.abs(x - np.float32(aside)) - np.float32(wide), np.float32(top) - y)
    near = np.clip(0.5 - beyond / log_uniform(rng, 0.02, 1), 0, 1)
    dark = np.float32(1) - np.float32(rng.uniform(0.5, 1)) * near.astype(np.float32)
    return _behind(photo, scaled(_pixels(photo), dark))


# --- shadows and drapes ---


def shade_behind(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Let a photo's object cast a shadow on what is behind it.  uint8 (4, H, W) -> (4, H, W)."""
    label = photo[3].cpu().numpy()
    coverage = np.where(label == UNLABELLED, 0, label).astype(np.uint8)
    return _behind(photo, shade(_pixels(photo), coverage, generator))


def hang_behind(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Hang a flag, a banner or a curtain behind a photo's object, at a border.  uint8 (4, H, W) -> (4, H, W)."""
    return _behind(photo, set_drape(_pixels(photo), generator))


# --- lights ---


def light_up(photo: Tensor, generator: np.random.Generator) -> Tensor:
    """Add lamps to the background of a photo, each with a halo, most with the rays of a small aperture.

    To a network that has seen few photos taken at night they look like flowers. They hang anywhere, or else stand with
    roofs and masts at the lower border (`birefnet.data.grounds.set_skyline`), where it is mostly dusk. The label stays
    as it is; where alpha is between 0 and 1 as much is added as there is background, and nothing where a pixel is
    unlabelled.

    Args:
        photo: uint8 (4, H, W).
        generator: source of randomness.

    Returns:
        uint8 (4, H, W).
    """
    _, height, width = photo.shape
    _, alpha, known = _layers(photo)
    behind = (1 - alpha) * known
    lit = photo.clone()
    if generator.random() < SKYLINE:
        if generator.random() < DUSK:
            dusk = np.append(generator.uniform(0.6, 1, 2), 1) * generator.uniform(0.25, 0.8)
            lit[:3] = _to_bytes(photo[:3] * photo.new_tensor(dusk, dtype=torch.float32).view(3, 1, 1))
        return _behind(lit, set_skyline(_pixels(lit), generator))
    side = math.sqrt(height * width)
    count, usual = int(generator.integers(1, 10)), side * log_uniform(generator, 0.004, 0.025)
    # Along a street or a pier as often as anywhere.
    level, spread = generator.uniform(0, height), height * (0.06 if generator.random() < 0.5 else 1.0)
    lamps = Lamps(height, width, usual, log_uniform(generator, 0.8, 1.8), generator)
    for _ in range(count):
        lamps.add(generator.uniform(0, width), level + spread * generator.normal())
    light = torch.from_numpy(lamps.light).permute(2, 0, 1).to(photo.device)
    lit[:3] = _to_bytes(photo[:3] + 255 * light * behind)
    return lit


# --- layers ---


def lay_over(photo: Tensor, colours: Tensor, alpha: Tensor) -> Tensor:
    """Lay something over a photo and its label by the same share.

    Args:
        photo: uint8 (4, H, W).
        colours: float (3, H, W) up to 255, times alpha already.
        alpha: float (1, H, W) in [0, 1].

    Returns:
        uint8 (4, H, W), unlabelled where the photo is and what is laid over it does not cover it wholly.
    """
    label = photo[3:]
    union = torch.round(FULL * alpha + (1 - alpha) * label).to(torch.uint8)
    hidden = torch.round(FULL * alpha) == FULL
    unknown = (label == UNLABELLED) & ~hidden
    truth = torch.where(hidden, FULL, torch.where(unknown, UNLABELLED, union)).to(torch.uint8)
    return torch.cat([_to_bytes(colours + (1 - alpha) * photo[:3]), truth])


def foreground_colours(image: Tensor, alpha: Tensor, known: Tensor, side: int | None = None) -> Tensor:
    """Estimate the object's own colours, free of its background's at soft edges, by blur fusion in two passes.

    Forte: "Approximate Fast Foreground Colour Estimation", ICIP 2021, as in `birefnet.imaging.foreground`, but with
    radii that fit small photos, and the wide blur on an even smaller one.

    Args:
        image: float (3, H, W) up to 255.
        alpha: float (1, H, W) in [0, 1].
        known: float (1, H, W), 1 where alpha is known: other pixels tell nothing of either side.
        side: longer side of the whole photo, where the image is a part of it.

    Returns:
        float (3, H, W) up to 255; where alpha is 1 the image's own.
    """
    _, height, width = image.shape
    side = max(height, width) if side is None else side
    rest = (1 - alpha) * known
    far = _blur(torch.cat([image * alpha, image * rest, alpha, rest]), _FAR * side)
    foreground, background = _shared(far)
    foreground = _corrected(image, foreground, background, alpha)
    near = _blur(torch.cat([foreground * alpha, background * rest, alpha, rest]), _NEAR * side)
    return _corrected(image, *_shared(near), alpha)


def _shared(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Divide blurred colours of both sides by their blurred shares: (8, H, W) -> (3, H, W) twice."""
    return sums[:3] / (sums[6:7] + 1e-5), sums[3:6] / (sums[7:] + 1e-5)


def _corrected(image: Tensor, foreground: Tensor, background: Tensor, alpha: Tensor) -> Tensor:
    return (foreground + alpha * (image - alpha * foreground - (1 - alpha) * background)).clamp(0, 255)


def _blur(planes: Tensor, length: float) -> Tensor:
    """Blur by a box, up to a factor for all: (C, H, W). Wide boxes on smaller planes, as their result is smooth."""
    _, height, width = planes.shape
    factor = max(1, int(length / 3))
    if factor == 1:
        return _box(planes, _odd(length))
    small = _box(F.avg_pool2d(planes[None], factor, ceil_mode=True)[0], _odd(length / factor))
    # Larger than the planes by what they lack to a multiple of the factor, so that nothing moves.
    size = [factor * small.shape[1], factor * small.shape[2]]
    return F.interpolate(small[None], size, mode="bilinear", align_corners=False)[0, :, :height, :width]


def _box(planes: Tensor, length: int) -> Tensor:
    """Sum over a box, beyond the border nothing, one direction after the other: (C, H, W).

    Sums of shifted planes, as pooling takes ten times as long; what is divided by its blurred share needs no mean.
    """
    _, height, width = planes.shape
    reach = length // 2
    tall = F.pad(planes, (0, 0, reach, reach))
    down = tall[:, :height].clone()
    for shift in range(1, length):
        down += tall[:, shift : shift + height]
    wide = F.pad(down, (reach, reach))
    both = wide[:, :, :width].clone()
    for shift in range(1, length):
        both += wide[:, :, shift : shift + width]
    return both


def _odd(length: float) -> int:
    return max(3, 2 * round((length - 1) / 2) + 1)


def _layers(photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split packed bytes into the image up to 255, alpha, 0 where unlabelled, and what is known: (4, H, W)."""
    known = (photo[3:] != UNLABELLED).float()
    return photo[:3].float(), photo[3:].float() * known / FULL, known


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
