"""Drawn photos of thin structures, with exact masks, to train on where there are no masks as fine, or no data at all.

The photo is a blend of a foreground and a background, both made up, by exactly the share of each pixel that the shape
covers (`birefnet.data.shapes`), and this share is the mask. A drawing follows from its seed and number alone; at
another size the same is drawn, but for the noise.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.data.cache import FULL
from birefnet.data.shapes import KINDS, MIDDLE, Shape, draw_shape, log_uniform
from birefnet.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
SPEC = "drawn"
"""What a data set of drawings is named by, as in drawn:2000."""

MOST = 1_000_000
"""The most drawings of a data set."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The layers of a drawn photo.

    Attributes:
        foreground: (H, W, 3) uint8, colours of the shape, also where it is not.
        background: (H, W, 3) uint8, what is behind it, with its shadow.
        coverage: (H, W) uint8, share of the foreground, 255 for all.
    """

    foreground: Pixels
    background: Pixels
    coverage: Pixels

    def blend(self) -> Pixels:
        """Lay the foreground over the background: (H, W, 3), where nothing is covered exactly the background."""
        share = self.coverage.astype(np.float32) * np.float32(1 / 255)
        return np.asarray(cv2.blendLinear(self.foreground, self.background, share, 1 - share), np.uint8)


def draw_structure(
    height: int, width: int, generator: np.random.Generator, kind: str | None = None
) -> tuple[Pixels, Pixels]:
    """Draw a photo of a thin structure, and its mask.

    Args:
        height: of both, in pixels.
        width: of both.
        generator: source of randomness.
        kind: one of `KINDS`; None for any.

    Returns:
        The photo (H, W, 3), and the share of foreground (H, W) from 0 to 255.
    """
    scene = draw_scene(height, width, generator, kind)
    return _take(scene.blend(), generator), scene.coverage


def colour_shape(shape: Shape, colours: NDArray[np.float32], behind: Pixels, generator: np.random.Generator) -> Pixels:
    """Give a shape a surface of some colours, lit from one side, that can be told from what is behind it.

    Args:
        shape: what to colour.
        colours: (N, 3) up to 255, N at least 2: from one to the next over the surface.
        behind: (H, W, 3), the photo that it is laid over.
        generator: source of randomness.

    Returns:
        (H, W, 3), also where the shape is not.
    """
    height, width = shape.coverage.shape
    surface = ramp(smooth_noise(height, width, generator, log_uniform(generator, 1, 8), 3), colours)
    return _set_apart(_light(surface, shape, generator), behind, shape.coverage, generator)


def draw_scene(height: int, width: int, generator: np.random.Generator, kind: str | None = None) -> Scene:
    """Draw the layers of a photo, before a camera blurs it and adds its noise; arguments as in `draw_structure`."""
    shape = draw_shape(height, width, generator, kind)
    background = paint(height, width, generator)
    behind = draw_shape(height, width, generator) if generator.random() < 0.12 else None
    if behind is not None:  # out of focus, hence no part of the object
        away = _soften(behind.coverage, math.sqrt(height * width) * generator.uniform(0.015, 0.04))
        background = Scene(paint(height, width, generator), background, away).blend()
    foreground = paint(height, width, generator)
    if generator.random() < 0.15:  # an object that can be told from what is behind it by its shape alone
        foreground = _blend(foreground, background[::-1, ::-1], generator.uniform(0.4, 0.8))
    background = cast_shadow(background, shape.coverage, generator)
    foreground = _light(foreground, shape, generator)
    return Scene(_set_apart(foreground, background, shape.coverage, generator), background, shape.coverage)


# --- the data set ---


class Drawn:
    """A data set of drawn photos, which needs no files: photo `index` is a pure function of the seed and its index.

    It is what `birefnet.data.photos.Photos` asks for.

    Attributes:
        names: a name for each, which differs from those of another seed.
        categories: None for each, as nothing drawn has a class of DIS5K.
        sources: "drawn" for each.
        aspects: 1 for each, though any can be drawn.
        seed: of all drawings.
        kind: one of `KINDS`, or None for any.
        headroom: how much larger than a batch its photos are, see `Augmentation.headroom`.
    """

    def __init__(self, count: int, seed: int = 0, kind: str | None = None, *, headroom: float = 1.0) -> None:
        if not 1 <= count <= MOST:
            raise DataError(f"{SPEC}:{count}: from 1 to {MOST:,} can be drawn, such as {SPEC}:2000")
        if seed < 0:
            raise DataError(f"{SPEC}:{count}@{seed}: a seed is 0 or more")
        if kind is not None and kind not in KINDS:
            raise DataError(f"{kind}: nothing of this kind is drawn: choose from {', '.join(KINDS)}")
        self.names: Sequence[str] = [f"{SPEC}-{seed}-{index:06d}" for index in range(count)]
        self.categories: Sequence[int | None] = [None] * count
        self.sources: Sequence[str] = [SPEC] * count
        self.aspects: Sequence[float] = [1.0] * count
        self.seed, self.kind, self.headroom = seed, kind, headroom

    @classmethod
    def from_spec(cls, text: str) -> "Drawn | None":
        """Read drawn:COUNT or drawn:COUNT@SEED; None for what names other data.

        Raises:
            DataError: it names drawings, but not like this.
        """
        if not text.startswith(f"{SPEC}:"):
            return None
        found = re.fullmatch(rf"{SPEC}:(\d{{1,9}})(?:@(\d{{1,18}}))?", text, re.ASCII)
        if found is None:
            raise DataError(f"{text}: drawings are named {SPEC}:COUNT or {SPEC}:COUNT@SEED, such as {SPEC}:2000@7")
        return cls(int(found[1]), int(found[2] or 0))

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, index: int, height: int, width: int) -> tuple[Pixels, Pixels]:
        """Draw one: the photo (H, W, 3), and the share of foreground (H, W) from 0 to 255."""
        return draw_structure(height, width, np.random.default_rng((self.seed, index)), self.kind)

    def read(self, indices: Sequence[int], height: int, width: int) -> "Tensor":
        """Draw some of them for batches of a size: see `birefnet.data.photos.Photos.read`.

        Returns:
            uint8 (B, 4, H', W'): red, green, blue and the label, 0 to 254 for the share of foreground.
        """
        import torch  # not above, as drawing to files needs none

        height, width = round(height * self.headroom), round(width * self.headroom)
        pixels = np.empty((len(indices), 4, height, width), np.uint8)
        for place, index in enumerate(indices):
            photo, mask = self.draw(index, height, width)
            pixels[place, :3] = photo.transpose(2, 0, 1)
            pixels[place, 3] = _LABELS[mask]
        return torch.from_numpy(pixels)


_LABELS = np.rint(np.arange(256) * (FULL / 255)).astype(np.uint8)


# --- colours and light ---


def colours_of_photos(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Colours as photos have them, seldom pure: (N, 3) up to 255."""
    light = rng.uniform(15, 240, (count, 1))
    hue = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.6, (count, 1))
    strength = rng.beta(1.2, 3.6, (count, 1))
    wheel = np.cos(hue + np.array([0, 2.094, 4.189]))
    colours: NDArray[np.float32] = np.clip(light * (1 + 0.7 * strength * wheel), 0, 255).astype(np.float32)
    return colours


