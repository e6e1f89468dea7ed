import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from birefnet.data.shapes import KINDS, _Canvas, _circle, draw_shape
from birefnet.data.structures import Drawn, draw_scene, draw_structure
from birefnet.errors import DataError


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def area(canvas: _Canvas) -> float:
    return float(canvas.coverage().astype(np.float64).sum() / 255)


# --- masks are exact ---


@pytest.mark.parametrize("thickness", [1.0, 1.5, 2.3, 4.0, 9.7])
def test_a_stroke_covers_its_length_times_its_thickness(thickness: float) -> None:
    # The mean over places and angles: one stroke alone is as coarse as a part of a pixel.
    areas = []
    for angle in np.linspace(0, math.pi, 40):
        canvas = _Canvas(200, 200)
        middle, half = np.array([100.3, 99.6]), 60 * np.array([math.cos(angle), math.sin(angle)])
        canvas.stroke(np.stack([middle - half, middle + half]) / canvas.unit, thickness / canvas.unit)
        areas.append(area(canvas))
    assert np.mean(areas) == pytest.approx(120 * thickness, rel=0.03)
    assert np.max(np.abs(np.array(areas) - 120 * thickness)) < 120 * 0.3


def test_what_is_thinner_than_a_pixel_is_drawn_as_thick_as_one() -> None:
    canvas = _Canvas(200, 200)
    canvas.stroke(np.array([[40.0, 100.5], [160.0, 100.5]]) / canvas.unit, 0.01 / canvas.unit)
    assert area(canvas) == pytest.approx(120, rel=0.25)


@pytest.mark.parametrize("radius", [3.0, 10.0, 60.5])
def test_a_disc_and_a_hole_cover_what_circles_do(radius: float) -> None:
    canvas = _Canvas(160, 160)
    centre = np.array([80.2, 79.7]) / canvas.unit
    canvas.disc(centre, radius / canvas.unit)
    assert area(canvas) == pytest.approx(math.pi * radius**2, rel=0.03)
    if radius > 10:
        whole = area(canvas)
        canvas.disc(centre, 20 / canvas.unit, cut=True)
        assert whole - area(canvas) == pytest.approx(math.pi * 400, rel=0.02)


def test_a_ring_and_a_polygon() -> None:
    canvas = _Canvas(200, 120)
    canvas.ring(np.array([60, 90]) / canvas.unit, 40 / canvas.unit, 5 / canvas.unit)
    assert area(canvas) == pytest.approx(math.pi * (42.5**2 - 37.5**2), rel=0.03)
    canvas = _Canvas(200, 120)
    canvas.fill((_circle(4) * 50 + (60, 100)) / canvas.unit)
    assert area(canvas) == pytest.approx(2 * 50**2, rel=0.01)


def test_soft_edges_are_where_the_shape_ends() -> None:
    canvas = _Canvas(64, 64)
    canvas.fill(np.array([[10.5, 10.25], [40.25, 10.25], [40.25, 30.0], [10.5, 30.0]]) / canvas.unit)
    coverage = canvas.coverage() / 255
    assert coverage[20, 11:40].min() == 1
    assert coverage[20, 10] == pytest.approx(0.5, abs=0.07)
    assert coverage[20, 40] == pytest.approx(0.25, abs=0.07)
    assert coverage[10, 20] == pytest.approx(0.75, abs=0.07)
    assert not coverage[:10].any()
    assert not coverage[:, 41:].any()


def test_a_line_that_crosses_itself_has_no_hole_there() -> None:
    canvas = _Canvas(200, 200)
    time = np.linspace(0, 2 * math.pi, 61)
    eight = np.stack([100 + 70 * np.sin(time), 100 + 70 * np.sin(time) * np.cos(time)], axis=1)
    canvas.stroke(eight / canvas.unit, 9 / canvas.unit)
    assert canvas.coverage()[98:103, 98:103].min() == 255


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_mask_agree(kind: str) -> None:
    for seed in range(4):
        scene = draw_scene(120, 150, rng(seed), kind)
        photo, outside, inside = scene.blend(), scene.coverage == 0, scene.coverage == 255
        assert outside.any()
        assert inside.any()
        assert np.array_equal(photo[outside], scene.background[outside])
        assert np.array_equal(photo[inside], scene.foreground[inside])
        share = scene.coverage[..., None] / 255
        exact = share * scene.foreground + (1 - share) * scene.background
        assert np.abs(photo - exact).max() <= 0.51


