"""Masks that are hard on measures: random, degenerate, thin, soft and noisy, of odd sizes."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


def truth_of(kind: str, height: int, width: int, random: np.random.Generator) -> Mask:
    """A truth of 0 and 255."""
    truth = np.zeros((height, width), np.uint8)
    if kind == "full":
        truth[:] = 255
    elif kind == "pixel":
        truth[random.integers(height), random.integers(width)] = 255
    elif kind == "hole":
        truth[:] = 255
        truth[random.integers(height), random.integers(width)] = 0
    elif kind == "lines":
        for _ in range(8):
            ends = random.integers(0, [width, height], (2, 2)).tolist()
            cv2.line(truth, ends[0], ends[1], 255, int(random.integers(1, 3)))
    elif kind == "noise":
        truth[random.random((height, width)) < random.uniform(0.05, 0.95)] = 255
    elif kind == "blobs":
        field = cv2.GaussianBlur(random.standard_normal((height, width)), (0, 0), random.uniform(1, 6))
        truth[field > np.quantile(field, random.uniform(0.2, 0.9))] = 255
    elif kind == "rings":
        centre = random.integers(0, [width, height]).tolist()
        for radius in range(3, max(height, width), int(random.integers(4, 9))):
            cv2.circle(truth, centre, radius, 255, int(random.integers(1, 3)))
    elif kind == "levels":
        truth[:] = random.integers(0, 256, (height, width))
        truth[0, 0], truth[-1, -1] = 255, 0
    else:
        assert kind == "empty"
    return truth


def prediction_of(kind: str, truth: Mask, random: np.random.Generator) -> Mask:
    """A prediction in 256 levels."""
    height, width = truth.shape
    if kind == "perfect":
        return truth.copy()
    if kind == "inverted":
        return 255 - truth
    if kind == "empty":
        return np.zeros_like(truth)
    if kind == "full":
        return np.full_like(truth, 255)
    if kind == "soft":
        return cv2.GaussianBlur(truth, (0, 0), float(random.uniform(0.5, 4)))
    if kind == "noisy":
        noise = random.normal(0, random.uniform(10, 90), truth.shape)
        return (truth + noise).clip(0, 255).astype(np.uint8)
    if kind == "shifted":
        return np.roll(truth, random.integers(-9, 10, 2).tolist(), (0, 1))
    if kind == "eaten":
        kept = cv2.GaussianBlur(random.standard_normal(truth.shape), (0, 0), 4) > 0
        return truth * kept.astype(np.uint8)
    if kind == "dim":
        return (truth // 3 + random.integers(20, 60, truth.shape)).astype(np.uint8)
    assert kind == "random"
    return random.integers(0, 256, (height, width)).astype(np.uint8)


TRUTHS = ("blobs", "lines", "noise", "rings", "pixel", "hole", "levels", "empty", "full")
PREDICTIONS = ("soft", "noisy", "shifted", "eaten", "random", "perfect", "inverted", "dim", "empty", "full")


def pairs(count: int, seed: int = 0) -> list[tuple[str, Mask, Mask]]:
    """Predictions and truths of every kind, each with every other before any comes again."""
    result = []
    for index in range(count):
        random = np.random.default_rng((seed, index))
        truth_kind = TRUTHS[index % len(TRUTHS)]
        kind = PREDICTIONS[(index + index // 90) % len(PREDICTIONS)]
        height, width = random.integers(8, 130, 2).tolist()
        truth = truth_of(truth_kind, height, width, random)
        result.append((f"{index}-{kind}-of-{truth_kind}", prediction_of(kind, truth, random), truth))
    return result
