"""Closer looks at large photos, with engines whose perfect answer is known."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from birefnet.engines.base import Engine
from birefnet.engines.testing import FakeEngine
from birefnet.imaging.decide import decide, finer
from birefnet.imaging.io import Photo
from birefnet.imaging.postprocess import join, restore, trust, undecided, without_scraps
from birefnet.imaging.preprocess import colours, denormalised, prepare
from birefnet.predictor import PATCHES, Predictor, looks

WHITE = (255, 255, 255)


class Deciding(FakeEngine):
    """What is brighter than half is foreground: perfect, but only at the resolution of what it is given."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return (super().__call__(images) > 0.5).astype(np.float32)


class Constant(FakeEngine):
    """The same alpha everywhere."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(super().__call__(images), self.alpha)


class Confused(FakeEngine):
    """Right about the whole photo, and taking something else for the object in every patch."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        alpha = super().__call__(images)
        return alpha if len(self.shapes) == 1 else 1 - alpha


def predictor(engine: Engine, side: int = 256, **options: object) -> Predictor:
    return Predictor(engine, InputSpec(size=(side, side)), **options)  # type: ignore[arg-type]


class Sloping(FakeEngine):
    """The brightness of the left half alone, as of a network that prefers a side."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        alpha = super().__call__(images)
        alpha[..., alpha.shape[-1] // 2 :] = 0
        return alpha


def drawing(height: int = 2000, width: int = 3000) -> NDArray[np.uint8]:
    rgb = np.zeros((height, width, 3), np.uint8)
    cv2.line(rgb, (width // 30, height // 13), (width * 14 // 15, height * 9 // 10), WHITE, 3)
    cv2.circle(rgb, (width * 3 // 5, height // 3), height // 7, WHITE, -1)
    return rgb


def test_mirrored_looks_are_joined() -> None:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[:16] = 0
    engine = Sloping()
    plain = predictor(engine, 64)
    alone = plain.predict(rgb).alpha
    assert alone[32, 8] == 1
    assert alone[32, 56] == 0
    mirrored = Predictor(engine, InputSpec(size=(64, 64), mirror=True))
    assert mirrored.mirror
    both = mirrored.predict(rgb).alpha
    assert np.array_equal(both, join(alone, alone[:, ::-1]))
    assert both[32, 8] == both[32, 56] == 0.5
    # Looks at patches too, here of a photo four times as large.
    large = np.kron(rgb, np.ones((4, 4, 1), np.uint8))
    shapes = len(engine.shapes)
    mirrored.predict(large, refine=True)
    assert (len(engine.shapes) - shapes) % 2 == 0
    assert len(engine.shapes) - shapes > 2
    mirrored.mirror = False
    assert np.array_equal(mirrored.predict(rgb).alpha, alone)


class Redness(FakeEngine):
    """The share of red in the colour of each pixel."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        super().__call__(images)
        colours = images * np.float32(IMAGENET_STD)[:, None, None] + np.float32(IMAGENET_MEAN)[:, None, None]
        share: NDArray[np.float32] = colours[:, :1] / colours.sum(1, keepdims=True).clip(1e-3)
        return share


def test_the_mirror_image_may_be_seen_in_balanced_colours() -> None:
    rgb = np.full((64, 64, 3), (120, 60, 30), np.uint8)
    engine = Redness()
    shares = {}
    for balance in (0.0, 0.5, 1.0):
        looked = Predictor(engine, InputSpec(size=(64, 64), mirror=True, balance=balance))
        shares[balance] = float(looked.predict(rgb).alpha.mean())
        looked.mirror = False
        assert looked.predict(rgb).alpha.mean() == pytest.approx(120 / 210, abs=1e-4)
    assert shares[0.0] == pytest.approx(120 / 210, abs=1e-4)
    assert shares[1.0] == pytest.approx(1 / (1 + np.sqrt(90 / 120 * 2)), abs=1e-4)  # odds of 4 to 3 and of 1 to 2
    assert shares[1.0] < shares[0.5] < shares[0.0]


