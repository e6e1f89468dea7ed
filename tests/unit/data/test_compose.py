from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from birefnet.data.cache import FULL, UNLABELLED
from birefnet.data.compose import (
    SCALES,
    Composition,
    compose,
    draw_on,
    foreground_colours,
    hang_behind,
    hold,
    lay_over,
    light_up,
    paste,
    replace_background,
    serve,
    set_before_scene,
    shade_behind,
)
from birefnet.data.tableware import draw_tableware
from birefnet.errors import ConfigError

RED, GREEN, BLUE = (200, 30, 40), (40, 180, 60), (30, 50, 220)
HALF = [0.5] * 8


def disc(
    own: tuple[int, ...], behind: tuple[int, ...], radius: float = 30, centre: tuple[float, float] = (60, 60)
) -> Tensor:
    """A disc with an edge some pixels wide, photographed truly: a blend of two colours by its label."""
    rows, columns = torch.meshgrid(torch.arange(120.0), torch.arange(120.0), indexing="ij")
    distance = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).sqrt()
    alpha = ((radius - distance) / 4 + 0.5).clamp(0, 1)
    label = (alpha * FULL).round()
    share = label / FULL
    photo = share * torch.tensor(own).view(3, 1, 1) + (1 - share) * torch.tensor(behind).view(3, 1, 1)
    return torch.cat([photo.round(), label[None]]).to(torch.uint8)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + index) for index in range(count)]


@pytest.fixture
def batch() -> Tensor:
    return torch.stack([disc(RED, BLUE), disc(GREEN, RED, 20), disc(BLUE, GREEN, 40), disc(RED, GREEN, 25, (40, 70))])


SHARES = [field.name for field in fields(Composition) if field.name != "donors"]

EVERYTHING = Composition(**dict.fromkeys(SHARES, 0.5))


# --- all together ---


def test_nothing_to_do_changes_nothing(batch: Tensor) -> None:
    result, plain = compose(batch, batch.flip(0), Composition(), generators(4))
    assert torch.equal(result, batch)
    assert plain.tolist() == [False] * 4


def test_bytes_in_and_out_and_what_is_given_stays(batch: Tensor) -> None:
    before = batch.clone()
    result, plain = compose(batch, batch.flip(0), Composition(1, 1, (), 1, 1), generators(4))
    assert (result.dtype, result.shape) == (torch.uint8, batch.shape)
    assert (plain.dtype, plain.tolist()) == (torch.bool, [True] * 4)
    assert torch.equal(batch, before)
    assert int(result[:, 3].max()) == FULL


def test_a_sample_follows_from_its_own_generator(batch: Tensor) -> None:
    donors = batch.flip(0)
    together, plain = compose(batch, donors, EVERYTHING, generators(4))
    again, _ = compose(batch, donors, EVERYTHING, generators(4))
    assert torch.equal(together, again)
    for index, generator in enumerate(generators(4)):
        one = slice(index, index + 1)
        alone, single = compose(batch[one], donors[one], EVERYTHING, [generator])
        assert torch.equal(alone[0], together[index])
        assert bool(single[0]) == bool(plain[index])
    other, _ = compose(batch, donors, EVERYTHING, generators(4, seed=1))
    assert not torch.equal(other, together)


def test_what_is_done_moves_no_other_chance(batch: Tensor) -> None:
    states = []
    for settings in (Composition(), EVERYTHING, Composition(1, 1, (), 1, 1)):
        used = generators(4)
        compose(batch, batch.flip(0), settings, used)
        states.append([torch.rand(1, generator=generator).item() for generator in used])
    assert states[0] == states[1] == states[2]


def test_shares_are_kept() -> None:
    count = 600
    small = disc(RED, BLUE)[:, 44:76, 44:76].expand(count, -1, -1, -1)
    _, plain = compose(small, None, Composition(background=0.3), generators(count))
    assert 0.24 < plain.float().mean() < 0.36
    drawn, _ = compose(small[:150], None, Composition(structures=0.4), generators(150))
    assert 0.28 < (drawn != small[:150]).flatten(1).any(1).float().mean() < 0.52
    behind = disc(RED, BLUE)[:, :32, :32].expand(150, -1, -1, -1)
    lit, _ = compose(behind, None, Composition(lights=0.4), generators(150))
    assert 0.28 < (lit != behind).flatten(1).any(1).float().mean() < 0.52
    whole = disc(RED, BLUE)[:, ::2, ::2].expand(150, -1, -1, -1)
    for name in ("held", "drapes", "shadows", "tableware"):
        settings = Composition(**{name: 0.4})
        changed, _ = compose(whole, None, settings, generators(150))
        assert 0.25 < (changed != whole).flatten(1).any(1).float().mean() < 0.52


