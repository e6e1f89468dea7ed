from pathlib import Path
from typing import Any

import numpy as np
import pytest

from birefnet.errors import DataError
from birefnet.evaluation.checkpoints import copy_weights, find_checkpoints, rank
from birefnet.evaluation.compare import (
    bootstrap_interval,
    compare_images,
    differing_conventions,
    paired_rows,
    values_of,
)
from birefnet.evaluation.results import Results, read_results, to_json


def results(name: str, *rows: tuple[str, str], conventions: dict[str, Any] | None = None) -> Results:
    listed = [{"method": m, "set": s, "summary": {}, "images": [{"name": "i", "values": {"S": 1.0}}]} for m, s in rows]
    return Results(Path(name), {"conventions": conventions or {}, "measures": ["S"], "rows": listed})


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    runs = 300
    covered = 0
    for seed in range(runs):
        low, high = bootstrap_interval(random.normal(0.3, 1, 60), resamples=500, level=0.9, seed=seed)
        covered += low <= 0.3 <= high
    # Three standard deviations of a binomial around 0.9, and a little for the percentile interval being too short.
    assert 0.82 < covered / runs < 0.96


def test_the_interval_is_that_of_the_normal_theory_for_many_images() -> None:
    differences = np.random.default_rng(0).normal(1, 2, 2000)
    low, high = bootstrap_interval(differences)
    half = 1.96 * differences.std() / np.sqrt(len(differences))
    assert low == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(differences.mean() + half, abs=0.1 * half)
    assert bootstrap_interval(differences) == (low, high)
    assert bootstrap_interval(differences, seed=1) != (low, high)


def test_blocks_draw_the_same_however_many_images() -> None:
    # More than one block: 4,000,000 // 5000 = 800 resamples each.
    low, high = bootstrap_interval(np.arange(5000.0), resamples=2000)
    assert low < np.arange(5000.0).mean() < high


def test_differences_are_paired_by_image_over_what_both_have() -> None:
    first = {"a": 0.5, "b": 0.6, "c": 0.7, "only": 0.1, "none": None}
    second = {"a": 0.6, "b": 0.6, "c": 0.5, "none": 0.4}
    found = compare_images(first, second, "S", largest=2)
    assert (found.count, found.first, found.second) == (3, pytest.approx(0.6), pytest.approx(1.7 / 3))
    assert found.mean == pytest.approx(-0.1 / 3)
    assert found.better == pytest.approx(0.5)  # one better, one worse, one alike
    assert [name for name, _ in found.changes] == ["c", "a"]
    assert found.low <= found.mean <= found.high
    assert found.verdict == "no clear difference"
    with pytest.raises(DataError, match="S: no image has a value in both"):
        compare_images({"a": 1.0}, {"b": 1.0}, "S")


def test_less_is_better_for_errors() -> None:
    first = {str(i): 0.5 + i / 100 for i in range(20)}
    second = {name: value - 0.1 for name, value in first.items()}
    assert (compare_images(first, second, "MAE").verdict, compare_images(first, second, "MAE").better) == ("better", 1)
    assert (compare_images(first, second, "S").verdict, compare_images(first, second, "S").better) == ("worse", 0)


def test_rows_are_paired_by_set() -> None:
    one, two = results("1.json", ("a", "x"), ("a", "y")), results("2.json", ("b", "y"), ("b", "z"))
    ((left, right),) = paired_rows(one, two)
    assert (left["set"], left["method"], right["method"]) == ("y", "a", "b")
    assert values_of(left, "S") == {"i": 1.0}
    # A single set of each is taken for the same, whatever the folders are called.
    assert len(paired_rows(results("1.json", ("a", "x")), results("2.json", ("b", "z")))) == 1
    many = results("m.json", ("a", "x"), ("b", "x"))
    ((left, right),) = paired_rows(many, many, ("a", "b"))
    assert (left["method"], right["method"]) == ("a", "b")
    with pytest.raises(DataError, match=r"m.json: has several methods \(a, b\); name one with --first or --second"):
        paired_rows(many, one)
    with pytest.raises(DataError, match=r"m.json: has no method c; it has a, b"):
        paired_rows(many, many, ("a", "c"))
    with pytest.raises(DataError, match=r"1.json and 2.json: have no set in common \(x, y; p, q\)"):
        paired_rows(one, results("2.json", ("b", "p"), ("b", "q")))


def test_other_conventions_are_told() -> None:
    one, two = results("1", conventions={"a": 1, "b": 2}), results("2", conventions={"a": 1, "b": 3, "c": 4})
    assert differing_conventions(one, two) == ["b: 2 and 3", "c: None and 4"]


def test_a_results_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(results("x", ("a", "x")).content))
    assert read_results(path).content["rows"][0]["method"] == "a"
    for text in ("{}", "[1]", '{"conventions": {}, "measures": [], "rows": [1]}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"r.json: no results of birefnet evaluate"):
            read_results(path)
    path.write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"r.json: cannot be read as JSON"):
        read_results(path)
    with pytest.raises(DataError, match=r"none.json: no such file"):
        read_results(tmp_path / "none.json")


def test_checkpoints_are_found_in_the_order_of_epochs(tmp_path: Path) -> None:
    for name in ("epoch_10.pth", "epoch_9.pth", "best/model.safetensors", ".tmp.pth", "log.jsonl", "checkpoint.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_checkpoints(tmp_path)]
    assert names == ["best/model.safetensors", "epoch_9.pth", "epoch_10.pth"]
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_checkpoints(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no weights"):
        find_checkpoints(tmp_path / "empty")


def test_checkpoints_are_ranked_by_their_mean_over_the_sets() -> None:
    rows = [
        {"method": m, "set": s, "summary": {"S": v, "MAE": v}}
        for m, s, v in (("a", "x", 0.2), ("b", "x", 0.3), ("c", "x", None), ("a", "y", 0.6), ("b", "y", 0.3))
    ]
    assert [name for name, _ in rank(rows, "S")] == ["a", "b"]
    assert rank(rows, "MAE") == [("b", pytest.approx(0.3)), ("a", pytest.approx(0.4))]


def test_the_best_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"weights")
    copy_weights(tmp_path / "a.pth", tmp_path / "new" / "best.pth")
    assert (tmp_path / "new" / "best.pth").read_bytes() == b"weights"
    copy_weights(tmp_path / "a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == b"weights"
