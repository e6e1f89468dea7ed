"""Human correction effort: how many clicks would mend the prediction."""

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.metrics.bits import Bits
from birefnet.metrics.measure import Measure, Reading
from birefnet.metrics.pair import Pair

RELAX = 5
EPSILON = 2.0

Points = NDArray[np.int32]
Places = NDArray[np.intp]


def human_correction_effort(
    prediction: Bits, truth: Bits, skeleton: Bits, relax: int = RELAX, epsilon: float = EPSILON
) -> int:
    """Count the points to set for mending what is wrong by polygons, and the regions to click away or fill.

    Qin et al.: "Highly accurate dichotomous image segmentation", ECCV 2022.

    Args:
        prediction: binary.
        truth: binary.
        skeleton: the truth's; where it was missed, even thin lines count.
        relax: errors that lie within that many pixels of the edges are forgiven.
        epsilon: how far in pixels a polygon may be from the contour it stands for.
    """
    shared, union = truth & prediction, truth | prediction
    solid = union
    for _ in range(relax):
        solid = solid.erode()
    false = prediction & _regrown((prediction - truth) & solid, ~truth, relax)
    missed = (truth & _regrown((truth - prediction) & solid, ~prediction, relax)) | (skeleton - shared)
    effort = _effort(false, (shared | missed).dilate(), epsilon)
    return effort + _effort(missed, (~(shared | false | missed)).dilate(), epsilon)


def _regrown(seeds: Bits, region: Bits, steps: int) -> Bits:
    """Grow what is left of errors, but not into what is right."""
    for _ in range(steps):
        seeds = seeds.dilate() & region
    return seeds


def _effort(region: Bits, beside: Bits, epsilon: float) -> int:
    """Points on those stretches of the contours that are beside what is right, and regions that have none."""
    if not region.words.any():
        return 0
    contours, tree = cv2.findContours(region.unpack(), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    lengths = np.array([len(contour) for contour in contours], np.intp)
    points = np.asarray(np.concatenate(contours), np.int32).reshape(-1, 2)
    owners = np.repeat(np.arange(len(contours)), lengths)
    columns, rows = points[:, 0].astype(np.intp), points[:, 1].astype(np.intp)
    places = np.flatnonzero(beside.at(rows, columns))
    outer = _outer_contours(tree[0, :, 3].astype(np.intp))
    touched = np.zeros(len(contours), np.bool_)
    touched[outer[owners[places]]] = True
    alone = int(np.count_nonzero(~touched & (outer == np.arange(len(contours)))))
    # Contours may share pixels, and one may pass a pixel twice: each counts where it comes first.
    pixels = rows[places] * region.width + columns[places]
    places = places[_first_of_each(pixels, region.shape[0] * region.width)]
    return alone + _polygon_points(points, owners, places, epsilon)


def _outer_contours(parents: Places) -> Places:
    """For each contour the outer contour of its region: itself, or the parent of the hole it goes around.

    Outer contours and holes alternate from a tree's root downwards.
    """
    hole = np.zeros(len(parents), np.bool_)
    above = parents
    while (further := above >= 0).any():
        hole ^= further
        above = np.where(further, parents[above], -1)
    return np.where(hole, parents, np.arange(len(parents)))


def _first_of_each(pixels: Places, area: int) -> NDArray[np.bool_]:
    """Which entries are the first of their value.  (N,) of values below `area` -> (N,)."""
    order = np.arange(len(pixels), dtype=np.int32)
    first = np.empty(area, np.int32)
    first[pixels[::-1]] = order[::-1]  # the last assignment stands, so the first entry
    return np.asarray(first[pixels] == order)


def _polygon_points(points: Points, owners: Places, places: Places, epsilon: float) -> int:
    """Number of points of the polygons through all stretches of neighbouring places on one contour."""
    if len(places) == 0:
        return 0
    owner = owners[places]
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(owner) != 0)) + 1
    starts = places[np.concatenate([[0], breaks])]
    ends = places[np.concatenate([breaks - 1, [len(places) - 1]])] + 1
    # A stretch may go on across the contour's arbitrary first point: the last one is then joined with the first, which
    # the authors' program turns round.
    of = owners[starts]
    first = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1]]))
    last = np.concatenate([first[1:], [len(of)]]) - 1
    apart = np.abs(points[starts[first]] - points[ends[last] - 1]).max(1)
    joined = (last > first) & (apart == 1)
    total = 0
    for one, other in zip(first[joined], last[joined], strict=True):
        stretch = np.concatenate([points[starts[other] : ends[other]], points[starts[one] : ends[one]][::-1]])
        total += len(cv2.approxPolyDP(stretch, epsilon, False))
    rest = np.ones(len(starts), np.bool_)
    rest[first[joined]] = rest[last[joined]] = False
    starts, ends = starts[rest], ends[rest]
    # Up to four neighbouring points are within 1.5 pixels of their ends, so only the ends are kept.
    short = (ends - starts <= 4) & (epsilon >= 1.5)
    total += int(np.minimum(ends - starts, 2)[short].sum())
    for start, end in zip(starts[~short].tolist(), ends[~short].tolist(), strict=True):
        total += len(cv2.approxPolyDP(points[start:end], epsilon, False))
    return total


class HumanCorrectionEffort(Measure):
    """HCE: from 0, which is perfect, upwards; it grows with the size of images."""

    names = ("HCE",)

    def read(self, pair: Pair) -> Reading:
        """Measure one pair."""
        effort = human_correction_effort(pair.prediction_bits, pair.truth_bits, pair.skeleton)
        return Reading({"HCE": float(effort)})
