"""Drawn glossy things, such as helmets, balls, bowls and bags, for photos of people and others that hold one.

What a person holds belongs to the foreground, but a network that has seen few photos of it leaves out what neither
looks like the person nor like what it was trained on, and most of all what is black and shines. A thing drawn here is a
rounded body of one material or two, such as a shell and its visor, lit from one side, with highlights that reflect
windows and lamps, and sometimes a rim, a stripe or a knob.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.data.shapes import log_uniform
from birefnet.data.structures import Pixels, colours_of_photos

Plane = NDArray[np.float32]

# Material: how bright its own colour is, from and to. Black is what people hold most, and is found least.
_MATERIALS = {"black": (4.0, 40.0), "white": (190.0, 250.0), "coloured": (0.0, 0.0)}
_SHARES = (0.55, 0.15, 0.3)


@dataclass(frozen=True, eq=False)
class Thing:
    """A drawn thing without its surroundings.

    Attributes:
        surface: (N, N, 3) uint8, its colours, also where it is not.
        coverage: (N, N) uint8, share of each pixel that it covers, 255 for all.
    """

    surface: Pixels
    coverage: Pixels


def draw_thing(side: int, generator: np.random.Generator) -> Thing:
    """Draw a glossy thing that fills a square of about the given side.

    Args:
        side: of the square, in pixels.
        generator: source of randomness.
    """
    # As far out as its knobs and rims reach.
    y, x = (np.indices((side, side), np.float32) + np.float32(0.5)) * np.float32(2.4 / side) - np.float32(1.2)
    body = _body(x, y, generator)
    inside = np.clip(1 - body, 0, 1)  # 0 at its edge, 1 in its middle
    pixel = 2.4 / side
    coverage = covered(body, pixel)
    surface = np.broadcast_to(material(generator), (side, side, 3)).astype(np.float32)
    polish = np.full((side, side), generator.uniform(0.2, 1), np.float32)
    for _ in range(int(generator.choice((0, 1, 1, 2)))):  # a visor, a window, a stripe
        part = _part(x, y, inside, pixel, generator)
        frame = np.clip(_grown(part, side * generator.uniform(0.01, 0.05)) - part, 0, 1)
        if generator.random() < 0.6:
            surface = laid(surface, material(generator), frame)
        surface = laid(surface, material(generator), part)
        polish = polish * (1 - part) + part * np.float32(generator.uniform(0.5, 1))
    if generator.random() < 0.4:  # a rim around it all
        rim = covered(np.abs(body - np.float32(0.93)) / np.float32(generator.uniform(0.03, 0.1)), pixel * 12)
        surface = laid(surface, material(generator), rim)
    for _ in range(int(generator.choice((0, 0, 1, 2, 3)))):  # knobs, hinges, handles at its edge
        angle, size = generator.uniform(0, 2 * math.pi), log_uniform(generator, 0.06, 0.2)
        reach = 1.05 - size * generator.uniform(0.2, 0.9)
        knob = _disc(x - np.float32(reach * math.cos(angle)), y - np.float32(reach * math.sin(angle)), size, pixel)
        surface = laid(surface, material(generator), knob)
        coverage = np.maximum(coverage, knob)
    lit = _lit(x, y, inside, generator)
    surface = surface * lit[..., None] + np.float32(255) * (polish * highlights(x, y, pixel, generator))[..., None]
    return Thing(np.clip(surface, 0, 255).astype(np.uint8), np.rint(255 * coverage).astype(np.uint8))


def _body(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """The outline as a function that is 1 on it and less inside: a superellipse, turned and bent."""
    turn, power = rng.uniform(0, math.pi), rng.uniform(1.8, 2.6) if rng.random() < 0.75 else rng.uniform(2.6, 6)
    flat = rng.uniform(0.55, 1)
    across = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y
    along = (np.float32(math.cos(turn)) * y - np.float32(math.sin(turn)) * x) / np.float32(flat)
    angle = np.arctan2(along, across)
    bent = np.ones_like(x)
    for times in (2, 3, 4):
        bent += np.float32(rng.normal(0, 0.04)) * np.cos(times * angle + np.float32(rng.uniform(0, 6.3)))
    body = (np.abs(across) ** power + np.abs(along) ** power) ** np.float32(1 / power) / bent
    return np.asarray(body, np.float32)


def _part(x: Plane, y: Plane, inside: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    """A share of the surface that is of another material: an oval within it, what is beyond a curve, or a stripe."""
    kind, turn = rng.random(), rng.uniform(0, 2 * math.pi)
    across = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y
    along = np.float32(math.cos(turn)) * y - np.float32(math.sin(turn)) * x
    if kind < 0.5:
        wide, tall = rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.7)
        oval = np.hypot((across - np.float32(rng.uniform(-0.1, 0.5))) / np.float32(wide), along / np.float32(tall))
        part = covered(np.asarray(oval, np.float32), pixel / tall)
    else:
        beyond = across + np.float32(rng.normal(0, 0.3)) * along * along - np.float32(rng.uniform(-0.4, 0.4))
        edge = np.abs(beyond) / np.float32(rng.uniform(0.05, 0.2)) if kind > 0.8 else np.float32(1) - beyond
        part = covered(np.asarray(edge, np.float32), pixel)
    return np.asarray(part * np.clip(inside / np.float32(max(0.04, pixel)), 0, 1), np.float32)


def _lit(x: Plane, y: Plane, inside: Plane, rng: np.random.Generator) -> Plane:
    """How bright a rounded surface is that is lit from one side, and darker towards its edge."""
    turn, depth, dark = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.6), rng.uniform(0, 0.6)
    sloped = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y
    return np.asarray((1 + np.float32(depth) * sloped) * (1 - np.float32(dark) * (1 - inside) ** 3), np.float32)


def highlights(x: Plane, y: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    """What the surface reflects of windows, lamps and the floor: (N, N), 1 for white."""
    shine = np.zeros_like(x)
    for _ in range(int(rng.choice((0, 1, 1, 2, 3, 5)))):
        far, angle = rng.uniform(0, 0.85), rng.uniform(0, 2 * math.pi)
        turn, wide = rng.uniform(0, math.pi), log_uniform(rng, 0.03, 0.35)
        tall, strength = wide * log_uniform(rng, 0.1, 1), rng.uniform(0.15, 1)
        dx, dy = x - np.float32(far * math.cos(angle)), y - np.float32(far * math.sin(angle))
        across = (np.float32(math.cos(turn)) * dx + np.float32(math.sin(turn)) * dy) / np.float32(wide)
        along = (np.float32(math.cos(turn)) * dy - np.float32(math.sin(turn)) * dx) / np.float32(tall)
        if rng.random() < 0.5:  # a lamp
            spot = np.exp(-across * across - along * along)
        else:  # a window, or a long tube, that follows the body's curve
            along = along + np.float32(rng.normal(0, 0.5)) * across * across
            spot = covered(np.maximum(np.abs(across), np.abs(along)), pixel / tall)
        shine += np.float32(strength) * spot
    if rng.random() < 0.4:  # the floor or the sky along an edge
        turn, begins = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.8)
        sloped = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y - np.float32(begins)
        shine += np.float32(rng.uniform(0.1, 0.5)) * np.clip(sloped / np.float32(0.3), 0, 1)
    return shine


def material(rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour: black, white or any, (3,) up to 255."""
    name = rng.choice(list(_MATERIALS), p=_SHARES)
    if name == "coloured":
        return np.asarray(colours_of_photos(rng, 1)[0], np.float32)
    low, high = _MATERIALS[name]
    return (rng.uniform(low, high) * rng.uniform(0.9, 1, 3)).astype(np.float32)


def covered(distance: Plane, pixel: float) -> Plane:
    """Share of each pixel on the side where a distance is below 1."""
    return np.asarray(np.clip((1 - distance) / np.float32(pixel) + np.float32(0.5), 0, 1), np.float32)


def _disc(x: Plane, y: Plane, radius: float, pixel: float) -> Plane:
    return covered(np.asarray(np.hypot(x, y) / np.float32(radius), np.float32), pixel / radius)


def _grown(part: Plane, reach: float) -> Plane:
    size = 2 * max(1, round(reach)) + 1
    return np.asarray(cv2.dilate(part, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))), np.float32)


def laid(surface: NDArray[np.float32], colour: NDArray[np.float32], share: Plane) -> NDArray[np.float32]:
    """Lay a colour (3,) or colours (H, W, 3) over a surface (H, W, 3) by a share of each pixel (H, W)."""
    return np.asarray(surface + share[..., None] * (colour - surface), np.float32)
