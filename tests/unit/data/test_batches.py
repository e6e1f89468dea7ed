import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import cuts, save_pair

from birefnet.classes import DIS5K_CLASSES
from birefnet.config import IMAGENET_MEAN, IMAGENET_STD, in_proportion
from birefnet.data.augment import MODERATE, NONE, REFERENCE, Augmentation
from birefnet.data.batches import Batch, Batches, DataRecipe, Stage, format_sizes, parse_sizes, parse_weights
from birefnet.data.compose import Composition
from birefnet.data.pairs import Pair, find_pairs
from birefnet.data.photos import open_photos
from birefnet.data.structures import Drawn
from birefnet.errors import ConfigError

SMALL = DataRecipe(batch=4, sizes="64", augmentation=MODERATE)
EVERYTHING = DataRecipe(
    batch=4,
    sizes="32x64:0.5,64:0.5",
    augmentation=Augmentation(**{**vars(MODERATE), "noise": 0.5, "jpeg": 0.5, "blur": 0.5, "coarse": 0.5}),
    composition=Composition(background=0.3, paste=0.5, structures=0.3),
)


@pytest.fixture
def pairs(tmp_path: Path, chelsea: Path) -> list[Pair]:
    return cuts(chelsea, tmp_path / "data")


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("images", "target", "valid", "classes"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.names == other.names


def join(parts: list[Batch]) -> Batch:
    tensors = [torch.cat([getattr(part, name) for part in parts]) for name in ("images", "target", "valid", "classes")]
    return Batch(*tensors, sum((part.names for part in parts), ()))


def test_sizes_are_written_as_they_are_read() -> None:
    stages = parse_sizes("160:0.65, 224x320:0.35")
    assert stages == (Stage(160, 160, 0.65), Stage(224, 320, 0.35))
    assert format_sizes(stages) == "160:0.65,224x320:0.35"
    assert format_sizes(parse_sizes("1440x2560")) == "1440x2560"
    assert parse_sizes(format_sizes(parse_sizes("1024"))) == (Stage(1024, 1024, 1.0),)
    for text in ("", "a", "100", "0", "160:0.5", "160:0.5,224:0.6", "160,224", "64x", "64:1:1", "160:0,64:1"):
        with pytest.raises(ConfigError):
            parse_sizes(text)


def test_weights_are_read() -> None:
    assert parse_weights("") == {}
    assert parse_weights("pascal_s:2, objects : .5") == {"pascal_s": 2.0, "objects": 0.5}
    for text in ("cats", "cats:", "cats:0", "cats:-1", ":2", "cats:1,cats:2", "cats=2"):
        with pytest.raises(ConfigError, match="weights must look like"):
            DataRecipe(weights=text)


def test_weights_decide_how_often_photos_are_seen(pairs: list[Pair]) -> None:
    photos = open_photos(pairs)
    plain, equal, weighted = (
        Batches(photos, dataclasses.replace(SMALL, weights=weights), 10, 0)
        for weights in ("", "cats:1", "cats:3,flower17:1")
    )
    count = len(photos)
    for epoch in range(3):
        places = range(epoch * count, (epoch + 1) * count)
        in_order = [plain._photo_of(place) for place in places]
        assert sorted(in_order) == list(range(count))
        assert [equal._photo_of(place) for place in places] == in_order
    # Over many epochs each photo is seen in proportion to its weight; in each, at most once more or less than that.
    shares = torch.tensor([3.0 if source == "cats" else 1.0 for source in photos.sources])
    shares *= count / shares.sum()
    epochs = 200
    seen = torch.zeros(epochs, count)
    for place in range(epochs * count):
        seen[place // count, weighted._photo_of(place)] += 1
    assert bool(((seen - shares).abs() < 1).all())
    assert torch.allclose(seen.mean(0), shares, atol=0.15)


def test_impossible_recipes(pairs: list[Pair]) -> None:
    for values in ({"batch": 0}, {"sizes": "33"}, {"dynamic": (64, 32)}, {"dynamic": (0, 64)}, {"dynamic": (40, 64)}):
        with pytest.raises(ConfigError):
            DataRecipe(**values)
    photos = open_photos(pairs)
    with pytest.raises(ConfigError, match="4 cannot be shared by 3 processes"):
        Batches(photos, SMALL, 10, 0, world=3)
    with pytest.raises(ConfigError, match="samples"):
        Batches(photos, SMALL, 0, 0)
    with pytest.raises(ConfigError, match=r"data\.weights: no photo comes from 'dogs': choose of cats, flower17"):
        Batches(photos, DataRecipe(weights="cats:2,dogs:2"), 10, 0)
    recipe = DataRecipe(composition=Composition(paste=0.1, donors=("dogs",)))
    with pytest.raises(ConfigError, match="no photo comes from 'dogs': choose of cats, flower17"):
        Batches(photos, recipe, 10, 0)


def test_a_batch(pairs: list[Pair]) -> None:
    batches = Batches(open_photos(pairs), SMALL, 10, 0)
    assert batches.steps == 3
    batch = batches(0)
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.shape == batch.valid.shape == (4, 1, 64, 64)
    by_name = {pair.name: pair for pair in pairs}
    for name, category in zip(batch.names, batch.classes.tolist(), strict=True):
        assert category == (-1 if by_name[name].category is None else DIS5K_CLASSES.index("Bag"))
    assert set(batch.valid.unique().tolist()) == {0.0, 1.0}


def test_every_epoch_shows_every_photo_once_in_another_order(pairs: list[Pair]) -> None:
    batches = Batches(open_photos(pairs), DataRecipe(batch=1, sizes="32", augmentation=NONE), 21, 5)
    names = [batches(step).names[0] for step in range(21)]
    epochs = [names[start : start + 7] for start in (0, 7, 14)]
    assert all(set(epoch) == {pair.name for pair in pairs} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [batches.epoch_of(step) for step in (0, 6, 7, 20)] == [1, 1, 2, 3]


@pytest.mark.parametrize("recipe", [SMALL, EVERYTHING, DataRecipe(batch=4, sizes="64", augmentation=REFERENCE)])
def test_processes_together_see_what_one_alone_sees(pairs: list[Pair], recipe: DataRecipe) -> None:
    photos = open_photos(pairs)
    alone = Batches(photos, recipe, 32, 1)
    for world in (2, 4):
        shares = [Batches(photos, recipe, 32, 1, rank=rank, world=world) for rank in range(world)]
        for step in range(alone.steps):
            assert_same(alone(step), join([share(step) for share in shares]))


def test_a_batch_depends_on_no_earlier_one_nor_on_threads(pairs: list[Pair], tmp_path: Path) -> None:
    first = Batches(open_photos(pairs), EVERYTHING, 24, 1)
    made = [first(step) for step in range(6)]
    packed = open_photos(pairs, EVERYTHING.fixed_sizes, cache=tmp_path / "cache", headroom=1.25)
    decoded = open_photos(pairs, headroom=1.25)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            again = Batches(open_photos(pairs), EVERYTHING, 24, 1)
            for step in reversed(range(6)):
                assert_same(again(step), made[step])
    finally:
        torch.set_num_threads(threads)
    for step in range(6):
        assert_same(*(Batches(photos, EVERYTHING, 24, 1)(step) for photos in (packed, decoded)))
    assert not torch.equal(Batches(open_photos(pairs), EVERYTHING, 24, 2)(0).images, made[0].images)


def test_making_batches_leaves_torchs_own_randomness_alone(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Batches(open_photos(pairs), EVERYTHING, 24, 1)(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_can_be_sent_to_another_process(pairs: list[Pair], tmp_path: Path) -> None:
    photos = open_photos(pairs, SMALL.fixed_sizes, cache=tmp_path / "cache", headroom=SMALL.augmentation.headroom)
    batches = Batches(photos, SMALL, 24, 1)
    expected = batches(3)
    assert_same(pickle.loads(pickle.dumps(batches))(3), expected)


def test_drawn_photos_are_photos_too() -> None:
    recipe = DataRecipe(batch=2, sizes="64x96", augmentation=MODERATE, composition=Composition(paste=1.0))
    batch = Batches(Drawn(5, 0), recipe, 10, 0)(4)
    assert batch.images.shape == (2, 3, 64, 96)
    assert 0 < batch.target.mean() < 1


def test_stages_follow_each_other(pairs: list[Pair]) -> None:
    batches = Batches(open_photos(pairs), EVERYTHING, 40, 0)
    assert [batches.size_at(step) for step in range(10)] == [(32, 64)] * 5 + [(64, 64)] * 5
    assert batches(0).images.shape[-2:] == (32, 64)
    assert batches(9).images.shape[-2:] == (64, 64)
    assert EVERYTHING.fixed_sizes == ((32, 64), (64, 64))
    thirds = DataRecipe(batch=1, sizes="32:0.1,64:0.2,96:0.7")
    sizes = [Batches(open_photos(pairs), thirds, 10, 0).size_at(step)[0] for step in range(10)]
    assert sizes == [32] + [64] * 2 + [96] * 7


def test_sizes_drawn_anew_for_each_batch(pairs: list[Pair]) -> None:
    recipe = DataRecipe(batch=2, dynamic=(32, 96), augmentation=REFERENCE)
    assert recipe.fixed_sizes == ()
    photos = open_photos(pairs)
    ranks = [Batches(photos, recipe, 200, 3, rank=rank, world=2) for rank in range(2)]
    sizes = [ranks[0].size_at(step) for step in range(100)]
    assert {side for size in sizes for side in size} == {32, 64, 96}
    assert len(set(sizes)) == 9
    assert [ranks[1].size_at(step) for step in range(100)] == sizes
    for step in range(5):
        assert tuple(ranks[1](step).images.shape[-2:]) == sizes[step]
        assert tuple(ranks[1](step).valid.shape[-2:]) == sizes[step]


@pytest.fixture
def shapes(tmp_path: Path) -> list[Pair]:
    """40 photos, of four proportions in turn."""
    for number in range(40):
        height, width = [(40, 80), (60, 60), (80, 40), (50, 70)][number % 4]
        levels = np.full((height, width), 6 * number, np.uint8)
        save_pair(tmp_path / "shapes", f"{number:02}", levels[..., None].repeat(3, axis=2), np.minimum(levels, 1) * 255)
    return find_pairs(tmp_path / "shapes")


KEPT = DataRecipe(batch=4, sizes="64:0.5,96:0.5", augmentation=MODERATE, keep_aspect=True)


def test_photos_of_like_proportions_share_batches(shapes: list[Pair]) -> None:
    photos = open_photos(shapes)
    batches = Batches(photos, KEPT, 4 * 40, 0)
    assert batches.steps == 40
    found = [batches(step) for step in range(40)]
    aspects = dict(zip(photos.names, photos.aspects, strict=True))
    for step, batch in enumerate(found):
        size = (batch.images.shape[2], batch.images.shape[3])
        assert size == batches.size_at(step) == tuple(batch.target.shape[2:])
        mean = np.exp(np.mean([np.log(aspects[name]) for name in batch.names]))
        assert size == in_proportion((64, 64) if step < 20 else (96, 96), mean)
    # Three stretches, in each of which no more than three batches have a border between proportions.
    assert sum(len({aspects[name] for name in batch.names}) == 1 for batch in found) >= 40 - 3 * 3
    assert {tuple(batch.images.shape[2:]) for batch in found[20:]} >= {(64, 128), (96, 96), (128, 64)}
    # The same photos as otherwise are seen, within sixteen steps.
    plain = Batches(photos, dataclasses.replace(KEPT, keep_aspect=False), 4 * 40, 0)
    for first in (0, 16, 32):
        steps = range(first, min(first + 16, 40))
        seen = sorted(name for step in steps for name in found[step].names)
        assert seen == sorted(name for step in steps for name in plain(step).names)
    sizes = [batches.size_at(step) for step in range(20)]
    assert sizes != sorted(sizes)
    assert sizes != sorted(sizes, reverse=True)


def test_photos_are_warped_to_their_own_proportions(shapes: list[Pair], tmp_path: Path) -> None:
    still = dataclasses.replace(KEPT, augmentation=NONE, sizes="96")
    packed = open_photos(shapes, still.fixed_sizes, cache=tmp_path / "cache")
    for photos in (packed, open_photos(shapes)):
        batch = Batches(photos, still, 4, 0)(0)
        size = tuple(batch.images.shape[2:])
        assert size != (96, 96)
        levels = (batch.images * batch.images.new_tensor(IMAGENET_STD).view(3, 1, 1)).add(
            batch.images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        ) * 255
        expected = torch.tensor([6.0 * int(name) for name in batch.names]).view(-1, 1, 1, 1)
        assert torch.allclose(levels, expected.expand_as(levels), atol=0.01)


def test_proportions_are_kept_by_processes_and_in_any_order(shapes: list[Pair]) -> None:
    photos = open_photos(shapes)
    alone = Batches(photos, KEPT, 80, 1)
    shares = [Batches(photos, KEPT, 80, 1, rank=rank, world=2) for rank in range(2)]
    for step in (19, 3, 16, 0):
        assert_same(alone(step), join([share(step) for share in shares]))
    again = pickle.loads(pickle.dumps(Batches(photos, KEPT, 80, 1)))
    assert_same(again(19), alone(19))
    with pytest.raises(ConfigError, match="keep_aspect and dynamic"):
        DataRecipe(keep_aspect=True, dynamic=(64, 96))


def test_plain_backgrounds_are_only_mirrored(pairs: list[Pair]) -> None:
    recipe = DataRecipe(batch=4, sizes="64", augmentation=REFERENCE, composition=Composition(background=1.0))
    unchanged = DataRecipe(batch=4, sizes="64", augmentation=NONE, composition=Composition(background=1.0))
    photos = open_photos(pairs)
    for step in range(4):
        changed, still = (Batches(photos, each, 16, 0)(step) for each in (recipe, unchanged))
        for image, plain in zip(changed.images, still.images, strict=True):
            assert torch.equal(image, plain) or torch.equal(image, plain.flip(-1))


@pytest.mark.parametrize("share", ["background", "paste", "structures", "lights", "scenes"])
def test_each_way_to_put_photos_together_is_taken_by_itself(share: str, pairs: list[Pair]) -> None:
    settings = DataRecipe(batch=4, sizes="64", augmentation=NONE)
    composed = dataclasses.replace(settings, composition=Composition(**{share: 1.0}))
    photos = open_photos(pairs)
    still, changed = (Batches(photos, recipe, 4, 0)(0) for recipe in (settings, composed))
    assert not torch.equal(still.images, changed.images)


def test_objects_are_pasted_from_the_sources_that_may_give_them(pairs: list[Pair]) -> None:
    photos = open_photos(pairs)
    pasted = DataRecipe(
        batch=4, sizes="64", augmentation=NONE, composition=Composition(paste=1.0, donors=("flower17",))
    )
    alone = DataRecipe(batch=4, sizes="64", augmentation=NONE)
    assert {photos.sources[index] for index in Batches(photos, pasted, 4, 0)._donors} == {"flower17"}
    more, less = (Batches(photos, recipe, 4, 0)(0) for recipe in (pasted, alone))
    assert (more.target.sum((1, 2, 3)) > less.target.sum((1, 2, 3))).float().mean() >= 0.5
