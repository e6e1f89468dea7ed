"""Glaring lamps: a disc, a halo, and the rays that a small aperture makes of them."""

import math

import numpy as np
from numpy.typing import NDArray

from birefnet.data.shapes import log_uniform

_REACH = 12.0
"""How many of its radii a lamp is seen from."""


class Lamps:
    """Lamps of a kind, photographed with one lens.

    Args:
        height: of the photo, in pixels.
        width: of the photo.
        radius: of a usual lamp, in pixels; single ones have from half of it to twice as much.
        strength: of a usual lamp, 1 for one whose middle is just white.
        generator: source of randomness.

    Attributes:
        light: what the lamps add to the photo, (H, W, 3) float32, 1 for white.
    """

    def __init__(self, height: int, width: int, radius: float, strength: float, generator: np.random.Generator) -> None:
        self.light = np.zeros((height, width, 3), np.float32)
        self._radius, self._strength, self._generator = radius, strength, generator
        self._rays = int(generator.choice((0, 4, 6, 8, 10, 14, 18)))
        self._turn, self._warmth = generator.uniform(0, math.pi), generator.uniform(0, 1)

    def add(self, across: float, down: float) -> None:
        """Light a lamp at a place, in pixels, which may be beyond the photo's border."""
        height, width, _ = self.light.shape
        radius = self._radius * log_uniform(self._generator, 0.5, 2)
        strength = self._strength * log_uniform(self._generator, 0.6, 1.7)
        warmth = np.clip(self._warmth + 0.2 * self._generator.normal(), 0, 1)
        colour = np.array([1, 1 - 0.4 * warmth, 1 - 0.8 * warmth], np.float32)
        rows, columns = _within(down, _REACH * radius, height), _within(across, _REACH * radius, width)
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(down)
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(across)
        glow = _glow(y, x, radius, self._rays, self._turn)
        self.light[rows, columns] += np.float32(strength) * glow[..., None] * colour


def _within(middle: float, reach: float, length: int) -> slice:
    """The part of a side that lies within reach of a place, which may be beyond its ends."""
    return slice(max(0, int(middle - reach)), max(0, min(length, int(middle + reach) + 1)))


def _glow(y: NDArray[np.float32], x: NDArray[np.float32], radius: float, rays: int, turn: float) -> NDArray[np.float32]:
    """Brightness of a lamp at distances from its middle: its disc, its halo and its rays.  (H, 1), (1, W) -> (H, W)."""
    far = np.sqrt(x * x + y * y) / np.float32(radius)
    glow = np.exp(-far * far) + 0.25 * np.exp(-far / 2)
    if rays:
        beams = np.abs(np.cos((rays // 2) * (np.arctan2(y, x) - np.float32(turn)))) ** 24
        glow += 0.6 * beams * np.exp(-far / 3)
    return np.asarray(glow, np.float32)