def smooth_noise(height: int, width: int, rng: np.random.Generator, coarse: float, octaves: int) -> NDArray[np.float32]:
    """Smooth noise, weaker the finer: (H, W) float32 in [0, 1]."""
    # At half the size, as it is smooth.
    rows, columns = (height + 1) // 2, (width + 1) // 2
    total = np.zeros((rows, columns), np.float32)
    unit = math.sqrt(height * width)
    strength = rng.uniform(0.4, 0.75)
    for octave in range(octaves):
        cells = coarse * 2.0**octave
        # Always as many numbers, so that drawings of another size go on alike.
        side = 2 + math.ceil(2 * cells)
        grid = rng.random((side, side), np.float32)
        down, across = (min(side, 2 + round(cells * length / unit)) for length in (height, width))
        total += np.float32(strength**octave) * cv2.resize(
            grid[:down, :across], (columns, rows), interpolation=cv2.INTER_CUBIC
        )
    total = np.asarray(cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX), np.float32)  # type: ignore[call-overload]
    return np.asarray(cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def ramp(values: NDArray[np.float32], colours: NDArray[np.float32]) -> Pixels:
    """Colour values in [0, 1] by a scale of colours: (H, W) -> (H, W, 3)."""
    steps = np.linspace(0, len(colours) - 1, 256)
    table = np.stack([np.interp(steps, np.arange(len(colours)), channel) for channel in colours.T], axis=1)
    levels = cv2.convertScaleAbs(values, alpha=255)
    return np.asarray(cv2.applyColorMap(levels, table.reshape(256, 1, 3).astype(np.uint8)), np.uint8)


_STYLES = ("clouds", "clouds", "clouds", "sky", "sky", "cloth", "cloth", "blocks", "lights", "lights", "plain", "plain")


def paint(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Make up a surface, a sky or a scene out of focus, with nothing in it to cut out: (H, W, 3)."""
    style = _STYLES[rng.integers(len(_STYLES))]
    colours = colours_of_photos(rng, int(rng.integers(2, 5)))
    unit = math.sqrt(height * width)
    angle = rng.uniform(0, math.pi)
    x = np.arange(width, dtype=np.float32)[None] / np.float32(unit)
    y = np.arange(height, dtype=np.float32)[:, None] / np.float32(unit)
    along = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    if style == "clouds":  # foliage, stone, fur, by how fine it is
        return ramp(smooth_noise(height, width, rng, log_uniform(rng, 1, 12), 5), colours)
    if style == "sky":  # or a wall under a lamp
        span = float(along.max() - along.min())
        values = (along - along.min()) / np.float32(max(span, 1e-6))
        return ramp((0.85 * values + 0.15 * smooth_noise(height, width, rng, 3, 3)).astype(np.float32), colours)
    if style == "cloth":  # planks, tiles
        across = np.float32(-math.sin(angle)) * x + np.float32(math.cos(angle)) * y
        fine, other = rng.uniform(3, 22), rng.uniform(3, 22)
        bend = smooth_noise(height, width, rng, 2, 2) * np.float32(rng.uniform(0, 0.15))
        bands = np.sin((along + bend) * np.float32(2 * math.pi * fine))
        if rng.random() < 0.5:
            bands = bands * np.sin((across + bend) * np.float32(2 * math.pi * other))
        sharp = np.float32(log_uniform(rng, 0.7, 12))
        values = 0.5 + 0.5 * np.clip(bands * sharp, -1, 1)
        return ramp((0.7 * values + 0.3 * smooth_noise(height, width, rng, 5, 4)).astype(np.float32), colours)
    if style == "blocks":  # houses, shelves, what is far away
        cells = rng.integers(3, 9, 2)
        blocks = colours_of_photos(rng, int(cells[0] * cells[1])).reshape(cells[0], cells[1], 3)
        blocks = (0.5 * blocks + 0.5 * colours[0]).astype(np.uint8)
        grow, tilt = unit / 4 * rng.uniform(0.5, 1.5, 2), rng.normal(0, 0.25)
        view = np.array([[grow[0], grow[0] * tilt, 0.0], [-grow[1] * tilt, grow[1], 0.0]])
        far = cv2.warpAffine(blocks, view, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
        return _soften(np.asarray(far, np.uint8), unit * log_uniform(rng, 0.006, 0.06))
    if style == "lights":  # and things out of focus
        scene = ramp(smooth_noise(height, width, rng, 2, 3), colours)
        spots = int(rng.integers(8, 40))
        tints, sizes = 0.6 * colours_of_photos(rng, spots) + 0.4 * colours[-1], rng.uniform(0.01, 0.12, spots)
        places = rng.uniform(0, 1, (spots, 2)) * (width, height)
        for tint, size, place in zip(tints.tolist(), sizes, places, strict=True):
            cv2.circle(scene, (int(place[0]), int(place[1])), max(1, round(size * unit)), tint, -1)
        return _soften(scene, unit * log_uniform(rng, 0.005, 0.04))
    # paint, paper, a studio
    return ramp(smooth_noise(height, width, rng, 2, 4), colours[0] + rng.uniform(-14, 14, (2, 1)).astype(np.float32))


def cast_shadow(background: Pixels, coverage: Pixels, rng: np.random.Generator) -> Pixels:
    """Darken the background beside the shape now and then, so that a shadow is not taken for the object."""
    present = rng.random() < 0.6
    shaded = shade(background, coverage, rng)
    return shaded if present else background


def shade(background: Pixels, coverage: Pixels, rng: np.random.Generator) -> Pixels:
    """Let a shape's shadow fall on what is behind it: a little aside, of about its size, soft or hard, up to black.

    Args:
        background: (H, W, 3).
        coverage: (H, W), share of each pixel that the shape covers, 255 for all.
        rng: source of randomness.

    Returns:
        (H, W, 3).
    """
    unit = math.sqrt(coverage.size)
    dx, dy = rng.normal(0, 0.05, 2) * unit
    soft, strength = unit * log_uniform(rng, 0.003, 0.03), rng.uniform(0.15, 0.95)
    larger = log_uniform(rng, 0.9, 1.25)
    amounts = cv2.moments(coverage)
    if amounts["m00"] == 0:
        return background
    x, y = amounts["m10"] / amounts["m00"], amounts["m01"] / amounts["m00"]
    aside = np.array([[larger, 0, x - larger * x + dx], [0, larger, y - larger * y + dy]])
    moved = cv2.warpAffine(coverage, aside, coverage.shape[::-1])
    dark = _soften(np.asarray(moved, np.uint8), soft).astype(np.float32) * np.float32(-strength / 255) + np.float32(1)
    return scaled(background, dark)


def _light(foreground: Pixels, shape: Shape, rng: np.random.Generator) -> Pixels:
    """Make parts brighter and darker, and round them off by a light from one side."""
    unit = math.sqrt(shape.coverage.size)
    angle, relief = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.9)
    parts = rng.uniform(0.2, 1.0)
    gain = shape.shade.astype(np.float32) * np.float32(parts / MIDDLE) + np.float32(1 - parts)
    height = _soften(shape.coverage, max(0.8, 0.004 * unit))
    relief *= 0.4 / 255
    across = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=relief * math.cos(angle))
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=relief * math.sin(angle))
    return scaled(foreground, np.clip(gain + across + down, 0.15, 1.9))


def _set_apart(foreground: Pixels, background: Pixels, coverage: Pixels, rng: np.random.Generator) -> Pixels:
    """Brighten or darken a foreground that cannot be seen at all."""
    step = max(1, round(math.sqrt(coverage.size) / 64))
    inside = coverage[::step, ::step] > 127
    wanted, direction = rng.uniform(16, 50), rng.choice((-1.0, 1.0))
    if not inside.any():
        return foreground
    fore = foreground[::step, ::step][inside].astype(np.float32)
    back = background[::step, ::step][inside].astype(np.float32)
    apart = float(np.abs(fore - back).mean())
    if apart >= wanted:
        return foreground
    level = float(fore.mean())
    if level + direction * wanted > 235 or level + direction * wanted < 20:
        direction = -direction
    step = direction * (wanted - apart + 10)
    return np.asarray(cv2.add(foreground, np.full(foreground.shape, step, np.float32), dtype=cv2.CV_8U), np.uint8)


def _take(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Blur slightly, as lenses do, and add noise."""
    soft, noisy, strength = rng.uniform(0.3, 0.75), rng.random() < 0.7, rng.uniform(0, 9)
    blurred = rng.random() < 0.6
    if blurred:
        photo = np.asarray(cv2.GaussianBlur(photo, (3, 3), soft), np.uint8)
    if not noisy:
        return photo
    height, width = photo.shape[:2]
    # Two even numbers added are almost as good as normal ones, and ten times as fast.
    pair = rng.integers(0, 256, (2, height, width), np.uint8).astype(np.float32)
    grain = (pair[0] + pair[1] - np.float32(255)) * np.float32(strength / 104)
    return np.asarray(cv2.add(photo, spread(grain), dtype=cv2.CV_8U), np.uint8)


def _blend(one: Pixels, other: Pixels, share: float) -> Pixels:
    return np.asarray(cv2.addWeighted(one, 1 - share, np.ascontiguousarray(other), share, 0), np.uint8)


def _soften(image: Pixels, sigma: float) -> Pixels:
    """Blur by a Gaussian; a wide one on a smaller image, which looks the same and takes far less time."""
    height, width = image.shape[:2]
    smaller = max(1, int(sigma / 2))
    if smaller > 1:
        size = (max(2, width // smaller), max(2, height // smaller))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    soft = cv2.GaussianBlur(image, (0, 0), sigma / smaller)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def scaled(image: Pixels, gain: NDArray[np.float32]) -> Pixels:
    """Multiply all channels by a plane, rounded and within the range of bytes: (H, W, 3), (H, W) -> (H, W, 3)."""
    return np.asarray(cv2.multiply(image, spread(gain), dtype=cv2.CV_8U), np.uint8)


def spread(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat a plane for three channels, which OpenCV does faster than numpy broadcasts: (H, W) -> (H, W, 3)."""
    return np.asarray(cv2.merge([plane] * 3), np.float32)