def test_without_donors_nothing_is_pasted(batch: Tensor) -> None:
    result, _ = compose(batch, None, Composition(paste=1), generators(4))
    assert torch.equal(result, batch)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_are_checked(name: str, share: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .* from 0 to 1"):
        Composition(**{name: share})


# --- backgrounds ---


def test_the_three_rules_come_as_often_as_they_should() -> None:
    photo = disc(RED, BLUE)
    drawn = torch.rand((500, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kinds, levels = {"grey": 0, "near": 0, "random": 0}, []
    for chances in drawn.tolist():
        replaced = replace_background(photo, chances)
        assert replaced is not None
        colour = replaced[:3, 0, 0].tolist()
        assert (replaced[:3, :5] == replaced[:3, :1, :1]).all()
        if len(set(colour)) == 1:
            kinds["grey"] += 1
            levels.append(colour[0])
        elif all(0.78 * own - 3 <= value <= 1.22 * own + 3 for value, own in zip(colour, RED, strict=True)):
            kinds["near"] += 1
        else:
            kinds["random"] += 1
    assert 165 < kinds["grey"] < 235
    assert 165 < kinds["near"] < 235
    assert 70 < kinds["random"] < 130
    assert min(levels) < 15
    assert max(levels) > 240


def test_no_halo_of_the_old_background() -> None:
    photo = disc(RED, BLUE)
    for level in (0.0, 0.5, 0.99):
        replaced = replace_background(photo, [0.1, level, 0, 0, 0])
        assert replaced is not None
        share = photo[3] / FULL
        true = share * torch.tensor(RED).view(3, 1, 1) + (1 - share) * 255 * level
        error = (replaced[:3] - true).abs()
        assert error.max() < 14
        # Blending the photo itself leaves blue all round.
        naive = share * photo[:3] + (1 - share) * 255 * level
        assert (naive - true).abs().max() > 40
        assert torch.equal(replaced[3], photo[3])


def test_unlabelled_pixels_keep_their_photo() -> None:
    photo = disc(RED, BLUE)
    photo[3, 20:40, 20:100] = UNLABELLED
    replaced = replace_background(photo, [0.1, 0.5, 0, 0, 0])
    assert replaced is not None
    assert torch.equal(replaced[:, 20:40, 20:100], photo[:, 20:40, 20:100])
    assert torch.equal(replaced[3], photo[3])
    assert replaced[:3, 0, 0].tolist() == [128, 128, 128]


def test_a_photo_without_an_object_keeps_its_background(batch: Tensor) -> None:
    batch[1, 3] = 0
    result, plain = compose(batch, None, Composition(background=1), generators(4))
    assert plain.tolist() == [True, False, True, True]
    assert torch.equal(result[1], batch[1])


# --- foreground colours ---


@pytest.mark.parametrize("size", [(40, 64), (200, 200), (333, 250)])
def test_foreground_colours(size: tuple[int, int]) -> None:
    photo = torch.nn.functional.interpolate(disc(RED, BLUE)[None].float(), size, mode="bilinear")[0]
    alpha = photo[3:] / FULL
    own = foreground_colours(photo[:3], alpha, torch.ones_like(alpha))
    inside = alpha[0] == 1
    assert (own - photo[:3])[:, inside].abs().max() < 0.01
    # By how much of them is seen.
    assert (alpha * (own - torch.tensor(RED).view(3, 1, 1))).abs().max() < 16
    assert (alpha * (photo[:3] - torch.tensor(RED).view(3, 1, 1))).abs().max() > 40


# --- copy and paste ---


def test_a_pasted_object_is_whole_and_without_halo() -> None:
    photo, donor = torch.zeros((4, 120, 120), dtype=torch.uint8), disc(RED, BLUE)
    photo[:3] = torch.tensor(GREEN, dtype=torch.uint8).view(3, 1, 1)
    # At its own size in the middle, in its own light.
    scale = (62 / 120 - SCALES[0]) / (SCALES[1] - SCALES[0])
    pasted = paste(photo, donor, [scale, 0.5, 0.5, 0.9, 0.0, 0, 0, 0])
    alpha = pasted[3] / FULL
    assert alpha.sum() == pytest.approx(float((donor[3] / FULL).sum()), rel=0.06)
    true = alpha * torch.tensor(RED).view(3, 1, 1) + (1 - alpha) * torch.tensor(GREEN).view(3, 1, 1)
    assert (pasted[:3] - true).abs().max() < 16
    untouched = pasted[3] == 0
    assert torch.equal(pasted[:3, untouched], photo[:3, untouched])


@pytest.mark.parametrize("seed", range(20))
def test_size_and_place_of_what_is_pasted(seed: int) -> None:
    photo = torch.zeros((4, 120, 120), dtype=torch.uint8)
    chances = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
    found = paste(photo, disc(RED, BLUE), chances)[3].nonzero()
    assert len(found) > 0
    size = found.amax(0) - found.amin(0) + 1
    wanted = 120 * (SCALES[0] + chances[0] * (SCALES[1] - SCALES[0]))
    assert size.max() <= min(wanted, 1.5 * 65) + 2
    # The middle is within the photo, so a quarter at least is seen.
    assert size.min() >= wanted / 2 - 3 or wanted > 1.5 * 62


def test_truth_is_the_union(batch: Tensor) -> None:
    for seed in range(5):
        result, _ = compose(batch, batch.flip(0), Composition(paste=1, structures=1), generators(4, seed))
        assert (result[:, 3] >= batch[:, 3]).all()
        assert (result[:, 3] > batch[:, 3]).flatten(1).any(1).all()
        # Where the truth is as before, nothing was laid over it, or something over what was full already.
        same = (result[:, 3] == batch[:, 3]) & (batch[:, 3] == 0)
        for index in range(4):
            assert torch.equal(result[index, :3, same[index]], batch[index, :3, same[index]])


def test_what_its_photo_cuts_off_stays_at_the_border() -> None:
    donor = disc(RED, BLUE, 40, (118, 60))
    photo = torch.zeros((4, 120, 120), dtype=torch.uint8)
    for seed in range(10):
        chances = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
        pasted = paste(photo, donor, chances)
        assert pasted[3, -1].max() == FULL
    left = disc(RED, BLUE, 40, (60, 2))
    for flip, column in ((0.9, 0), (0.1, -1)):
        assert paste(photo, left, [0.5, 0.5, 0.2, flip, 0, 0, 0, 0])[3, :, column].max() == FULL


def test_flip_mirrors_the_object() -> None:
    photo, donor = torch.zeros((4, 120, 120), dtype=torch.uint8), disc(RED, BLUE)
    donor[3, :, 70:] = 0
    kept, mirrored = (paste(photo, donor, [0.5, 0.5, 0.5, flip, 0, 0, 0, 0]) for flip in (0.9, 0.1))
    assert not torch.equal(kept, mirrored)
    assert (kept[3].int() - mirrored[3].flip(1).int()).abs().float().mean() < 6


@pytest.mark.parametrize(
    "spoil", [lambda label: label.zero_(), lambda label: label.fill_(FULL), lambda label: label.fill_(UNLABELLED)]
)
def test_a_donor_with_nothing_to_paste(spoil: Callable[[Tensor], Tensor]) -> None:
    photo, donor = disc(RED, BLUE), disc(GREEN, RED)
    spoil(donor[3])
    assert torch.equal(paste(photo, donor, HALF), photo)


def test_unlabelled_pixels_of_donor_and_photo() -> None:
    photo, donor = disc(RED, BLUE, 10, (20, 20)), disc(GREEN, RED)
    donor[3, :60] = UNLABELLED
    photo[3, 90:] = UNLABELLED
    result = paste(photo, donor, [0.4, 0.5, 0.5, 0.9, 0.0, 0, 0, 0])
    assert (result[3] == FULL).any()
    # Nothing new is unlabelled, and what was so is unless it is covered wholly.
    unknown = photo[3] == UNLABELLED
    assert (result[3][~unknown] != UNLABELLED).all()
    assert torch.isin(result[3][unknown], torch.tensor([FULL, UNLABELLED])).all()
    lower = paste(photo, donor, [0.4, 0.5, 0.9, 0.9, 0.0, 0, 0, 0])[3][unknown]
    assert (lower == FULL).any()
    assert (lower == UNLABELLED).any()


# --- held things ---


def test_what_is_held_belongs_to_the_object_and_is_in_part_beyond_it() -> None:
    photo, touching, beyond, dark = disc(RED, BLUE), 0, 0, 0
    for seed in range(40):
        result = hold(photo, np.random.default_rng(seed))
        assert torch.equal(result, hold(photo, np.random.default_rng(seed)))
        assert (result[3] >= photo[3]).all()
        # It is before the object, or, seldom, not far from it.
        thing = (result[3] > photo[3]) | ((result[:3] != photo[:3]).any(0) & (photo[3] == FULL))
        near = torch.nn.functional.max_pool2d(photo[3][None].float(), 41, 1, 20)[0] > 0
        touching += bool((thing & near).any())
        assert int((result[3] == FULL).sum()) < 0.8 * result[3].numel()
        beyond += bool((result[3, photo[3] == 0] == FULL).sum() > 20)
        # Where the truth is background the photo stays, but for what is dark there.
        behind = result[:, (result[3] == 0)].int(), photo[:, (result[3] == 0)].int()
        assert (behind[0] <= behind[1]).all()
        dark += bool((behind[0] < behind[1]).any())
    assert touching >= 36
    assert beyond > 20
    assert 10 < dark < 30


def test_without_an_object_nothing_is_held() -> None:
    for level in (0, UNLABELLED):
        photo = disc(RED, BLUE)
        photo[3] = level
        assert torch.equal(hold(photo, np.random.default_rng(0)), photo)


def test_unlabelled_pixels_stay_so_around_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = disc(RED, BLUE)
    photo[3, 80:] = UNLABELLED
    unknown, covered, darker = photo[3] == UNLABELLED, 0, 0
    for seed in range(20):
        monkeypatch.setattr("birefnet.data.compose.HIDDEN", 0.0)
        result = hold(photo, np.random.default_rng(seed))
        assert (result[3, ~unknown] != UNLABELLED).all()
        assert torch.isin(result[3, unknown], torch.tensor([FULL, UNLABELLED])).all()
        covered += int((result[3, unknown] == FULL).sum())
        # What makes it dark behind a thing leaves them as they are, as the object may be there.
        monkeypatch.setattr("birefnet.data.compose.HIDDEN", 1.0)
        dark = hold(photo, np.random.default_rng(seed))
        darker += not torch.equal(dark, result)
        assert torch.equal(dark[:, unknown], result[:, unknown])
    assert covered > 0
    assert darker > 10


# --- shadows and drapes ---


@pytest.mark.parametrize("change", [shade_behind, hang_behind])
def test_what_is_behind_the_object_leaves_it_and_the_truth_as_they_are(
    change: Callable[[Tensor, np.random.Generator], Tensor],
) -> None:
    photo, changed = disc(RED, BLUE), 0
    photo[3, :20] = UNLABELLED
    kept = (photo[3] == FULL) | (photo[3] == UNLABELLED)
    for seed in range(20):
        result = change(photo, np.random.default_rng(seed))
        assert torch.equal(result, change(photo, np.random.default_rng(seed)))
        assert torch.equal(result[3], photo[3])
        assert torch.equal(result[:, kept], photo[:, kept])
        changed += not torch.equal(result, photo)
    assert changed > 14


def test_a_shadow_has_about_the_shape_of_its_object_and_lies_beside_it() -> None:
    photo, amounts = disc(RED, BLUE, 20), []
    for seed in range(60):
        result = shade_behind(photo, np.random.default_rng(seed))
        loss = (photo[2].float() - result[2].float()) / photo[2].float()
        assert loss.min() >= 0
        assert loss.max() < 0.96
        dark = loss > 0.1
        # Not far from the object: the distance's deviation is a twentieth of the side in each direction.
        assert not dark[:, :10].any()
        assert int(dark.sum()) < 2 * int((photo[3] > 0).sum())
        amounts.append(float(loss.sum()))
    assert np.std(amounts) > 0.3 * np.mean(amounts)


def test_without_an_object_there_is_no_shadow() -> None:
    photo = disc(RED, BLUE)
    photo[3] = 0
    assert torch.equal(shade_behind(photo, np.random.default_rng(0)), photo)


# --- tableware ---


def test_tableware_takes_the_place_of_a_photo_and_of_its_truth() -> None:
    photo = disc(RED, BLUE)
    photo[3, :20] = UNLABELLED
    for seed in range(8):
        result = serve(photo, np.random.default_rng(seed))
        assert (result.shape, result.dtype) == (photo.shape, torch.uint8)
        assert torch.equal(result, serve(photo, np.random.default_rng(seed)))
        assert int(result[3].max()) == FULL
        drawn, coverage = draw_tableware(*photo.shape[1:], np.random.default_rng(seed))
        assert torch.equal(result[:3].permute(1, 2, 0), torch.from_numpy(drawn))
        assert np.abs(result[3].numpy() / FULL - coverage / 255).max() < 0.003


# --- structures ---


def extent(label: Tensor) -> list[int]:
    """Height and width of what is there."""
    found = label.nonzero()
    return (found.amax(0) - found.amin(0) + 1).tolist()


@pytest.mark.parametrize("upright", [True, False])
def test_a_slender_object_is_squeezed_across(upright: bool) -> None:
    photo, donor = torch.zeros((4, 120, 120), dtype=torch.uint8), disc(RED, BLUE)
    donor[3, :, 80:] = 0  # taller than wide
    donor = donor if upright else donor.transpose(1, 2).contiguous()
    (tall, wide), (as_tall, thin) = (extent(paste(photo, donor, HALF, squeeze)[3]) for squeeze in (1.0, 3.0))
    if not upright:
        (tall, wide), (as_tall, thin) = (wide, tall), (thin, as_tall)
    assert as_tall == tall
    assert thin == pytest.approx(wide / 3, abs=1.5)


def test_slender_objects_come_as_often_as_they_should() -> None:
    photos, donors = (torch.stack([each] * 200) for each in (torch.zeros_like(disc(RED, BLUE)), disc(RED, BLUE)))
    whole, some = (compose(photos, donors, Composition(paste=1, slender=s), generators(200))[0] for s in (0, 0.3))
    assert 0.2 < (whole != some).flatten(1).any(1).float().mean() < 0.4
    assert all(
        int((a[3] > 0).sum()) < int((b[3] > 0).sum()) for a, b in zip(some, whole, strict=True) if (a != b).any()
    )


def test_before_a_scene_there_is_the_object_alone() -> None:
    photo, looks = disc(RED, BLUE), []
    photo[3, :10] = UNLABELLED
    for seed in range(8):
        result = set_before_scene(photo, np.random.default_rng(seed))
        assert torch.equal(result, set_before_scene(photo, np.random.default_rng(seed)))
        assert (result[3] != UNLABELLED).all()
        assert 0 < float((result[3] / FULL).mean()) < 0.7
        looks.append(tuple(result[:3, result[3] == 0].float().mean(1).tolist()))
    assert len(set(looks)) == 8


def test_an_object_is_set_before_an_empty_part_of_its_own_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.data.compose.OWN", 1.0)
    monkeypatch.setattr("birefnet.data.compose.TONED", 0.0)
    photo, shaded = disc(RED, BLUE, centre=(40, 40), radius=24), 0
    for seed in range(12):
        result = set_before_scene(photo, np.random.default_rng(seed))
        ground = result[:3, result[3] == 0].float()
        # Its colour, though a shadow may fall on it.
        gain = ground[2] / BLUE[2]
        assert ((ground - gain * torch.tensor(BLUE)[:, None]).abs() <= 1).all()
        assert gain.max() <= 1.01
        shaded += bool(gain.min() < 0.9)
        red, _, blue = result[:3, result[3] == FULL].float().mean(1)
        assert red > blue
    assert 0 < shaded < 12


def test_a_ground_may_take_the_colour_of_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.data.compose.OWN", 1.0)
    apart = []
    for share in (0.0, 1.0):
        monkeypatch.setattr("birefnet.data.compose.TONED", share)
        result = set_before_scene(disc(RED, (90, 60, 100), centre=(40, 40), radius=24), np.random.default_rng(0))
        ground = result[:3, result[3] == 0].float().median(1).values
        apart.append(float((ground - torch.tensor(RED)).abs().max()))
    assert apart[0] > 50
    assert apart[1] < 20


def test_what_cannot_be_set_before_a_scene_stays() -> None:
    photo = disc(RED, BLUE)
    photo[3] = 0
    assert torch.equal(set_before_scene(photo, np.random.default_rng(0)), photo)
    composed, _ = compose(photo[None], None, Composition(scenes=1), generators(1))
    assert torch.equal(composed[0], photo)


def test_structures_change_photo_and_truth_alike() -> None:
    photo = disc(RED, BLUE)
    for seed in range(12):
        result = draw_on(photo, np.random.default_rng(seed))
        added = result[3].int() - photo[3].int()
        assert added.min() >= 0
        assert added.max() > 100
        changed = (result[:3].int() - photo[:3].int()).abs().amax(0)
        assert not changed[(added == 0) & (photo[3] == 0)].any()
        # What is added can be seen, most of it at least.
        assert changed[added > 200].float().mean() > 8


# --- lights ---


@pytest.fixture
def lamps_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.data.compose.SKYLINE", 0.0)


@pytest.mark.usefixtures("lamps_anywhere")
def test_lights_are_background() -> None:
    photo = disc(RED, BLUE)
    photo[3, :20, :20] = UNLABELLED
    brightest = []
    for seed in range(40):
        result = light_up(photo, np.random.default_rng(seed))
        assert torch.equal(result[3], photo[3])
        gain = (result[:3].int() - photo[:3].int()).amin(0)
        assert gain.min() >= 0
        assert not gain[photo[3] >= FULL].any()
        brightest.append(int(result[:3].amin(0)[photo[3] == 0].max()))
    # Most glare; some lie beyond the border or behind the object.
    assert sum(value > 150 for value in brightest) > 20


@pytest.mark.parametrize("dusk", [0.0, 1.0])
def test_a_skyline_is_background(dusk: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birefnet.data.compose.SKYLINE", 1.0)
    monkeypatch.setattr("birefnet.data.compose.DUSK", dusk)
    photo = disc(RED, BLUE)
    photo[3, -40:, :40] = UNLABELLED
    for seed in range(20):
        result = light_up(photo, np.random.default_rng(seed))
        assert torch.equal(result[3], photo[3])
        assert not torch.equal(result[:3], photo[:3])
        # Of what is no background one thing alone changes, the light.
        for same in (photo[3] == FULL, photo[3] == UNLABELLED):
            for channel in range(3):
                assert len(result[channel][same & (photo[channel] == photo[channel][same][0])].unique()) == 1
        inside = photo[3] == FULL
        darker = result[:3].float()[:, inside].mean() / photo[:3].float()[:, inside].mean()
        assert darker < 0.85 if dusk else darker == 1


@pytest.mark.usefixtures("lamps_anywhere")
def test_a_soft_edge_takes_as_much_light_as_it_shows_of_the_background() -> None:
    black = disc((0, 0, 0), (0, 0, 0))
    seen = torch.zeros(120, 120)
    for seed in range(200):
        seen += light_up(black, np.random.default_rng(seed))[:3].float().mean(0)
    share = black[3].float() / FULL
    inner, outer = ((low < share) & (share < low + 0.4) for low in (0.55, 0.05))
    assert 0 < seen[inner].mean() < 0.7 * seen[outer].mean()


def test_laying_over() -> None:
    photo = torch.tensor([10, 20, 30, 127], dtype=torch.uint8).view(4, 1, 1).expand(4, 1, 5).clone()
    photo[3, 0, 3:] = UNLABELLED
    alpha = torch.tensor([0, 0.5, 1, 0.5, 1]).view(1, 1, 5)
    result = lay_over(photo, 200 * alpha.expand(3, 1, 5), alpha)
    assert result[3, 0].tolist() == [127, 190, FULL, UNLABELLED, FULL]
    assert result[0, 0].tolist() == [10, 105, 200, 105, 200]
