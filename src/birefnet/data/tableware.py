"""Drawn tableware on tables: plates and saucers with a cup, a bowl, food or a spoon on them, seen from above.

A saucer's rim, lit by a lamp and of about the table's colour, and the dark that it casts are what photos of people and
animals teach nothing of: the rim is bitten off, and its shadow kept. Dishes are bodies of revolution here, each painted
as its circles from the foot to the rim and on from the rim to the bottom, which look like ellipses from a camera above.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.data.grounds import dyes, set_table
from birefnet.data.held import Plane, covered, highlights, laid, material
from birefnet.data.shapes import log_uniform
from birefnet.data.structures import Pixels, colours_of_photos, paint, ramp, smooth_noise

Colour = NDArray[np.float32]

TONED, WHITE, BLACK = 0.4, 0.2, 0.1
"""Shares of the dishes that are of about their table's colour, white and black; the others are glazed in any colour."""

ON_TABLE = 0.85
"""Chance that a plate casts a shadow on the table."""

_SHINE = np.array([255, 250, 240], np.float32)  # of a lamp
_SIZES = (0.2, 0.46)  # of the plate's radius, as a share of the photo's side
_FINER = 4  # what is drawn by strokes is drawn so much larger


def draw_tableware(height: int, width: int, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Draw a table with a plate, and mostly something on the plate.

    Args:
        height: of the photo, in pixels.
        width: of the photo.
        generator: source of randomness.

    Returns:
        The photo (H, W, 3), and the share of each pixel that is tableware (H, W), 255 for all.
    """
    table = set_table(paint(height, width, generator), generator)
    view = _View.drawn(height, width, generator)
    picture = _Picture(table, view)
    colour = _dish_colour(table, generator)
    if generator.random() < ON_TABLE:
        picture.cast(0, 0, log_uniform(generator, 0.7, 1.1), log_uniform(generator, 0.02, 0.3), generator)
    high = generator.uniform(0.05, 0.3)
    inside = colour if generator.random() < 0.8 else _dish_colour(table, generator)
    flat = generator.uniform(0.45, 0.85)
    picture.turn(
        0,
        0,
        [(0.55, 0.0), (0.75, 0.3 * high), (0.92, 0.75 * high), (1.0, high)],
        [
            (0.97, 0.97 * high),
            (0.85, 0.7 * high),
            (flat, 0.25 * high),
            (0.9 * flat, 0.15 * high),
            (0.4 * flat, 0.12 * high),
        ],
        colour,
        inside,
        generator,
    )
    what = generator.random()
    if what < 0.6:
        _set_cup(picture, colour, 0.12 * high, generator)
    elif what < 0.85:
        _serve(picture, flat, 0.15 * high, generator)
    if generator.random() < 0.5:
        _lay_spoon(picture, 0.2 * high, generator)
    return picture.taken(generator)


@dataclass(frozen=True, eq=False)
class _View:
    """Where each pixel is on the table, where the plate's radius is 1 and its middle is the origin.

    Attributes:
        x: (H, W), to the right.
        y: (H, W), towards the camera, as much shorter as it looks.
        flat: by how much circles look flatter.
        up: by how much a height moves things up.
        pixel: side of a pixel.
        lamp: azimuth from which the light comes.
    """

    x: Plane
    y: Plane
    flat: float
    up: float
    pixel: float
    lamp: float

    @classmethod
    def drawn(cls, height: int, width: int, rng: np.random.Generator) -> "_View":
        radius = math.sqrt(height * width) * rng.uniform(*_SIZES)
        elevation, roll = rng.uniform(0.4, 1.5), rng.normal(0, 0.1)
        middle = np.array([width, height]) * rng.uniform(0.36, 0.64, 2)
        x = (np.arange(width, dtype=np.float32)[None] + np.float32(0.5 - middle[0])) / np.float32(radius)
        y = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5 - middle[1])) / np.float32(radius)
        across = np.float32(math.cos(roll)) * x + np.float32(math.sin(roll)) * y
        down = np.float32(math.cos(roll)) * y - np.float32(math.sin(roll)) * x
        flat, up = math.sin(elevation), math.cos(elevation)
        return cls(across, down, flat, up, 1 / radius, rng.uniform(0, 2 * math.pi))

    def disc(self, x: float, y: float, z: float, radius: float) -> tuple[Plane, Plane, Plane]:
        """Distance from the middle of a level circle, 1 on it, and the cosine and sine of the azimuth around it."""
        across = (self.x - np.float32(x)) / np.float32(radius)
        down = (self.y - np.float32(y * self.flat - z * self.up)) / np.float32(radius * self.flat)
        distance = np.hypot(across, down)
        least = np.maximum(distance, np.float32(1e-3))
        return distance, across / least, down / least

    def facing(self, cosine: Plane, sine: Plane) -> Plane:
        """How far what looks to an azimuth faces the lamp: from -1 to 1."""
        return np.asarray(np.float32(math.cos(self.lamp)) * cosine + np.float32(math.sin(self.lamp)) * sine, np.float32)

    def inside(self, distance: Plane, radius: float, soft: float = 1.0) -> Plane:
        """Share of each pixel within a circle."""
        return covered(distance, soft * self.pixel / (radius * math.sqrt(self.flat)))

    def strokes(self, points: NDArray[np.float64], wide: float) -> Plane:
        """Share of each pixel that a line covers through points (N, 3) on or above the table."""
        height, width = self.x.shape
        # The pixel of a point: x and y are linear in it, so two pixels and the origin tell all.
        grid = np.array([[self.x[0, 1] - self.x[0, 0], self.x[1, 0] - self.x[0, 0]],
                         [self.y[0, 1] - self.y[0, 0], self.y[1, 0] - self.y[0, 0]]], np.float64)  # fmt: skip
        seen = np.stack([points[:, 0], points[:, 1] * self.flat - points[:, 2] * self.up])
        place = np.linalg.solve(grid, seen - np.array([[self.x[0, 0]], [self.y[0, 0]]])).T + 0.5
        fine = np.zeros((height * _FINER, width * _FINER), np.uint8)
        thick = max(1, round(wide / self.pixel * _FINER))
        corners = np.rint(place * _FINER * 16).astype(np.int32)
        cv2.polylines(fine, [corners], False, 255, thick, cv2.LINE_AA, 4)
        return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / 255, np.float32)


class _Picture:
    """A table and what is painted onto it, from the back to the front."""

    def __init__(self, table: Pixels, view: _View) -> None:
        self.view = view
        self.surface = table.astype(np.float32)
        self.coverage = np.zeros(table.shape[:2], np.float32)

    def lay(self, colour: Colour, share: Plane) -> None:
        """Lay a colour (3,) or colours (H, W, 3) over it, as part of the tableware."""
        self.surface = laid(self.surface, colour, share)
        self.coverage = self.coverage + share - self.coverage * share

    def cast(self, x: float, y: float, radius: float, away: float, rng: np.random.Generator) -> None:
        """Let something round cast its shadow on what is there, away from the lamp."""
        turn = self.view.lamp + math.pi
        distance, *_ = self.view.disc(x + away * math.cos(turn), y + away * math.sin(turn), 0, radius)
        share = covered(distance, max(log_uniform(rng, 0.01, 0.3), self.view.pixel / radius))
        self.surface = self.surface * (1 - np.float32(rng.uniform(0.3, 0.97)) * share)[..., None]

    def turn(
        self,
        x: float,
        y: float,
        outside: list[tuple[float, float]],
        inside: list[tuple[float, float]],
        colour: Colour,
        lining: Colour,
        rng: np.random.Generator,
    ) -> Plane:
        """Paint a body of revolution at (x, y): circles of (radius, height) up its outside, then down its inside.

        Returns:
            (H, W), the share of each pixel within its rim.
        """
        view = self.view
        depth, dark, gloss = rng.uniform(0.1, 0.5), rng.uniform(0.35, 0.9), rng.uniform(0.1, 1)
        radius, high = outside[-1]
        for r, z in _between(outside, view.pixel):
            distance, cosine, sine = view.disc(x, y, z, r)
            light = np.float32(dark) * (1 + np.float32(depth) * view.facing(cosine, sine))
            self.lay(colour * light[..., None], view.inside(distance, r))
        distance, cosine, sine = view.disc(x, y, high, radius)
        within = view.inside(distance, radius)
        rim = lining if rng.random() < 0.7 else material(rng)
        self.lay(rim * np.float32(rng.uniform(0.8, 1.3)), within)
        angle = np.arctan2(sine, cosine)
        arcs = np.zeros_like(angle)
        for _ in range(int(rng.choice((0, 1, 2, 3)))):  # where a rim bends, it shines
            apart = np.abs((angle - np.float32(rng.uniform(-math.pi, math.pi)) + math.pi) % (2 * math.pi) - math.pi)
            arcs += np.exp(-((apart / np.float32(rng.uniform(0.05, 0.7))) ** 2)) * np.float32(rng.uniform(0.3, 1))
        self.lay(_SHINE, within * np.clip(arcs * np.float32(gloss), 0, 1))
        for r, z in _between(inside, view.pixel):
            distance, cosine, sine = view.disc(x, y, z, r)
            light = np.float32(1) - np.float32(0.6 * depth) * view.facing(cosine, sine)
            self.lay(lining * light[..., None], view.inside(distance, r) * within)
        if rng.random() < 0.7:
            distance, cosine, sine = view.disc(x, y, high, radius)
            shine = highlights(distance * cosine, distance * sine, view.pixel / radius, rng)
            self.lay(_SHINE, np.clip(shine * np.float32(gloss), 0, 1) * within)
        return within

    def taken(self, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        """The photo and the coverage, as sharp and as noisy as photos are."""
        soft, noise = rng.uniform(0.4, 1.0), rng.uniform(0, 4)
        layers = np.concatenate([self.surface, 255 * self.coverage[..., None]], axis=2)
        layers = np.asarray(cv2.GaussianBlur(layers, (0, 0), soft), np.float32)
        layers[..., :3] += np.float32(noise) * rng.standard_normal(self.coverage.shape, np.float32)[..., None]
        layers = np.rint(np.clip(layers, 0, 255)).astype(np.uint8)
        return np.ascontiguousarray(layers[..., :3]), np.ascontiguousarray(layers[..., 3])


def _set_cup(picture: _Picture, colour: Colour, level: float, rng: np.random.Generator) -> None:
    """Set a cup onto the plate, with its handle, mostly with something in it."""
    x, y = rng.normal(0, 0.12, 2).tolist()
    rim, tall = rng.uniform(0.35, 0.7), rng.uniform(0.3, 1.0)
    foot, bulge = rim * rng.uniform(0.45, 0.9), rng.uniform(0.4, 1.4)
    colour = colour if rng.random() < 0.65 else dyes(rng)[0]
    lining = _rgb(235, 228, 220) if rng.random() < 0.5 else colour
    picture.cast(x, y, rim * rng.uniform(0.8, 1.1), tall * rng.uniform(0.2, 0.8), rng)
    wall = [(foot + (rim - foot) * up**bulge, level + tall * up) for up in np.linspace(0, 1, 6).tolist()]
    thick, full = rng.uniform(0.04, 0.14) * rim, rng.uniform(0.4, 0.95)
    inner = [(r - thick, z) for r, z in reversed(wall) if z >= level + tall * full]
    azimuth = rng.uniform(0, 2 * math.pi)
    handle = rng.random() < 0.85
    if handle and math.sin(azimuth) < 0:
        _fix_handle(picture, (x, y), wall, azimuth, colour, rng)
    within = picture.turn(x, y, wall, inner, colour, lining, rng)
    # What is in it, its lining's shade where it is empty.
    z, r = level + tall * full, rim + (foot - rim) * (1 - full) - thick
    distance, *_ = picture.view.disc(x, y, z, r)
    drink = lining * np.float32(0.7) if rng.random() < 0.15 else _drink(rng)
    share = picture.view.inside(distance, r) * within
    picture.lay(drink, share)
    picture.lay(drink * np.float32(rng.uniform(0.6, 1.5)), share * np.clip((distance - 0.75) * 6, 0, 1))
    if handle and math.sin(azimuth) >= 0:
        _fix_handle(picture, (x, y), wall, azimuth, colour, rng)


def _fix_handle(
    picture: _Picture,
    middle: tuple[float, float],
    wall: list[tuple[float, float]],
    azimuth: float,
    colour: Colour,
    rng: np.random.Generator,
) -> None:
    """Draw the handle of a cup: a bow from near its rim to below its middle, lighter along its middle."""
    radii, heights = np.array(wall).T
    along = np.linspace(0, 1, 14)
    z = heights[0] + (heights[-1] - heights[0]) * (rng.uniform(0.75, 0.95) + (0.3 - 0.85) * along)
    out = np.interp(z, heights, radii) - 0.02 + rng.uniform(0.12, 0.4) * np.sin(math.pi * along) ** 0.6
    bow = np.stack([middle[0] + out * math.cos(azimuth), middle[1] + out * math.sin(azimuth), z], axis=1)
    wide = rng.uniform(0.05, 0.16)
    for part, light in ((1.0, rng.uniform(0.4, 0.9)), (0.6, rng.uniform(0.8, 1.1)), (0.2, rng.uniform(1, 2))):
        picture.lay(np.clip(colour * np.float32(light), 0, 255), picture.view.strokes(bow, wide * part))


def _serve(picture: _Picture, radius: float, level: float, rng: np.random.Generator) -> None:
    """Put food onto the plate: a heap of any colours with a ragged outline."""
    distance, cosine, sine = picture.view.disc(
        rng.normal(0, 0.08), rng.normal(0, 0.08), level, radius * rng.uniform(0.4, 1.0)
    )
    height, width = distance.shape
    ragged = smooth_noise(height, width, rng, log_uniform(rng, 4, 20), 3)
    share = picture.view.inside(distance * (1 + np.float32(0.8) * (ragged - np.float32(0.5))), radius, 2)
    colours = colours_of_photos(rng, int(rng.integers(2, 5)))
    grain = ramp(smooth_noise(height, width, rng, log_uniform(rng, 5, 30), 4), colours).astype(np.float32)
    lit = np.float32(1) + np.float32(0.3) * distance * picture.view.facing(cosine, sine)
    picture.lay(grain * lit[..., None], share)


def _lay_spoon(picture: _Picture, level: float, rng: np.random.Generator) -> None:
    """Lay a spoon or a knife of metal onto the plate, maybe reaching beyond its rim."""
    azimuth, side = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.35)
    begin, end = rng.uniform(-0.7, 0.2), rng.uniform(0.6, 1.35)
    along, across = np.array([math.cos(azimuth), math.sin(azimuth)]), np.array([-math.sin(azimuth), math.cos(azimuth)])
    steps = np.linspace(begin, end, 8)
    path = steps[:, None] * along + side * across
    points = np.concatenate([path, level + 0.15 * np.clip(steps, 0, 1)[:, None]], axis=1)
    wide, grey = rng.uniform(0.03, 0.08), rng.uniform(90, 200)
    metal = _rgb(grey, grey * rng.uniform(0.9, 1), grey * rng.uniform(0.8, 1))
    for part, light in ((1.0, 0.5), (0.7, 1.0), (0.25, rng.uniform(1, 1.6))):
        picture.lay(np.clip(metal * np.float32(light), 0, 255), picture.view.strokes(points, wide * part))
    if rng.random() < 0.3:  # a knife has no bowl
        return
    radius = rng.uniform(0.1, 0.22)
    x, y = (path[0] - 0.7 * radius * along).tolist()
    distance, cosine, sine = picture.view.disc(x, y, level + 0.03, radius)
    share = picture.view.inside(distance, radius)
    bands = np.float32(0.75) + np.float32(0.5) * np.sin(4 * distance * cosine + np.float32(rng.uniform(0, 6)))
    picture.lay(metal * bands[..., None], share)
    shine = highlights(distance * cosine, distance * sine, picture.view.pixel / radius, rng)
    picture.lay(_SHINE, np.clip(shine, 0, 1) * share)


def _dish_colour(table: Pixels, rng: np.random.Generator) -> Colour:
    """A colour of glazed clay, see `TONED`: (3,) up to 255."""
    which, light = rng.random(), rng.uniform(0.6, 1.3)
    if which < TONED:
        height, width = table.shape[:2]
        own = table[height // 4 : height - height // 4, width // 4 : width - width // 4].mean((0, 1)) + 8
        colour = own * light * rng.uniform(0.8, 1.2, 3)
    elif which < TONED + WHITE:
        colour = 190 * light**0.5 * rng.uniform(0.93, 1, 3)
    elif which < TONED + WHITE + BLACK:
        colour = 30 * light * rng.uniform(0.9, 1, 3)
    else:
        colour = dyes(rng)[0] * light**0.5
    return np.asarray(np.clip(colour, 0, 255), np.float32)


def _drink(rng: np.random.Generator) -> Colour:
    """The colour of coffee, tea, milk, or of anything else."""
    if rng.random() < 0.3:
        return np.asarray(colours_of_photos(rng, 1)[0], np.float32)
    red = rng.uniform(30, 235)
    return _rgb(red, red * rng.uniform(0.5, 0.9), red * rng.uniform(0.15, 0.7))


def _rgb(red: float, green: float, blue: float) -> Colour:
    return np.array([red, green, blue], np.float32)


def _between(circles: list[tuple[float, float]], pixel: float) -> list[tuple[float, float]]:
    """Add circles between those given, so that none is more than a few pixels from the next."""
    if len(circles) < 2:
        return circles
    radii, heights = np.array(circles).T
    steps = np.abs(np.diff(radii)) + np.abs(np.diff(heights))
    place = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(np.clip(np.ceil(place[-1] / (5 * pixel)), len(circles), 12))
    at = np.linspace(0, place[-1], count)
    return list(zip(np.interp(at, place, radii).tolist(), np.interp(at, place, heights).tolist(), strict=True))