def test_what_looks_alike_agrees_where_the_weights_ask_for_it() -> None:
    # Red is foreground, but for a part that the engine cannot tell.
    rgb = np.full((256, 256, 3), (20, 40, 200), np.uint8)
    rgb[64:192, 64:192] = (200, 40, 20)

    class Unsure(Redness):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            red = super().__call__(images) > 0.5
            return np.where(images[:, 1:2] > images[:, 1:2].mean(), 0.5, red).astype(np.float32)

    rgb[100:140, 100:110, 1] = 60
    for mirror in (False, True):
        spec = InputSpec(size=(128, 128), mirror=mirror)
        plain = Predictor(Unsure(), spec)
        settling = Predictor(Unsure(), replace(spec, crf=5.0))
        assert plain.predict(rgb).alpha[120, 105] == 0.5
        assert settling.predict(rgb).alpha[120, 105] > 0.8
        assert settling.predict(rgb).alpha[20, 20] == 0
        # As in the whole photo, so in patches of it.
        images = prepare(rgb, spec)[None]
        unsure = plain.segment(images)[:, 0]
        expected = decide(unsure, denormalised(images, spec), 5.0)
        assert np.array_equal(settling.segment(images)[:, 0], expected)
        # The whole photo is decided at more pixels than the network saw, with the photo's own colours.
        seen = colours(rgb, finer((128, 128)), spec.resize)[None]
        assert seen.shape == (1, 3, 192, 192)
        expected = decide(unsure, seen, 5.0)
        assert np.array_equal(settling.segment(images, seen=seen)[:, 0], expected)
        # Next to nothing is undecided then, and edges are drawn between logits.
        assert np.array_equal(
            settling.predict(rgb).alpha, restore(without_scraps(expected[0]), (256, 256), decided=True)
        )


def test_photos_in_one_run_are_balanced_each_for_itself() -> None:
    photos = [np.full((64, 64, 3), colour, np.uint8) for colour in ((120, 60, 30), (30, 60, 120), (9, 9, 9))]
    looked = Predictor(Redness(), InputSpec(size=(64, 64), mirror=True, balance=1.0))
    for photo, matte in zip(photos, looked.predict_many(photos), strict=True):
        assert np.array_equal(matte.alpha, looked.predict(photo).alpha)


def test_closer_looks_have_the_colours_of_the_whole_photo() -> None:
    # A grey object on red: in a patch of the object alone nothing is out of balance.
    rgb = np.full((512, 512, 3), (200, 50, 50), np.uint8)
    rgb[128:384, 128:384] = 100
    seen = []

    class Watching(Constant):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            seen.append(images)
            return super().__call__(images)

    Predictor(Watching(0.5), InputSpec(size=(64, 64), mirror=True, balance=1.0), refine=True).predict(rgb)
    assert len(seen) > 4

    def levels(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return images * np.float32(IMAGENET_STD)[:, None, None] + np.float32(IMAGENET_MEAN)[:, None, None]

    means = levels(seen[0])[0].mean((1, 2))
    gains = (means.mean() / means)[:, None, None]
    for look, second in zip(seen[::2], seen[1::2], strict=True):
        wanted = (levels(look)[..., ::-1] * gains).clip(0, 1)
        assert np.abs(levels(second) - wanted).max() < 1e-5


def test_photos_keep_their_proportions_where_they_are_to() -> None:
    engine = FakeEngine()
    kept = Predictor(engine, InputSpec(size=(128, 128), keep_aspect=True))
    photos = [drawing(*size) for size in ((90, 160), (160, 90), (128, 128), (180, 320), (100, 100))]
    together = kept.predict_many(photos)
    assert engine.shapes == [(2, 3, 96, 160), (1, 3, 160, 96), (2, 3, 128, 128)]
    for photo, matte in zip(photos, together, strict=True):
        assert matte.alpha.shape == photo.shape[:2]
        assert np.array_equal(matte.alpha, kept.predict(photo).alpha)
        assert np.abs(matte.alpha - photo[..., 0] / 255).mean() < 0.05
    # Closer looks are as large as the first look at that photo.
    shapes = len(engine.shapes)
    rgb = drawing(360, 640)
    refined = kept.predict(rgb, refine=True).alpha
    assert {shape[2:] for shape in engine.shapes[shapes:]} == {(96, 160)}
    assert len(engine.shapes) > shapes + 1
    assert np.abs(refined - rgb[..., 0] / 255).max() < 0.05


@pytest.mark.parametrize("side", [256, 1024])
def test_a_thin_structure_is_recovered_exactly(side: int) -> None:
    rgb = drawing()
    truth = rgb[..., 0] / 255
    coarse = predictor(FakeEngine(), side).predict(rgb).alpha
    assert np.abs(coarse - truth).max() > 0.5
    refined = predictor(FakeEngine(), side).predict(rgb, refine=True).alpha
    assert refined.shape == (2000, 3000)
    assert refined.dtype == np.float32
    assert np.abs(refined - truth).max() < 0.005


@pytest.mark.parametrize("resize", ["pil_bilinear", "cv2_linear"])
def test_edges_have_the_photos_resolution(resize: str) -> None:
    rgb = np.zeros((1200, 1500, 3), np.uint8)
    cv2.circle(rgb, (700, 600), 433, WHITE, -1)
    truth = rgb[..., 0] > 128
    edge = cv2.morphologyEx(truth.view(np.uint8), cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)) > 0
    spec = InputSpec(size=(256, 256), resize=resize)
    wrong = {}
    for refine in (False, True):
        alpha = Predictor(Deciding(), spec).predict(rgb, refine=refine).alpha
        wrong[refine] = ((alpha > 0.5) != truth)[edge].mean()
    assert wrong[False] > 0.1
    assert wrong[True] < wrong[False] / 20


