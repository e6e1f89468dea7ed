"""Shapes of thin structures with exact masks: wires, lattices, spokes, hair, twigs, holes and such.

Each is drawn at several times the size and averaged over the pixels, so that the mask is the share of each pixel that
the shape covers. At another size the same random numbers draw the same shape.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
"""(N, 2): x and y, where the square root of the image's area is 1."""

MIDDLE = 128
"""The shade of parts that are as bright as their colour."""

_FIXED = 4  # fractional bits of the coordinates that OpenCV draws with
_CHUNK = 6
_LEAST, _MOST = 0.004, 0.85
_TRIES = 6


@dataclass(frozen=True, eq=False)
class Shape:
    """A shape without colours.

    Attributes:
        coverage: (H, W) uint8, share of the pixel that it covers, 255 for all.
        shade: (H, W) uint8, how bright its parts are: 128 as they are, 0 black, 255 twice as bright.
    """

    coverage: Pixels
    shade: Pixels


def draw_shape(height: int, width: int, generator: np.random.Generator, kind: str | None = None) -> Shape:
    """Draw a shape that is neither next to nothing nor all of the image; arguments as in `draw_structure`."""
    name = kind if kind is not None else KINDS[generator.integers(len(KINDS))]
    for _ in range(_TRIES):
        canvas = _Canvas(height, width)
        _DRAWING[name](canvas, generator)
        coverage = canvas.coverage()
        if _LEAST < coverage.mean() / 255 < _MOST:
            break
    return Shape(coverage, canvas.shade)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a factor: each doubling of it is as likely as another."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


# --- the canvas ---


