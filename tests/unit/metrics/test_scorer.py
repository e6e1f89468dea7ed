import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hard_masks import pairs

from birefnet.errors import InputError
from birefnet.metrics import MASK_MEASURES, MEASURES, Conventions, Pair, Scorer

ALL = tuple(MEASURES)


def score(numbers: list[int]) -> Scorer:
    known = pairs(24)
    scorer = Scorer(ALL)
    for number in numbers:
        scorer.update(*known[number][1:])
    return scorer


@pytest.fixture(scope="module")
def whole() -> Scorer:
    return score(list(range(24)))


def test_merging_is_exact_in_any_split_and_order(whole: Scorer) -> None:
    random = np.random.default_rng(0)
    for _ in range(3):
        order = random.permutation(24).tolist()
        cuts = sorted(random.integers(0, 25, 3).tolist())
        parts = [score(order[a:b]) for a, b in zip([0, *cuts], [*cuts, 24], strict=True)]
        merged = Scorer(ALL)
        for part in parts:
            merged.merge(part)
        assert merged.images == 24
        assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12, abs=1e-12)
        for name, curve in whole.curves().items():
            assert merged.curves()[name] == pytest.approx(curve, rel=1e-12, abs=1e-12)


def test_scorers_come_back_from_processes(whole: Scorer) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        returned = pool.submit(pickle.loads, pickle.dumps(whole)).result()
    assert returned.compute() == whole.compute()


def test_means_and_maxima_over_images_and_over_curves(whole: Scorer) -> None:
    per_image = [Scorer(ALL).update(*pair[1:]) for pair in pairs(24)]
    summary = whole.compute()
    for name in per_image[0]:
        mean = np.mean([values[name] for values in per_image])
        assert summary[f"{name}_per_image" if f"{name}_per_image" in summary else name] == pytest.approx(mean)
    for name, curve in (("maxF", "F"), ("maxE", "E"), ("maxBIoU", "BIoU")):
        assert summary[name] == whole.curves()[curve].max()
        assert summary[name] <= summary[f"{name}_per_image"]
    # A mean is the same whichever way it is taken.
    assert summary["meanF"] == pytest.approx(whole.curves()["F"].mean())


def test_precision_and_recall_are_given_for_reports() -> None:
    _, prediction, truth = pairs(1)[0]
    scorer = Scorer(["F"])
    scorer.update(prediction, truth)
    curves = scorer.curves()
    bins = Pair(prediction, truth).bins[prediction]
    for threshold in (255, 200, 128, 1, 0):
        found, wanted = bins >= threshold, truth > 128
        shared = (found & wanted).sum()
        assert curves["precision"][255 - threshold] == pytest.approx(shared / max(found.sum(), 1))
        assert curves["recall"][255 - threshold] == pytest.approx(shared / wanted.sum())


def test_a_measure_works_alone_as_it_does_in_company() -> None:
    _, prediction, truth = pairs(1)[0]
    together = Scorer(ALL).update(prediction, truth)
    for measure in MEASURES.values():
        alone = measure()
        values = alone.update(prediction, truth)
        assert tuple(values) == measure.names
        assert values == {name: together[name] for name in values}
        assert alone.compute().items() >= values.items()


def test_a_kept_skeleton_changes_nothing(tmp_path: Path) -> None:
    for _, prediction, truth in pairs(4):
        expected = Scorer().update(prediction, truth)
        for _ in range(2):
            assert Scorer(cache=tmp_path / "skeletons").update(prediction, truth) == expected


def test_names_are_those_that_papers_use() -> None:
    names = [name for measure in MASK_MEASURES for name in MEASURES[measure].names]
    assert names == [
        *("S", "MAE", "MSE", "maxE", "meanE", "adpE", "maxF", "meanF", "adpF", "wF"),
        *("HCE", "mBA", "maxBIoU", "meanBIoU"),
    ]


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(InputError, match="choose from S, MAE"):
        Scorer(["S", "quality"])
    with pytest.raises(InputError, match="choose from"):
        Scorer([])
    with pytest.raises(InputError, match="no images"):
        Scorer().compute()
    with pytest.raises(InputError, match="same measures"):
        Scorer(["S"]).merge(Scorer(["F"]))
    with pytest.raises(InputError, match="same"):
        Scorer(["S"]).merge(Scorer(["S"], Conventions(truth_above=127)))
    with pytest.raises(InputError, match="SMeasure"):
        MEASURES["S"]().merge(MEASURES["F"]())