def test_the_photo_shows_what_the_mask_says() -> None:
    # A camera only blurs and adds noise: on average the photo is the blend.
    for seed in range(10):
        photo, mask = draw_structure(100, 100, rng(seed))
        scene = draw_scene(100, 100, rng(seed))
        assert np.array_equal(mask, scene.coverage)
        assert abs(photo.astype(float).mean() - scene.blend().astype(float).mean()) < 3


# --- variety ---


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_thin_and_differ(kind: str) -> None:
    masks = [draw_shape(128, 128, rng(seed), kind).coverage for seed in range(12)]
    assert all(0.003 < mask.mean() / 255 < 0.85 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 12
    outlines, areas = [], []
    for mask in masks:
        found, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        outlines.append(sum(cv2.arcLength(line, True) for line in found))
        areas.append(max(1, int((mask > 127).sum())))
    # A disc has 3.5.
    assert np.median(np.array(outlines) / np.sqrt(areas)) > 7


def test_all_kinds_come_up_and_few_are_hard_to_see() -> None:
    apart = []
    for seed in range(60):
        scene = draw_scene(96, 96, rng(seed))
        inside = scene.coverage > 200
        if inside.any():
            apart.append(np.abs(scene.foreground[inside].astype(float) - scene.background[inside]).mean())
    assert min(apart) > 6
    assert np.median(apart) > 25
    shapes = {draw_shape(48, 48, rng(seed)).coverage.tobytes() for seed in range(40)}
    assert len(shapes) == 40


def test_at_another_size_the_same_is_drawn() -> None:
    for kind in KINDS:
        large = draw_shape(384, 384, rng(5), kind).coverage
        small = draw_shape(128, 128, rng(5), kind).coverage
        shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
        # Not quite: what would be thinner than a pixel is drawn thicker.
        assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.85, kind


# --- the data set ---


def test_a_drawing_follows_from_seed_and_index() -> None:
    photos = Drawn(30, seed=4)
    alone = photos.read([7], 64, 96)
    assert alone.dtype == torch.uint8
    assert alone.shape == (1, 4, 64, 96)
    photos.read([3], 96, 64)
    several = photos.read([2, 7, 11], 64, 96)
    assert torch.equal(several[1:2], alone)
    assert torch.equal(Drawn(8, seed=4).read([7], 64, 96), alone)
    assert not torch.equal(Drawn(30, seed=5).read([7], 64, 96), alone)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda index: photos.read([index], 64, 96), range(30)))
    assert torch.equal(torch.cat(drawn), photos.read(range(30), 64, 96))


def test_labels_are_shares_and_never_unlabelled() -> None:
    label = Drawn(12).read(range(12), 80, 80)[:, 3]
    assert (int(label.min()), int(label.max())) == (0, 254)
    assert ((label > 0) & (label < 254)).any()


def test_headroom_and_kind() -> None:
    assert Drawn(1, headroom=1.25).read([0], 64, 32).shape == (1, 4, 80, 40)
    _, mask = Drawn(9, 3, "hair").draw(4, 50, 60)
    assert np.array_equal(mask, draw_structure(50, 60, rng(3, 4), "hair")[1])


def test_names_differ_between_seeds() -> None:
    photos = Drawn(3, seed=2)
    assert len(photos) == 3
    assert list(photos.names) == ["drawn-2-000000", "drawn-2-000001", "drawn-2-000002"]
    assert list(photos.categories) == [None] * 3
    assert list(photos.sources) == ["drawn"] * 3
    assert not set(photos.names) & set(Drawn(3).names)


def test_specs() -> None:
    assert Drawn.from_spec("data/DIS5K/DIS-TR") is None
    assert Drawn.from_spec("drawn") is None
    plain, seeded = Drawn.from_spec("drawn:20"), Drawn.from_spec("drawn:20@7")
    assert plain is not None
    assert seeded is not None
    assert (len(plain), plain.seed, seeded.seed) == (20, 0, 7)
    for text in ("drawn:", "drawn:many", "drawn:-3", "drawn:3@", "drawn:3@x", "drawn:3.5", "drawn:9999999999"):
        with pytest.raises(DataError, match=r"drawn:COUNT@SEED, such as drawn:2000@7"):
            Drawn.from_spec(text)
    for text in ("drawn:0", "drawn:1000001"):
        with pytest.raises(DataError, match="from 1 to 1,000,000 can be drawn"):
            Drawn.from_spec(text)
    with pytest.raises(DataError, match="0 or more"):
        Drawn(2, -1)
    with pytest.raises(DataError, match="choose from wires, "):
        Drawn(2, 0, "cats")