def test_what_is_decided_stays_as_it_is() -> None:
    rgb = drawing()
    # Detail that the whole photo's run cannot see and that a patch would show: nothing there may change.
    rgb[1500::7, 100:1200:7] = 40
    coarse = predictor(FakeEngine()).predict(rgb).alpha
    refined = predictor(FakeEngine()).predict(rgb, refine=True).alpha
    pitch = 12
    near = np.ones((12 * pitch + 1, 12 * pitch + 1), np.uint8)
    decided = (cv2.dilate(coarse, near) - cv2.erode(coarse, near)) < 0.05
    decided &= (cv2.dilate(coarse, near) < 0.1) | (cv2.erode(coarse, near) > 0.9)
    assert 0.3 < decided.mean() < 0.9
    assert np.array_equal(refined[decided], coarse[decided])
    assert (refined != coarse).any()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_patches_leave_no_seams(alpha: float) -> None:
    refined = predictor(Constant(alpha)).predict(drawing(), refine=True).alpha
    assert np.abs(refined - alpha).max() < 1e-6


def test_a_smooth_ramp_stays_smooth() -> None:
    ramp = np.repeat(np.linspace(0, 255, 1400).astype(np.uint8)[None], 1100, axis=0)
    engine = FakeEngine()
    refined = predictor(engine).predict(np.repeat(ramp[..., None], 3, axis=2), refine=True).alpha
    assert sum(shape[0] for shape in engine.shapes) > 20
    assert np.abs(refined - ramp / 255).max() < 0.01
    assert np.abs(np.diff(refined, axis=0)).max() < 0.005


def test_a_patch_that_contradicts_the_whole_is_not_believed() -> None:
    rgb = np.zeros((1000, 1000, 3), np.uint8)
    rgb[:, 500:] = 255
    coarse = predictor(Confused()).predict(rgb).alpha
    engine = Confused()
    refined = predictor(engine).predict(rgb, refine=True).alpha
    assert len(engine.shapes) > 1
    # Only where right and wrong cannot be told apart, on the very edge, is there a difference.
    assert np.abs(refined - coarse).mean() < 0.01
    assert np.abs(refined - coarse)[:, np.r_[:440, 560:1000]].max() == 0


