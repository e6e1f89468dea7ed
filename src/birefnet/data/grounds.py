"""What an object may stand before: drawn surfaces, tables, masts, skylines, drapes, or an empty part of its own photo.

Few photos that were collected for their objects show one on a table of wood whose edge runs through the photo, between
masts and lamps at dusk, or beside a flag or a curtain; a network that has not seen these takes them for objects.
Nothing here is one, so the label of it all is background.
"""

import functools
import math
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.data.lamps import Lamps
from birefnet.data.shapes import log_uniform
from birefnet.data.structures import Pixels, colours_of_photos, paint, ramp, scaled, smooth_noise, spread

Point = NDArray[np.float64]

TABLE, MASTS, SKYLINE, DRAPE = 0.65, 0.3, 0.4, 0.2
"""Chances that there is a table on a drawn ground, that there are masts, a skyline, and something that hangs there."""

DUSK = 0.5
"""Chance that it is dusk behind a skyline."""

# An empty part of the photo of less than this share of each side is too little to go by.
_LEAST_SIDE = 0.3
# Cells of the grid in which an empty part is looked for.
_CELLS = 24


def draw_ground(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """Draw what an object may stand before: (H, W, 3), with nothing in it to cut out.

    Args:
        height: in pixels.
        width: in pixels.
        generator: source of randomness.
    """
    ground = paint(height, width, generator)
    table, masts = generator.random() < TABLE, generator.random() < MASTS
    if table:
        ground = set_table(ground, generator)
    if masts:
        ground = _set_masts(ground, generator)
    if generator.random() < SKYLINE:
        ground = set_skyline(ground, generator)
    if generator.random() < DRAPE:
        ground = set_drape(ground, generator)
    return ground


def empty_part(photo: Pixels, occupied: NDArray[np.bool_], generator: np.random.Generator) -> Pixels | None:
    """Enlarge the largest part of a photo without an object to the whole photo's size, maybe mirrored.

    Args:
        photo: (H, W, 3).
        occupied: (H, W), where there is an object, or may be one.
        generator: source of randomness.

    Returns:
        (H, W, 3); None where no part is large enough.
    """
    height, width = occupied.shape
    mirrored, turned = generator.random() < 0.5, generator.random() < 0.25
    cells = cv2.resize(occupied.astype(np.uint8) * 255, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA) > 0
    top, bottom, left, right = _largest_empty(cells)
    if min(bottom - top, right - left) < _LEAST_SIDE * _CELLS:
        return None
    rows = slice(math.ceil(top * height / _CELLS), bottom * height // _CELLS)
    columns = slice(math.ceil(left * width / _CELLS), right * width // _CELLS)
    part = photo[rows, columns]
    part = part[:, ::-1] if mirrored else part
    part = part[::-1] if turned else part
    return np.asarray(cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _largest_empty(occupied: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The largest rectangle without an occupied cell: top, bottom, left and right, the second and last excluded."""
    rows, columns = occupied.shape
    best, found = 0, (0, 0, 0, 0)
    free = np.zeros(columns, np.int64)
    for bottom in range(rows):
        free = np.where(occupied[bottom], 0, free + 1)
        for left in range(columns):
            # The highest rectangle from this column to each one right of it.
            tall = np.minimum.accumulate(free[left:])
            areas = tall * np.arange(1, columns - left + 1)
            widest = int(areas.argmax())
            if areas[widest] > best:
                best = int(areas[widest])
                found = (bottom + 1 - int(tall[widest]), bottom + 1, left, left + widest + 1)
    return found


def set_table(ground: Pixels, rng: np.random.Generator) -> Pixels:
    """Cover the photo on one side of a line by a surface that is lit, mostly of wood."""
    height, width = ground.shape[:2]
    unit = math.sqrt(height * width)
    surface = _wood(height, width, rng) if rng.random() < 0.7 else paint(height, width, rng)
    if rng.random() < 0.5:  # a room in the dark
        ground = np.asarray(cv2.convertScaleAbs(ground, alpha=rng.uniform(0, 0.3)), np.uint8)
    # A table seen from its front, or from above with its edge anywhere.
    angle = rng.normal(math.pi / 2, 0.1) if rng.random() < 0.5 else rng.uniform(0, 2 * math.pi)
    x = (np.arange(width, dtype=np.float32)[None] - np.float32(width / 2)) / np.float32(unit)
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2)) / np.float32(unit)
    beyond = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y + np.float32(rng.uniform(-0.25, 0.6))
    soft = np.float32(log_uniform(rng, 0.001, 0.02))
    share = np.clip(beyond / soft + np.float32(0.5), 0, 1)
    # A lamp above, whose light falls off, and shines back from what is smooth.
    lit_x, lit_y = rng.uniform(-0.6, 0.6, 2).astype(np.float32)
    far = np.sqrt((x - lit_x) ** 2 + (y - lit_y) ** 2)
    light = np.exp(-far * np.float32(rng.uniform(0, 1.2)))
    surface = scaled(surface, light)
    if rng.random() < 0.4:
        shine = np.exp(-((far / np.float32(rng.uniform(0.08, 0.4))) ** 2)) * np.float32(rng.uniform(20, 110))
        surface = np.asarray(cv2.add(surface, spread(shine), dtype=cv2.CV_8U), np.uint8)
    return _blend(surface, ground, share)


def _wood(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Planks with their grain, from anywhere: (H, W, 3)."""
    # Drawn upright, larger than the photo, and then seen from somewhere.
    long = 2 * max(height, width)
    levels = np.zeros((long, long), np.float32)
    total = 0.0
    for lines in (long // 60, long // 16, long // 5):  # wide bands, grain, fibres
        strength = rng.uniform(0.3, 1)
        total += strength
        streaks = rng.random((int(rng.integers(3, 40)), max(2, lines)), np.float32)
        levels += np.float32(strength) * cv2.resize(streaks, (long, long), interpolation=cv2.INTER_LINEAR)
    # Their mean has less contrast than each of them.
    levels = np.float32(0.5) + (levels / np.float32(total) - np.float32(0.5)) * np.float32(rng.uniform(0.6, 2))
    planks = int(rng.integers(1, 9))
    place = np.arange(long) * planks / long
    levels += rng.uniform(-0.2, 0.2, planks).astype(np.float32)[place.astype(int)][None]
    gap = np.abs(place - np.rint(place)) < rng.uniform(0.004, 0.02)
    levels[:, gap] *= np.float32(rng.uniform(0.2, 0.9))
    for _ in range(int(rng.integers(0, 25))):  # cracks and scratches
        x, y, reach = rng.uniform(0, long), rng.uniform(0, long), rng.uniform(0.01, 0.12) * long
        end = (round(x + rng.normal(0, 3)), round(y + reach))
        cv2.line(levels, (round(x), round(y)), end, rng.uniform(0, 1), int(rng.integers(1, 4)), cv2.LINE_AA)
    # The grain goes around knots.
    bend = (smooth_noise(long, long, rng, 2, 2) - np.float32(0.5)) * np.float32(rng.uniform(0, 0.08) * long)
    rows, columns = np.indices((long, long), np.float32)
    bent = cv2.remap(levels, columns + bend, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    red = rng.uniform(180, 250) if rng.random() < 0.5 else rng.uniform(70, 250)  # warm lamplight as often as not
    colour = np.array([red, red * rng.uniform(0.4, 0.78), red * rng.uniform(0.1, 0.65)])
    colours = np.stack([colour * rng.uniform(0.15, 0.7), colour]).astype(np.float32)
    # Seen at an angle: the far end of the planks is narrower.
    corners = np.array([[0, 0], [long, 0], [long, long], [0, long]], np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    seen = (corners - np.float32(long / 2)) * np.float32(rng.uniform(0.8, 1.6))
    seen[:2, 0] *= np.float32(rng.uniform(0.5, 1))
    seen[:, 0] += np.float32(rng.uniform(-0.35, 0.35)) * seen[:, 1]
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], np.float32)
    placed = (seen @ rotation + np.array([width / 2, height / 2])).astype(np.float32)
    view = cv2.getPerspectiveTransform(corners, placed)
    flat = np.clip(bent, 0, 1).astype(np.float32)
    turned = cv2.warpPerspective(flat, view, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return ramp(np.asarray(turned, np.float32), colours)


def _set_masts(ground: Pixels, rng: np.random.Generator) -> Pixels:
    """Stand masts of one kind in the photo, far behind what is in it: pylons, cranes, street lamps, trunks."""
    height, width = ground.shape[:2]
    finer = 3
    cover = np.zeros((height * finer, width * finer), np.uint8)
    unit = math.sqrt(height * width) * finer
    lattice, thickness = rng.random() < 0.7, unit * log_uniform(rng, 0.002, 0.008)
    taper, slim, bays = rng.uniform(0.1, 1.0), log_uniform(rng, 0.02, 0.14), log_uniform(rng, 0.5, 1.6)
    foot = rng.uniform(0.7, 1.15) * height * finer

    def line(start: Point, end: Point, thicker: float = 1.0) -> None:
        begin, finish = np.rint(16 * np.stack([start, end])).astype(int).tolist()
        cv2.line(cover, begin, finish, 255, max(1, round(thicker * thickness)), cv2.LINE_AA, 4)

    for _ in range(int(rng.integers(1, 6))):
        near = log_uniform(rng, 0.5, 2)
        middle, tall = rng.uniform(0, width * finer), rng.uniform(0.3, 0.9) * near * height * finer
        half, lean = slim * near * unit / 2, rng.normal(0, 0.04) * tall
        at = functools.partial(_on_mast, (middle, foot), tall, half, taper, lean)
        if lattice:
            for side in (-1, 1):
                line(at(side, 0), at(side, 1), 1.2)
            count = max(2, min(24, round(tall / (2 * half * bays))))
            for bay in range(count):
                low, high = bay / count, (bay + 1) / count
                line(at(-1, low), at(1, high), 0.6)
                line(at(1, low), at(-1, high), 0.6)
                line(at(-1, high), at(1, high), 0.6)
            if rng.random() < 0.5:  # a pole on its top
                line(at(0, 1), at(0, rng.uniform(1.1, 1.5)), 1.5)
        else:
            line(at(0, 0), at(0, 1), rng.uniform(1, 5))
            if rng.random() < 0.5:  # an arm, as of a lamp or a crane
                reach = (rng.choice((-1, 1)) * rng.uniform(0.5, 3), rng.uniform(-0.5, 0.5))
                line(at(0, 1), at(0, 1) + np.multiply(reach, half))
    share = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    share *= np.float32(rng.uniform(0.35, 1))
    dark = colours_of_photos(rng, 2) * np.float32(rng.uniform(0.2, 0.7))
    return _blend(ramp(smooth_noise(height, width, rng, 2, 2), dark), ground, share)


def set_skyline(ground: Pixels, generator: np.random.Generator) -> Pixels:
    """Put roofs, masts and lit lamps at a photo's lower border, in a few groups, often at dusk: (H, W, 3)."""
    height, width = ground.shape[:2]
    unit = math.sqrt(height * width)
    if generator.random() < DUSK:
        ground = _dim(ground, generator)
    finer = 3
    cover = np.zeros((height * finer, width * finer), np.uint8)
    lamps = Lamps(height, width, unit * log_uniform(generator, 0.003, 0.012), log_uniform(generator, 0.8, 3), generator)
    horizon, lattice = generator.uniform(0.85, 1) * height, generator.random() < 0.6
    for middle in generator.uniform(0, width, int(generator.integers(1, 5))):
        reach = unit * generator.uniform(0.03, 0.2)
        for _ in range(int(generator.integers(0, 5))):  # roofs
            x, half = middle + reach * generator.normal(), unit * generator.uniform(0.005, 0.075)
            left, top = round(finer * (x - half)), round(finer * (horizon - unit * generator.uniform(0.005, 0.08)))
            cv2.rectangle(cover, (left, top), (round(finer * (x + half)), height * finer), 255, cv2.FILLED)
        for _ in range(int(generator.integers(1, 8))):  # masts
            x, tall = middle + reach * generator.normal(), unit * generator.uniform(0.03, 0.25)
            at_top = x + 0.02 * tall * generator.normal(), horizon - tall
            _set_post(cover, finer, (x, float(height)), at_top, lattice and generator.random() < 0.5, generator)
            if generator.random() < 0.6:
                lamps.add(at_top[0], at_top[1] + generator.uniform(0, 0.5) * tall)
    share = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    dark = colours_of_photos(generator, 2) * np.float32(generator.uniform(0.1, 0.9))
    skyline = _blend(ramp(smooth_noise(height, width, generator, 2, 2), dark), ground, share)
    return np.asarray(cv2.add(skyline, 255 * lamps.light, dtype=cv2.CV_8U), np.uint8)


def set_drape(ground: Pixels, generator: np.random.Generator) -> Pixels:
    """Hang a flag, a banner or a curtain at the left or right border of a photo, in folds: (H, W, 3)."""
    height, width = ground.shape[:2]
    unit = math.sqrt(height * width)
    x = np.arange(width, dtype=np.float32)[None] / np.float32(unit)
    y = np.arange(height, dtype=np.float32)[:, None] / np.float32(unit)
    if generator.random() < 0.5:
        x = x[:, ::-1]
    bend = smooth_noise(height, width, generator, log_uniform(generator, 1, 6), 2) - np.float32(0.5)
    # From the border to a line that leans, and mostly from above the photo to below it.
    lean = np.float32(generator.normal(0, 0.3))
    wide = np.float32(log_uniform(generator, 0.04, 0.4) * width / unit)
    top = np.float32(generator.uniform(0, 0.5) * height / unit if generator.random() < 0.3 else -1)
    bottom = np.float32(generator.uniform(0.5, 1) * height / unit if generator.random() < 0.3 else 9)
    beyond = x - wide - lean * (y - y.mean()) + np.float32(generator.uniform(0, 0.15)) * bend
    beyond = np.maximum(beyond, np.maximum(top - y, y - bottom))
    share = np.clip(np.float32(0.5) - beyond * np.float32(unit / log_uniform(generator, 1, 6)), 0, 1)
    colours = dyes(generator)
    turn = generator.uniform(0, math.pi)
    across = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y + np.float32(0.2) * bend
    stripes = np.floor(across * np.float32(log_uniform(generator, 3, 25))).astype(int) % len(colours)
    cloth = np.asarray(colours[stripes], np.uint8)
    if generator.random() < 0.3:  # stars, dots, letters
        spots = smooth_noise(height, width, generator, log_uniform(generator, 8, 24), 1) > np.float32(0.75)
        cloth[spots] = colours_of_photos(generator, 1)[0].astype(np.uint8)
    hang = generator.normal(0, 0.15)
    folds = np.float32(math.cos(hang)) * x + np.float32(math.sin(hang)) * y + np.float32(0.15) * bend
    waves = np.sin(folds * np.float32(2 * math.pi * log_uniform(generator, 4, 30)))
    light = np.float32(generator.uniform(0.4, 1.1)) * (1 + np.float32(generator.uniform(0.05, 0.5)) * waves)
    return _blend(scaled(cloth, light.astype(np.float32)), ground, share.astype(np.float32))


def dyes(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one to four strong colours: (N, 3) up to 255."""
    colours = []
    for _ in range(int(rng.integers(1, 5))):
        if rng.random() < 0.3:
            colours.append(np.full(3, rng.uniform(180, 255)))
            continue
        hue = rng.choice((0.0, 120.0, 230.0, 50.0)) + rng.normal(0, 12) if rng.random() < 0.7 else rng.uniform(0, 360)
        pure = np.clip(np.abs((hue / 60 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        strength = rng.uniform(0.5, 1)
        colours.append(rng.uniform(70, 240) * (1 - strength + strength * pure))
    return np.asarray(colours, np.float32)


def _dim(ground: Pixels, rng: np.random.Generator) -> Pixels:
    """Let it be dusk: darker, most so above or below, and bluer."""
    above, below = rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.7)
    light = np.linspace(above, below, len(ground), dtype=np.float32)[:, None, None]
    colour = np.array([rng.uniform(0.5, 1), rng.uniform(0.6, 1), 1], np.float32)
    return (ground * (light * colour)).astype(np.uint8)


def _set_post(
    cover: Pixels,
    finer: int,
    foot: tuple[float, float],
    top: tuple[float, float],
    lattice: bool,
    rng: np.random.Generator,
) -> None:
    """Draw a post, or two with braces between them, into a cover that is `finer` times as large as its photo."""
    unit = math.sqrt(cover.size)
    thick = max(1, round(unit * log_uniform(rng, 0.0008, 0.004)))
    (x, low), (above, high) = ((round(finer * place[0]), round(finer * place[1])) for place in (foot, top))
    cv2.line(cover, (x, low), (above, high), 255, thick, cv2.LINE_AA)
    if not lattice:
        return
    wide, bays = round(unit * rng.uniform(0.006, 0.04)), int(rng.integers(3, 14))
    cv2.line(cover, (x + wide, low), (above + wide, high), 255, thick, cv2.LINE_AA)
    levels = np.rint(np.linspace(high, low, bays + 1)).astype(int).tolist()
    for upper, lower in pairwise(levels):
        for end in (lower, upper):
            cv2.line(cover, (above, upper), (above + wide, end), 255, max(1, thick // 2), cv2.LINE_AA)


def _on_mast(
    foot: tuple[float, float], tall: float, half: float, taper: float, lean: float, side: float, up: float
) -> Point:
    """A place on a mast: from its left (-1) to its right side (1), from its foot (0) to its top (1)."""
    x, y = foot
    return np.array([x + side * half * (1 - (1 - taper) * up) + lean * up, y - tall * up])


def _blend(over: Pixels, under: Pixels, share: NDArray[np.float32]) -> Pixels:
    return np.asarray(cv2.blendLinear(over, under, share, 1 - share), np.uint8)
