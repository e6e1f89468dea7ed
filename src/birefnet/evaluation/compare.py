"""How two evaluations differ, image by image, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from birefnet.errors import DataError
from birefnet.evaluation.results import Results
from birefnet.metrics import LOWER_IS_BETTER

FEWEST = 3
"""Images below which a difference gets no verdict."""

RESAMPLES = 10_000
"""Bootstrap resamples unless asked otherwise."""

# Indices drawn at a time: enough to be fast, few enough for memory whatever the number of images.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Difference:
    """How a second evaluation differs from a first in one measure, over the images that both have.

    Attributes:
        measure: its name.
        count: images with a value in both.
        first: mean of the first.
        second: mean of the second.
        mean: mean difference, second minus first.
        low: lower end of the bootstrap interval of the mean difference.
        high: its upper end.
        better: share of the images in which the second is better, ties counted half.
        changes: (name, difference) of the images that changed most, the largest change first.
    """

    measure: str
    count: int
    first: float
    second: float
    mean: float
    low: float
    high: float
    better: float
    changes: tuple[tuple[str, float], ...]

    @property
    def verdict(self) -> str:
        """Whether the second is "better" or "worse", or "no clear difference" where the interval holds zero.

        An interval of one or two images means nothing, so they are "too few to tell".
        """
        if self.count < FEWEST:
            return "too few to tell"
        if self.low <= 0 <= self.high:
            return "no clear difference"
        return "better" if (self.mean < 0) == (self.measure in LOWER_IS_BETTER) else "worse"


def bootstrap_interval(
    differences: NDArray[np.float64], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Find the percentile bootstrap interval of a mean.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: the images are drawn anew with
    replacement, many times, and the interval holds the middle of the means.

    Args:
        differences: (N,) of independent images, N > 0.
        level: share of the means inside the interval.
        resamples: how often the images are drawn.
        seed: of the random numbers; the same gives the same interval.
    """
    count = len(differences)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, _BLOCK // count)
    for start in range(0, resamples, block):
        drawn = random.integers(0, count, (min(block, resamples - start), count), np.int32)
        means[start : start + len(drawn)] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare_images(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    measure: str,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    largest: int = 5,
) -> Difference:
    """Compare the values of two evaluations over the images that have one in both.

    Args:
        first: image -> value.
        second: the same of the other evaluation.
        measure: name of the measure, which says which direction is better.
        level: share of the bootstrap means inside the interval.
        resamples: how often the images are drawn.
        seed: of the random numbers.
        largest: how many of the most changed images to name.

    Raises:
        DataError: no image has a value in both.
    """
    pairs = [(n, a, b) for n, a in first.items() if a is not None and (b := second.get(n)) is not None]
    if not pairs:
        raise DataError(f"{measure}: no image has a value in both results")
    before, after = np.array([a for _, a, _ in pairs]), np.array([b for _, _, b in pairs])
    differences = after - before
    low, high = bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    gains = -differences if measure in LOWER_IS_BETTER else differences
    order = np.argsort(-np.abs(differences), kind="stable")[:largest]
    return Difference(
        measure,
        len(pairs),
        float(before.mean()),
        float(after.mean()),
        float(differences.mean()),
        low,
        high,
        float(np.mean(gains > 0) + np.mean(gains == 0) / 2),
        tuple((pairs[index][0], float(differences[index])) for index in order if differences[index]),
    )


def paired_rows(
    first: Results, second: Results, methods: tuple[str | None, str | None] = (None, None)
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Find the rows of two results files that are on the same set, in the order of the first.

    Args:
        first: a results file.
        second: the other; it may be the same, to compare two of its methods.
        methods: which method of each, None where it has only one.

    Raises:
        DataError: a file has several methods and none is named, lacks the one named, or they have no set in common.
    """
    left, right = _rows_of(first, methods[0]), _rows_of(second, methods[1])
    common = [(left[data], right[data]) for data in left if data in right]
    if common:
        return common
    if len(left) == len(right) == 1:  # the same photos in folders of other names
        return [(next(iter(left.values())), next(iter(right.values())))]
    raise DataError(f"{first.path} and {second.path}: have no set in common ({', '.join(left)}; {', '.join(right)})")


def _rows_of(results: Results, method: str | None) -> dict[str, Mapping[str, Any]]:
    names = list(dict.fromkeys(row["method"] for row in results.content["rows"]))
    if method is None and len(names) > 1:
        raise DataError(f"{results.path}: has several methods ({', '.join(names)}); name one with --first or --second")
    if method is not None and method not in names:
        raise DataError(f"{results.path}: has no method {method}; it has {', '.join(names)}")
    return {row["set"]: row for row in results.content["rows"] if method in (None, row["method"])}


def values_of(row: Mapping[str, Any], measure: str) -> dict[str, float | None]:
    """Give an evaluation's values of a measure by image."""
    return {image["name"]: image["values"].get(measure) for image in row["images"]}


def differing_conventions(first: Results, second: Results) -> list[str]:
    """Say in which conventions two results differ, which makes their values hard to compare."""
    left, right = first.content["conventions"], second.content["conventions"]
    return [f"{k}: {left.get(k)} and {right.get(k)}" for k in sorted({*left, *right}) if left.get(k) != right.get(k)]