class _Canvas:
    """Where shapes are drawn, several times finer than the image."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.unit = math.sqrt(height * width)
        self.across, self.down = width / self.unit, height / self.unit
        # Finer where the image is small: there a pixel is more of the shape, and memory is no matter.
        self.finer = min(8, max(2, 1536 // max(height, width)))
        self.fine: Pixels = np.zeros((height * self.finer, width * self.finer), np.uint8)
        self.shade: Pixels = np.full((height, width), MIDDLE, np.uint8)

    def coverage(self) -> Pixels:
        height, width = self.size
        return np.asarray(cv2.resize(self.fine, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def stroke(self, points: Points, thickness: float | Points, level: float | None = None) -> None:
        """Draw a line of one thickness or of one for each point, at least about a pixel thick."""
        # What tapers may end in nothing, but not be nothing.
        least = 1.0 / self.unit if np.ndim(thickness) == 0 else 0.35 / self.unit
        half = np.maximum(thickness, least) / 2
        if level is not None:
            around = float(np.mean(half)) + 1.0 / self.unit
            fixed = self._fixed(points, 1)
            cv2.polylines(self.shade, [fixed], False, _level(level), max(1, round(2 * around * self.unit)), 8, _FIXED)
        # OpenCV fills the pixels under a polygon's outline too, half a pixel more all round.
        inset = np.maximum(half - 0.5 / (self.unit * self.finer), 0)
        aside = _normals(points) * np.reshape(inset, (-1, 1))
        sides = self._fixed(np.stack([points + aside, points - aside]), self.finer)
        # In pieces, as a polygon that crosses itself would be empty there.
        for start in range(0, len(points) - 1, _CHUNK):
            piece = sides[:, start : start + _CHUNK + 1]
            cv2.fillPoly(self.fine, [np.concatenate([piece[0], piece[1, ::-1]])], 255, 8, _FIXED)

    def fill(self, points: Points, level: float | None = None, *, cut: bool = False) -> None:
        """Fill a polygon, or cut it out of what is there."""
        ahead, behind = np.roll(points, -1, axis=0), np.roll(points, 1, axis=0)
        area = np.sum(points[:, 0] * ahead[:, 1] - points[:, 1] * ahead[:, 0])
        side = ahead - behind
        normal = np.stack([-side[:, 1], side[:, 0]], axis=1) * np.sign(area)
        normal /= np.maximum(np.hypot(side[:, 0], side[:, 1]), 1e-9)[:, None]
        inner = points + normal * (0.5 / (self.unit * self.finer))
        cv2.fillPoly(self.fine, [self._fixed(inner, self.finer)], 0 if cut else 255, 8, _FIXED)
        if level is not None:
            cv2.fillPoly(self.shade, [self._fixed(points, 1)], _level(level), 8, _FIXED)

    def disc(self, centre: Points, radius: float, level: float | None = None, *, cut: bool = False) -> None:
        radius = max(radius, 0.6 / self.unit)
        corners = max(8, min(64, round(radius * self.unit * 3)))
        # A polygon of the circle's area: one within the circle has less.
        radius *= math.sqrt(2 * math.pi / corners / math.sin(2 * math.pi / corners))
        self.fill(centre + radius * _circle(corners), level, cut=cut)

    def ring(self, centre: Points, radius: float, thickness: float, level: float | None = None) -> None:
        turn = _circle(max(16, min(96, round(radius * self.unit * 2))))
        self.stroke(np.concatenate([turn, turn[:2]]) * radius + centre, thickness, level)

    def _fixed(self, points: Points, finer: int) -> NDArray[np.int32]:
        # The centre of a pixel is a whole number to OpenCV.
        scaled = (points * (self.unit * finer) - 0.5) * (1 << _FIXED)
        return np.rint(scaled).astype(np.int32)


def _level(level: float) -> int:
    return int(min(255, max(0, round(level))))


def _normals(points: Points) -> Points:
    """Unit vectors across a line at its points: (N, 2)."""
    side = np.empty_like(points)
    side[1:-1] = points[2:] - points[:-2]
    side[0], side[-1] = points[1] - points[0], points[-1] - points[-2]
    side /= np.hypot(side[:, :1], side[:, 1:]) + 1e-12
    across: Points = side[:, ::-1].copy()
    across[:, 0] *= -1
    return across


def _circle(corners: int) -> Points:
    angle = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = math.cos(angle), math.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _between(start: Points, end: Points, count: int) -> Points:
    return start + (end - start) * np.linspace(0, 1, count)[:, None]


def _point(x: float, y: float) -> Points:
    return np.array([x, y], np.float64)


def _anywhere(canvas: _Canvas, rng: np.random.Generator, margin: float = 0.15) -> Points:
    return _point(rng.uniform(margin, canvas.across - margin), rng.uniform(margin, canvas.down - margin))


def _tone(rng: np.random.Generator, spread: float = 45) -> float:
    return MIDDLE + rng.uniform(-spread, spread)


def _blob(rng: np.random.Generator, radius: float, roughness: float, stretch: float = 1.0) -> Points:
    """A closed smooth curve around the origin: (48, 2)."""
    turn = _circle(48)
    angle = np.arange(48) * (2 * math.pi / 48)
    waves = np.arange(2, 7)
    strength = roughness * rng.normal(size=5) / waves
    rim = 1 + (strength[:, None] * np.cos(waves[:, None] * angle + rng.uniform(0, 7, (5, 1)))).sum(axis=0)
    curve: Points = turn * np.maximum(rim, 0.3)[:, None] * radius * _point(stretch, 1 / stretch)
    return curve


# --- the kinds ---


def _draw_wires(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Catenaries between poles or from edge to edge, in bundles, with lamps or birds on them."""
    thickness = log_uniform(rng, 0.003, 0.012)
    bundles = rng.integers(1, 4)
    poles = rng.random() < 0.5
    for _ in range(bundles):
        start = _point(-0.05, rng.uniform(0.05, 0.8) * canvas.down)
        end = _point(canvas.across + 0.05, rng.uniform(0.05, 0.8) * canvas.down)
        if rng.random() < 0.25:  # across the others
            start, end = (
                _point(rng.uniform(0, canvas.across), -0.05),
                _point(rng.uniform(0, canvas.across), canvas.down),
            )
        sag, gap = rng.uniform(0, 0.25), rng.uniform(0.02, 0.09)
        hung = rng.random() < 0.3
        for number in range(rng.integers(1, 5)):
            sink = sag * rng.uniform(0.8, 1.2)
            line = _between(start, end, 49) + _point(0, number * gap)
            # The weight of a chain: its curve is a cosine of the hyperbola.
            line[:, 1] += sink * (1 - (np.cosh(np.linspace(-1.5, 1.5, 49)) - 1) / (math.cosh(1.5) - 1))
            canvas.stroke(line, thickness * rng.uniform(0.7, 1.3), _tone(rng))
            for place in rng.integers(3, 46, rng.integers(2, 9)) if hung else ():
                size = rng.uniform(0.01, 0.025)
                bulb = _blob(rng, size, 0.2, rng.uniform(0.7, 1.1)) + line[place] + (0, size)
                canvas.fill(bulb, _tone(rng))
    for _ in range(rng.integers(1, 4) if poles else 0):
        foot = _point(rng.uniform(0.1, canvas.across - 0.1), canvas.down + 0.02)
        top = foot + _point(rng.normal(0, 0.02), -rng.uniform(0.6, 1.0) * canvas.down)
        wide = rng.uniform(2, 5) * thickness
        canvas.stroke(_between(foot, top, 2), np.array([1.2 * wide, wide]), _tone(rng))
        for number in range(rng.integers(0, 4)):
            arm = rng.uniform(0.05, 0.15)
            middle = top + (foot - top) * (0.04 + 0.07 * number)
            ends = middle + np.array([[-arm, 0], [arm, rng.normal(0, 0.01)]])
            canvas.stroke(ends, 0.6 * wide, _tone(rng))
            canvas.stroke(np.stack([ends[1], middle + _point(0, arm)]), 0.35 * wide, _tone(rng))


