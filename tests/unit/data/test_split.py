import hashlib
from pathlib import Path

import pytest

from birefnet.data.pairs import Pair
from birefnet.data.split import position, split
from birefnet.errors import ConfigError, DataError


def make(*names: str) -> list[Pair]:
    return [Pair(name, Path(f"im/{name}.jpg"), Path(f"gt/{name}.png")) for name in names]


MANY = make(*(f"photo-{number}" for number in range(4000)))


def names(pairs: list[Pair]) -> set[str]:
    return {pair.name for pair in pairs}


def test_the_share_is_met_on_average_and_the_order_kept() -> None:
    train, validation = split(MANY, 0.1)
    # Four standard deviations of 4000 draws.
    assert abs(len(validation) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    held_out = names(validation)
    assert train == [pair for pair in MANY if pair.name not in held_out]
    assert validation == [pair for pair in MANY if pair.name in held_out]
    assert not names(train) & names(validation)


def test_files_that_are_added_or_removed_move_no_other() -> None:
    _, few = split(MANY[1000:2000], 0.1)
    _, all_of_them = split(MANY[::-1], 0.1)
    assert names(few) == names(all_of_them) & names(MANY[1000:2000])


def test_a_larger_share_keeps_what_a_smaller_one_holds_out() -> None:
    assert names(split(MANY, 0.05)[1]) < names(split(MANY, 0.1)[1])


def test_another_seed_is_another_split() -> None:
    first, second = names(split(MANY, 0.5)[1]), names(split(MANY, 0.5, seed=1)[1])
    assert 0.4 < len(first & second) / len(first) < 0.6


def test_the_function_is_as_documented() -> None:
    assert position("photo-1") == 0.01835071632623053
    digest = hashlib.blake2b(b"7:caf\xc3\xa9", digest_size=8).digest()
    assert 0 <= position("not unicode \udcff") < 1
    assert position("café", 7) == (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def test_where_files_lie_does_not_matter() -> None:
    moved = [Pair(pair.name, Path("/elsewhere") / pair.image, pair.mask, "other") for pair in MANY]
    assert names(split(moved, 0.1)[1]) == names(split(MANY, 0.1)[1])


@pytest.mark.parametrize("groups", [r"(.+)_\d+", r"video\d+", r"(?:still|(video\d+))"])
def test_frames_of_one_video_stay_together(groups: str) -> None:
    frames = make(*(f"video{video}_{frame:03d}" for video in range(60) for frame in range(20)), "other")
    train, validation = split(frames, 0.3, groups=groups)
    assert {name.split("_")[0] for name in names(train)}.isdisjoint(name.split("_")[0] for name in names(validation))
    assert "other" in names(train) | names(validation)
    # A frame that is added goes where its video is.
    more = make("video7_999")
    assert names(split([*frames, *more], 0.3, groups=groups)[1]) - names(validation) <= {"video7_999"}
    assert ("video7_999" in names(split([*frames, *more], 0.3, groups=groups)[1])) == (
        "video7_000" in names(validation)
    )


def test_without_validation() -> None:
    assert split(MANY, 0) == (MANY, [])
    assert split([], 0.1) == ([], [])


@pytest.mark.parametrize("share", [-0.1, 1, 2, float("nan")])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
        split(MANY, share)


def test_patterns_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"groups '\(': no regular expression"):
        split(MANY, 0.1, groups="(")


def test_of_few_pairs_one_is_held_out_nevertheless() -> None:
    train, held_out = split(MANY[:3], 0.0001)
    assert len(train) == 2
    assert held_out == [min(MANY[:3], key=lambda pair: position(pair.name))]


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(DataError, match="nothing is left to train on"):
        split(MANY[:3], 0.9999)