@pytest.mark.parametrize("size", [(256, 256), (100, 30), (1, 1), (300, 310)])
def test_photos_hardly_larger_than_the_input_are_left_as_they_are(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    engine = FakeEngine()
    refined = predictor(engine).predict(rgb, refine=True).alpha
    assert len(engine.shapes) == 1
    assert np.array_equal(refined, predictor(FakeEngine()).predict(rgb).alpha)


def test_a_photo_with_nothing_undecided_needs_no_further_run() -> None:
    for value in (0, 255):
        engine = FakeEngine()
        alpha = predictor(engine).predict(np.full((900, 1300, 3), value, np.uint8), refine=True).alpha
        assert len(engine.shapes) == 1
        assert np.allclose(alpha, value / 255, atol=1e-6)


def test_few_patches_go_through_the_network_together() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    engine = FakeEngine()
    predictor(engine, 64).predict(rgb, refine=True)
    assert sum(shape[0] for shape in engine.shapes) > 100
    assert max(shape[0] for shape in engine.shapes) == PATCHES
    assert {shape[1:] for shape in engine.shapes} == {(3, 64, 64)}


@pytest.mark.parametrize("size", [(1, 1999), (701, 333), (45, 1234), (999, 32), (2, 40)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 2).reshape(*size, 3)
    one, other = (predictor(FakeEngine(), 32).predict(rgb, refine=True).alpha for _ in range(2))
    assert one.shape == size
    assert one.min() >= 0
    assert one.max() <= 1
    assert np.array_equal(one, other)
    coarse = predictor(FakeEngine(), 32).predict(rgb).alpha
    brightness = rgb.mean(axis=2) / 255
    assert np.abs(one - brightness).mean() <= np.abs(coarse - brightness).mean()


def test_inputs_that_are_no_squares() -> None:
    rgb = drawing(900, 700)
    engine = FakeEngine()
    alpha = Predictor(engine, InputSpec(size=(96, 160))).predict(rgb, refine=True).alpha
    assert np.abs(alpha - rgb[..., 0] / 255).max() < 0.05
    assert {shape[2:] for shape in engine.shapes} == {(96, 160)}


def test_photos_of_a_batch_do_not_disturb_each_other() -> None:
    rgb = drawing(600, 900)
    opacity = np.ones((600, 900), np.float32)
    opacity[:, :450] = 0
    sources = [rgb, rgb[:100, :100], Photo(rgb[:, ::-1].copy(), opacity), Image.fromarray(rgb[::-1])]
    together = predictor(FakeEngine(), 64).predict_many(sources, refine=True)
    alone = [predictor(FakeEngine(), 64).predict(source, refine=True) for source in sources]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.alpha, other.alpha)
    assert (together[2].alpha[:, :450] == 0).all()
    assert predictor(FakeEngine()).predict_many([], refine=True) == []


def test_a_call_says_otherwise_than_the_predictor() -> None:
    rgb = drawing(300, 400)
    plain, refining = predictor(FakeEngine(), 64), predictor(FakeEngine(), 64, refine=True)
    assert np.array_equal(plain.predict(rgb, refine=True).alpha, refining.predict(rgb).alpha)
    assert np.array_equal(plain.predict(rgb).alpha, refining.predict(rgb, refine=False).alpha)
    assert not np.array_equal(plain.predict(rgb).alpha, refining.predict(rgb).alpha)


def test_notes_are_kept() -> None:
    assert predictor(FakeEngine()).notes == ()
    assert predictor(FakeEngine(), notes=["a.pth: backbone inferred"]).notes == ("a.pth: backbone inferred",)


def test_each_look_is_at_most_twice_as_close() -> None:
    assert looks((512, 512), (256, 256)) == [(512, 512)]
    assert looks((319, 200), (256, 256)) == []
    assert looks((320, 200), (256, 256)) == [(320, 200)]
    assert looks((1024, 768), (256, 256)) == [(512, 384), (1024, 768)]
    # The short side of a long photo has been seen whole: it is never looked at in less detail again.
    assert looks((100, 4096), (256, 256)) == [(100, 512), (100, 1024), (100, 2048), (100, 4096)]
    for side in range(320, 9000, 37):
        sizes = [256, *(size[0] for size in looks((side, side // 2), (256, 256)))]
        assert sizes[-1] == side
        assert all(1 < b / a <= 2.01 for a, b in pairwise(sizes))


def test_what_is_undecided() -> None:
    alpha = np.zeros((40, 60), np.float32)
    assert not undecided(alpha).any()
    assert not undecided(alpha + 1).any()
    assert (undecided(alpha + 0.5) == 1).all()
    alpha[:, 30] = 0.08  # a faint ridge: a wire much thinner than a pixel
    band = undecided(alpha)
    assert (band[:, 29:32] == 1).all()
    assert (band[:, :25] == 0).all()
    assert (band[:, 36:] == 0).all()
    assert (np.diff(band[20, 31:37]) < 0).all()


def test_what_a_patch_may_change() -> None:
    random = np.random.default_rng(0)
    smooth = 0.3 + 0.4 * cv2.GaussianBlur(random.random((80, 90), np.float32), (0, 0), 20)
    fine = smooth + (np.indices(smooth.shape).sum(axis=0) % 2 - 0.5).astype(np.float32) * 0.5
    assert trust(fine, smooth, 2).min() > 0.99  # detail, the same on the whole
    assert trust(smooth, smooth, 2).min() > 0.99
    assert trust(smooth + 0.45, smooth, 2).max() == 0  # another object
    sure, less, unsure = (np.full((80, 90), alpha, np.float32) for alpha in (1, 0.96, 0.85))
    assert trust(sure, unsure, 2).min() > 0.5
    assert trust(unsure, sure, 2).max() < 1e-6  # an inside that the whole photo has settled
    assert 0.3 < trust(less, sure, 2).mean() < 0.7
    assert trust(1 - unsure, 1 - sure, 2).max() < 1e-6