def _draw_cables(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Loose cables, cords and springs that cross themselves and each other, some with a plug."""
    time = np.linspace(0, 1, 121)[:, None]
    for _ in range(rng.integers(1, 6)):
        thickness = log_uniform(rng, 0.004, 0.028)
        waves = np.arange(1, 5)
        swing = rng.normal(0, 0.22, (4, 2)) / waves[:, None]
        line = _anywhere(canvas, rng) + (time - 0.5) * rng.normal(0, 0.5, 2)
        for wave in waves:
            line = line + swing[wave - 1] * np.sin(2 * math.pi * wave * time * 0.8 + rng.uniform(0, 7, 2))
        if rng.random() < 0.25:  # a coil
            turns, radius = rng.uniform(8, 18), rng.uniform(1.5, 4) * thickness
            angle = 2 * math.pi * turns * np.linspace(0, 1, 361)[:, None]
            fine = np.stack([np.interp(np.linspace(0, 120, 361), np.arange(121), side) for side in line.T], axis=1)
            line = fine + radius * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
            thickness *= 0.5
        tone = _tone(rng)
        canvas.stroke(line, thickness, tone)
        if rng.random() < 0.4:
            canvas.fill(_blob(rng, 2 * thickness, 0.1, rng.uniform(0.6, 1.6)) + line[-1], tone - 20)


def _draw_lattice(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Grids, fences, nets, honeycombs and scaffolds, seen at an angle."""
    segments = _LATTICES[rng.integers(len(_LATTICES))](rng)
    keep = rng.random(len(segments)) > (rng.uniform(0, 0.12) if rng.random() < 0.3 else 0)
    whole = rng.random() < 0.5
    margin = -0.1 if whole else rng.uniform(0.05, 0.25)
    corners = np.array([[margin, margin], [canvas.across - margin, margin]] * 2)
    corners[2:] = [[canvas.across - margin, canvas.down - margin], [margin, canvas.down - margin]]
    corners = corners + rng.normal(0, 0.09, (4, 2))
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    view = cv2.getPerspectiveTransform(square, corners.astype(np.float32))
    flat = np.asarray(cv2.perspectiveTransform(segments[keep].reshape(-1, 1, 2), view), np.float64).reshape(-1, 2, 2)
    thickness = log_uniform(rng, 0.004, 0.02)
    base = _tone(rng, 25)
    for segment in flat:
        canvas.stroke(segment, thickness, base + rng.uniform(-22, 22))
    if rng.random() < 0.5 and not whole:
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            canvas.stroke(_between(start, end, 2), 2.2 * thickness, base)
            canvas.disc(start, 1.1 * thickness, base)


def _grid(rng: np.random.Generator) -> Points:
    """Bars one way or both in the unit square: (N, 2, 2)."""
    across, down = rng.integers(4, 16), rng.integers(2, 14) if rng.random() < 0.7 else 2
    x = np.linspace(0, 1, across)
    y = np.linspace(0, 1, down) if down > 2 else np.array([0.12, 0.85])
    upright = np.stack([np.stack([x, 0 * x], 1), np.stack([x, 0 * x + 1], 1)], 1)
    return np.concatenate([upright, np.stack([np.stack([0 * y, y], 1), np.stack([0 * y + 1, y], 1)], 1)])


def _diamonds(rng: np.random.Generator) -> Points:
    """Wire mesh: (N, 2, 2)."""
    offset = np.linspace(-1, 1, 2 * rng.integers(5, 13) + 1)[1:-1]
    low, high = np.maximum(0, -offset), np.minimum(1, 1 - offset)
    falling = np.stack([np.stack([low, low + offset], 1), np.stack([high, high + offset], 1)], 1)
    return np.concatenate([falling, falling * (-1, 1) + (1, 0)])


def _honeycomb(rng: np.random.Generator) -> Points:
    """Hexagons: (N, 2, 2)."""
    size = rng.uniform(0.035, 0.08)
    column, row = np.meshgrid(np.arange(round(0.58 / size) + 1), np.arange(round(0.67 / size) + 1))
    centre = np.stack([(column + 0.5 * (row % 2)) * size * math.sqrt(3), row * 1.5 * size], -1).reshape(-1, 1, 1, 2)
    corner = _turned(_circle(6), math.pi / 6)[:4] * size
    return (centre + np.stack([corner[:-1], corner[1:]], 1)).reshape(-1, 2, 2)


def _scaffold(rng: np.random.Generator) -> Points:
    """Bays with a diagonal each: (N, 2, 2)."""
    across, down = rng.integers(2, 6), rng.integers(2, 7)
    column, row = (place.ravel() for place in np.meshgrid(np.arange(across), np.arange(down)))
    corner = np.stack([column, row], 1)
    both = rng.random() < 0.3
    parts = [((0, 0), (1, 0)), ((0, 0), (0, 1)), ((0, 1), (1, 1)), ((1, 0), (1, 1))]
    rising = (column + row) % 2 == 0
    bays = [np.stack([corner + start, corner + end], 1) for start, end in parts]
    bays += [np.stack([corner + _point(0, 1), corner + _point(1, 0)], 1)[rising | both]]
    bays += [np.stack([corner, corner + _point(1, 1)], 1)[~rising | both]]
    return np.concatenate(bays) / (across, down)


def _net(rng: np.random.Generator) -> Points:
    """A net whose knots are out of place: (N, 2, 2)."""
    count = int(rng.integers(5, 13))
    knots = np.stack(np.meshgrid(np.linspace(0, 1, count), np.linspace(0, 1, count)), -1)
    knots = knots + rng.normal(0, 0.22 / count, knots.shape)
    along = np.stack([knots[:, :-1], knots[:, 1:]], 2).reshape(-1, 2, 2)
    return np.concatenate([along, np.stack([knots[:-1], knots[1:]], 2).reshape(-1, 2, 2)])


_LATTICES: tuple[Callable[[np.random.Generator], Points], ...] = (_grid, _diamonds, _honeycomb, _scaffold, _net)


def _draw_wheels(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Wheels with spokes, alone or as a bicycle, and webs."""
    tilt, squeeze = rng.normal(0, 0.12), rng.uniform(0.55, 1)
    bicycle = rng.random() < 0.5
    radius = rng.uniform(0.17, 0.22) if bicycle else rng.uniform(0.2, 0.42)
    middle = _point(canvas.across / 2, canvas.down / 2) + rng.normal(0, 0.06, 2)
    thickness = log_uniform(rng, 0.002, 0.006)

    def place(points: Points) -> Points:
        return _turned(points * (squeeze, 1), tilt) + middle

    hubs = [_point(-1.25 * radius, 0.3), _point(1.25 * radius, 0.3)] if bicycle else [_point(0, 0)]
    if bicycle:
        hubs = [hub * (1, 0) + (0, 0.1) for hub in hubs]
    spokes, crossed = int(rng.integers(8, 37)), rng.uniform(0, 1.2) if rng.random() < 0.6 else 0.0
    tyre, tone = rng.uniform(0.012, 0.035), _tone(rng)
    for hub in hubs:
        rims = [radius] if rng.random() < 0.6 else [radius, 0.9 * radius]
        for rim in rims:
            turn = _circle(72)
            canvas.stroke(place(np.concatenate([turn, turn[:2]]) * rim + hub), tyre if rim == radius else 0.01, tone)
        angle = np.arange(spokes) * (2 * math.pi / spokes) + rng.uniform(0, 1)
        inner = angle + crossed * (1 - 2 * (np.arange(spokes) % 2))
        starts = 0.06 * radius * np.stack([np.cos(inner), np.sin(inner)], 1) + hub
        ends = radius * np.stack([np.cos(angle), np.sin(angle)], 1) + hub
        for start, end in zip(place(starts), place(ends), strict=True):
            canvas.stroke(np.stack([start, end]), thickness, _tone(rng, 30))
        canvas.fill(place(_circle(24) * 0.08 * radius + hub), tone + 15)
        if not bicycle and rng.random() < 0.25:  # rings of a web
            for share in np.linspace(0.2, 0.9, rng.integers(3, 8)):
                web = np.concatenate([ends, ends[:1]]) * share + hub * (1 - share)
                canvas.stroke(place(web), thickness, _tone(rng, 20))
    if bicycle:
        rear, front = hubs
        crank = (rear + front) / 2 + (-0.1 * radius, 0.05)
        seat, head = rear + _point(0.75 * radius, -1.5 * radius), front + _point(-0.45 * radius, -1.6 * radius)
        tube, paint = rng.uniform(0.008, 0.02), _tone(rng)
        for start, end in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
            canvas.stroke(place(np.stack([start, end])), tube, paint)
        bar = np.array([[0.15, -0.25], [0.0, -0.3], [-0.05, -0.05], [0, 0]]) * radius + head
        canvas.stroke(place(bar), 0.7 * tube, paint - 20)
        canvas.fill(place(_blob(rng, 0.2 * radius, 0.1, 1.7) + seat + (0, -0.1 * radius)), paint - 30)


def _draw_hair(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A body with hair, fur or spines all round: strands that taper, bend and hang."""
    centre = _point(canvas.across / 2, canvas.down * rng.uniform(0.45, 0.8)) + rng.normal(0, 0.08, 2)
    radius = rng.uniform(0.12, 0.26)
    body = _blob(rng, radius, 0.35, rng.uniform(0.75, 1.35))
    canvas.fill(body + centre, _tone(rng, 15))
    count = int(rng.integers(70, 240))
    length = radius * rng.uniform(0.25, 1.6)
    thickness = log_uniform(rng, 0.003, 0.012) * (1 if length < radius else 0.8)
    curl, hang, mess = rng.normal(0, 1.2), rng.uniform(-0.2, 0.8), rng.uniform(0.05, 0.5)
    which = rng.integers(0, len(body), count)
    inside = rng.uniform(0.55, 1.0, count)
    roots = body[which] * inside[:, None]
    outward = np.arctan2(roots[:, 1], roots[:, 0]) + rng.normal(0, mess, count)
    steps = 13
    along = np.linspace(0, 1, steps)
    bend = curl * along + rng.normal(0, 0.5, (count, 1)) * along**2
    bend += rng.uniform(0, 0.5) * np.sin(rng.uniform(4, 12) * along + rng.uniform(0, 7, (count, 1)))
    angle = outward[:, None] + bend
    reach = (length * rng.uniform(0.5, 1.15, count) / (steps - 1))[:, None]
    strands = np.empty((count, steps, 2))
    strands[..., 0] = roots[:, :1] + np.cumsum(np.cos(angle) * reach, axis=1)
    strands[..., 1] = roots[:, 1:] + np.cumsum(np.sin(angle) * reach, axis=1) + hang * length * along**2
    width = thickness * (1 - 0.85 * along**1.5)
    tones = MIDDLE + rng.uniform(-45, 45, count)
    for strand, tone in zip(strands + centre, tones, strict=True):
        canvas.stroke(strand, width, tone)


def _draw_branches(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A tree, a twig or roots: each branch splits into thinner ones; some carry leaves."""
    upright = rng.random() < 0.6
    root = _point(rng.uniform(0.3, 0.7) * canvas.across, canvas.down + 0.02)
    heading, length = -math.pi / 2 + rng.normal(0, 0.15), rng.uniform(0.2, 0.32) * canvas.down
    if not upright:  # a twig that reaches in from the side
        root = _point(-0.02, rng.uniform(0.2, 0.8) * canvas.down)
        heading, length = rng.normal(0, 0.3), rng.uniform(0.2, 0.35) * canvas.across
    spread, shrink, bare = rng.uniform(0.3, 0.65), rng.uniform(0.66, 0.8), rng.random() < 0.6
    leaf, wide, tone = rng.uniform(0.02, 0.06), rng.uniform(0.25, 0.5), _tone(rng, 25)
    open_ends = [(root, heading, length, rng.uniform(0.015, 0.045), 0)]
    deepest = int(rng.integers(4, 7))
    while open_ends:
        start, angle, reach, thickness, depth = open_ends.pop()
        steps = np.linspace(0, 1, 5)
        turn = angle + rng.normal(0, 0.35) * steps
        line = np.empty((5, 2))
        line[:, 0] = start[0] + reach * np.concatenate([[0], np.cumsum(np.cos(turn[1:]))]) / 4
        line[:, 1] = start[1] + reach * np.concatenate([[0], np.cumsum(np.sin(turn[1:]))]) / 4
        canvas.stroke(line, thickness * (1 - 0.35 * steps), tone + rng.uniform(-25, 25))
        if depth < deepest:
            for side in (-1, 1) if rng.random() < 0.85 else (-1, 0.2, 1):
                offset = side * spread * rng.uniform(0.5, 1.4)
                shorter = shrink * rng.uniform(0.75, 1.15)
                open_ends.append((line[-1], float(turn[-1]) + offset, reach * shorter, 0.65 * thickness, depth + 1))
        if not bare and depth == deepest:
            for place in rng.integers(1, 5, 2):
                _leaf(canvas, line[place], angle + rng.normal(0, 0.9), leaf * rng.uniform(0.6, 1.3), wide, _tone(rng))


def _leaf(canvas: _Canvas, root: Points, heading: float, length: float, width: float, tone: float) -> None:
    along = np.linspace(0, 1, 9)
    half = width * length * np.sin(math.pi * along**0.8) * 0.6
    upper = np.stack([along * length, half], axis=1)
    lower = np.stack([along * length, -half], axis=1)[-2:0:-1]
    canvas.fill(_turned(np.concatenate([upper, lower]), heading) + root, tone)


def _draw_leaves(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Ferns, palms and grass: stems with leaflets on both sides, or blades alone."""
    grass = rng.random() < 0.35
    wide, slender, tone = rng.uniform(0.15, 0.4), log_uniform(rng, 0.003, 0.009), _tone(rng, 20)
    if grass:
        for _ in range(rng.integers(25, 90)):
            root = _point(rng.normal(canvas.across / 2, 0.2), canvas.down * rng.uniform(0.92, 1.03))
            _blade(canvas, rng, root, -math.pi / 2 + rng.normal(0, 0.35), rng.uniform(0.2, 0.75), 2.5 * slender)
        return
    middle = _point(canvas.across / 2, canvas.down * rng.uniform(0.5, 1)) + rng.normal(0, 0.07, 2)
    for _ in range(rng.integers(2, 9)):
        heading = -math.pi / 2 + rng.uniform(-1.6, 1.6)
        stem = _blade(canvas, rng, middle, heading, rng.uniform(0.3, 0.65), 1.6 * slender)
        size, angle = rng.uniform(0.06, 0.16), rng.uniform(0.5, 1.2)
        for place in range(3, len(stem), int(rng.integers(1, 4))):
            ahead = math.atan2(*(stem[place] - stem[place - 1])[::-1])
            grown = size * (1.15 - place / len(stem))
            for side in (-1, 1):
                _leaf(
                    canvas,
                    stem[place],
                    ahead + side * angle + rng.normal(0, 0.1),
                    grown,
                    wide,
                    tone + rng.normal(0, 20),
                )


def _blade(
    canvas: _Canvas, rng: np.random.Generator, root: Points, heading: float, length: float, thickness: float
) -> Points:
    """Draw a curve that bends down and tapers, and tell its points: (25, 2)."""
    along = np.linspace(0, 1, 25)
    angle = heading + rng.normal(0, 0.9) * along**1.5
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (length / 24)
    line = root + np.cumsum(steps, axis=0)
    canvas.stroke(line, thickness * (1 - 0.9 * along**1.3), _tone(rng, 35))
    return line


def _draw_holes(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A solid shape full of holes: a sieve, lace, a crocheted cloth, a grating, cheese."""
    centre = _point(canvas.across / 2, canvas.down / 2) + rng.normal(0, 0.05, 2)
    radius, turn, tone = rng.uniform(0.25, 0.42), rng.uniform(0, 7), _tone(rng, 20)
    corners = int(rng.choice((3, 4, 4, 5, 6, 48, 48)))
    outline = _blob(rng, radius, 0.25, rng.uniform(0.8, 1.25)) if corners == 48 else _circle(corners) * radius * 1.1
    outline = _turned(outline, turn)
    stalk = rng.random() < 0.35
    if stalk:
        far = _turned(_point(rng.uniform(1.4, 2.2) * radius, 0), rng.uniform(0, 7))
        canvas.stroke(_between(centre, centre + far, 2), rng.uniform(0.015, 0.05), _tone(rng))
    canvas.fill(outline + centre, tone)
    pitch = rng.uniform(0.04, 0.11)
    pattern = rng.integers(4)
    size = pitch * rng.uniform(0.24, 0.43)
    if pattern == 3:  # around the centre, as in lace
        rings = range(1, round(radius / pitch) + 1)
        places = np.concatenate([_turned(_circle(6 * ring) * (ring * pitch), 0.3 * ring) for ring in rings])
    else:
        count = round(1.4 * radius / pitch)
        grid = np.stack(np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1)), -1).astype(np.float64)
        grid[1::2, :, 0] += 0.5 if pattern == 1 else 0
        places = grid.reshape(-1, 2) * pitch + (rng.normal(0, 0.12, (grid.size // 2, 2)) * pitch if pattern == 2 else 0)
    places = _turned(places, turn + rng.uniform(-0.2, 0.2))
    # A rim stays: holes lie within the outline shrunk by it.
    rim = (outline * (1 - (size + rng.uniform(0.1, 0.5) * pitch) / radius)).astype(np.float32)
    shapes = (_circle(16), _circle(4), _circle(6), _circle(16) * (1.25, 0.5))
    hole = _turned(shapes[rng.integers(len(shapes))] * size, turn)
    for place in places:
        if cv2.pointPolygonTest(rim, (float(place[0]), float(place[1])), False) >= 0:
            canvas.fill(hole * rng.uniform(0.9, 1.05) + place + centre, cut=True)
    if rng.random() < 0.3:  # a scalloped edge
        for place in outline[:: max(1, len(outline) // 24)]:
            canvas.ring(place + centre, 0.6 * pitch, 0.15 * pitch, tone)


def _draw_furniture(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Chairs, ladders, shelves, railings and masts: bars, slats and legs."""
    half, tall = rng.uniform(0.12, 0.28), rng.uniform(0.3, 0.45)
    bar, tone = log_uniform(rng, 0.008, 0.03), _tone(rng, 20)
    lean, tilt = rng.normal(0, 0.12), rng.normal(0, 0.1)
    centre = _point(canvas.across / 2, canvas.down / 2) + rng.normal(0, 0.05, 2)
    pieces: list[tuple[Points, float]] = []

    def add(x0: float, y0: float, x1: float, y1: float, thickness: float = 1) -> None:
        pieces.append((np.array([[x0 * half, y0 * tall], [x1 * half, y1 * tall]]), thickness * bar))

    what = rng.integers(3)
    deep = rng.uniform(0.3, 0.7)
    if what == 0:  # a chair: back, seat, legs
        slats = int(rng.integers(2, 9))
        for side in (-1, 1):
            add(side, -1, side, 0.1, 1.3)
            add(side, 0.1, side * 1.05, 0.95)
            add(side + deep, 0.25, side * 1.05 + deep, 1.1)
            add(side, 0.1, side + deep, 0.25, 2)
        add(-1, -1, 1, -1, 1.6)
        add(-1, -0.1, 1, -0.1)
        for place in np.linspace(-0.9, 0.9, slats):
            add(place, -1, place, -0.1, 0.5)
        for share in np.linspace(0, 1, 14):
            add(-1 + deep * share, 0.1 + 0.15 * share, 1 + deep * share, 0.1 + 0.15 * share, 1.5)
        add(-0.95 + deep, 0.75, 1 + deep, 0.75, 0.6)
    elif what == 1:  # a ladder or shelf
        narrow = rng.uniform(0.3, 1)
        for side in (-1, 1):
            add(side * narrow, -1, side, 1.05, 1.2)
        for share in np.linspace(0.03, 0.95, rng.integers(4, 14)):
            wide = narrow + (1 - narrow) * share
            add(-wide, 2.05 * share - 1, wide, 2.05 * share - 1, 0.7)
    else:  # a mast of trusses
        stages = int(rng.integers(4, 10))
        sides = [(1 - 0.85 * step / stages, 1 - 2 * step / stages) for step in range(stages + 1)]
        for (wide, low), (narrow, high) in pairwise(sides):
            for side in (-1, 1):
                add(side * wide, low, side * narrow, high)
                add(side * wide, low, -side * narrow, high, 0.4)
            add(-narrow, high, narrow, high, 0.5)
        for _ in range(rng.integers(0, 4)):
            add(0, -1, rng.normal(0, 0.1), -1.3, 0.4)
            level = rng.uniform(-0.95, -0.5)
            add(-rng.uniform(0.2, 0.9), level, rng.uniform(0.2, 0.9), level, 0.4)
    for line, thickness in pieces:
        line[:, 0] += lean * line[:, 1]
        canvas.stroke(_turned(line, tilt) + centre, thickness, tone + rng.uniform(-18, 18))


def _draw_creatures(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A solid body with thin limbs: insects, crabs, tripods, umbrellas' ribs, instruments with their strings."""
    centre = _point(canvas.across / 2, canvas.down / 2) + rng.normal(0, 0.06, 2)
    turn, tone = rng.uniform(0, 7), _tone(rng, 20)
    long, slim = rng.uniform(0.1, 0.24), rng.uniform(1.1, 1.9)
    body = _blob(rng, long, 0.15, slim)
    thickness = log_uniform(rng, 0.004, 0.016)
    pairs = int(rng.integers(2, 7))
    reach = rng.uniform(0.18, 0.35)
    fold = rng.normal(0, 0.9)
    for place in np.linspace(-0.7, 0.7, pairs):
        for side in (-1, 1):
            root = _point(place * long * slim, side * 0.4 * long / slim)
            out = side * (math.pi / 2 - 0.7 * place) + rng.normal(0, 0.1)
            first = root + 0.5 * reach * _point(math.cos(out), math.sin(out))
            second = first + 0.7 * reach * _point(math.cos(out + side * fold), math.sin(out + side * fold))
            limb = np.concatenate([_between(root, first, 4), _between(first, second, 5)[1:]])
            canvas.stroke(_turned(limb, turn) + centre, thickness * np.linspace(1.6, 0.5, 8), _tone(rng, 25))
    canvas.fill(_turned(body, turn) + centre, tone)
    if rng.random() < 0.7:  # a head with feelers
        head = _point(1.1 * long * slim, 0)
        canvas.fill(_turned(_blob(rng, 0.4 * long, 0.1) + head, turn) + centre, tone - 15)
        for side in (-1, 1):
            along = np.linspace(0, 1, 15)
            angle = side * (0.3 + rng.normal(0.5, 0.4) * along)
            feeler = head + np.cumsum(
                np.stack([np.cos(angle), np.sin(angle)], 1) * (rng.uniform(0.15, 0.4) / 14), axis=0
            )
            canvas.stroke(_turned(feeler, turn) + centre, 0.6 * thickness * (1 - 0.7 * along), _tone(rng, 25))
    if rng.random() < 0.35:  # wings: a rim with veins
        for side in (-1, 1):
            tip = _point(-0.3, side * 1.0) * rng.uniform(0.25, 0.38)
            for bend in np.linspace(-0.35, 0.35, int(rng.integers(3, 8))):
                vein = _between(_point(0, 0), tip, 13)
                vein += np.sin(math.pi * np.linspace(0, 1, 13))[:, None] * bend * _point(-tip[1], tip[0])
                canvas.stroke(_turned(vein, turn) + centre, 0.5 * thickness, _tone(rng, 25))


_DRAWING: dict[str, Callable[[_Canvas, np.random.Generator], None]] = {
    "wires": _draw_wires,
    "cables": _draw_cables,
    "lattice": _draw_lattice,
    "wheels": _draw_wheels,
    "hair": _draw_hair,
    "branches": _draw_branches,
    "leaves": _draw_leaves,
    "holes": _draw_holes,
    "furniture": _draw_furniture,
    "creatures": _draw_creatures,
}

KINDS = tuple(_DRAWING)
"""What can be drawn."""
