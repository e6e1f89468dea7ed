import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from birefnet.errors import ConfigError, InputError
from birefnet.losses import PixelWeights, class_loss, gradient_loss, pixel_losses
from birefnet.losses.functional import (
    binary_cross_entropy,
    contour_loss,
    iou_loss,
    mae_loss,
    mse_loss,
    patch_iou_loss,
    ssim_loss,
    structure_loss,
    threshold_regulariser,
)
from birefnet.losses.gradient import edge_label
from birefnet.modules.gradient import gradient_map

SHAPE = (2, 1, 24, 32)

Loss = Callable[..., torch.Tensor]


def regulariser(probabilities: torch.Tensor, _target: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    return threshold_regulariser(probabilities, valid)


OF_PROBABILITIES: tuple[Loss, ...] = (
    mae_loss,
    mse_loss,
    iou_loss,
    patch_iou_loss,
    ssim_loss,
    regulariser,
    contour_loss,
)
OF_LOGITS: tuple[Loss, ...] = (binary_cross_entropy, structure_loss)
EVERY_LOSS = (*OF_PROBABILITIES, *OF_LOGITS)
EVERY_WEIGHT = PixelWeights(**{field.name: 1.0 for field in dataclasses.fields(PixelWeights)})


@pytest.fixture
def probabilities() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def target() -> torch.Tensor:
    return (torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) > 0.5).double()


@pytest.fixture
def valid() -> torch.Tensor:
    mask = torch.ones(SHAPE, dtype=torch.float64)
    mask[:, :, 5:15, 8:20] = 0
    return mask


def test_perfect_prediction_costs_nothing(target: torch.Tensor) -> None:
    logits = (target * 2 - 1) * 50
    assert float(binary_cross_entropy(logits, target)) == pytest.approx(0, abs=1e-9)
    assert float(iou_loss(target, target)) == pytest.approx(0, abs=1e-9)
    assert float(ssim_loss(target, target)) == pytest.approx(0, abs=1e-9)


def logits_of(mask: torch.Tensor, sureness: float) -> torch.Tensor:
    return (mask * 2 - 1) * sureness


@pytest.mark.parametrize("kind", ["half", "empty", "full"])
def test_what_a_sure_prediction_costs_if_right_and_if_wrong(kind: str, target: torch.Tensor) -> None:
    truth = {"half": target, "empty": torch.zeros_like(target), "full": torch.ones_like(target)}[kind]
    right, wrong = (logits_of(mask, 50) for mask in (truth, 1 - truth))
    for loss in (mae_loss, mse_loss, iou_loss, patch_iou_loss, ssim_loss, regulariser):
        assert float(loss(right.sigmoid(), truth)) == pytest.approx(0, abs=1e-9), loss
    for loss in (mae_loss, mse_loss, iou_loss, patch_iou_loss):
        assert float(loss(wrong.sigmoid(), truth)) == pytest.approx(1), loss
    assert float(regulariser(wrong.sigmoid(), truth)) == pytest.approx(0, abs=1e-9)
    assert float(binary_cross_entropy(right, truth)) == pytest.approx(0, abs=1e-9)
    assert float(binary_cross_entropy(wrong, truth)) == pytest.approx(50)
    assert float(structure_loss(right, truth)) == pytest.approx(0, abs=1e-9)
    assert 50.99 < float(structure_loss(wrong, truth)) <= 51  # the entropy, and an IoU smoothed by one pixel
    if kind == "half":
        assert float(contour_loss(right.sigmoid(), truth)) > 1  # noise is nearly all contour
    else:
        assert float(contour_loss(right.sigmoid(), truth)) == pytest.approx(10 * 1e-8**0.5)
        assert float(contour_loss(wrong.sigmoid(), truth)) == pytest.approx(1 + 10 * 1e-8**0.5)


@pytest.mark.parametrize("sureness", [0.0, 20.0, 1000.0])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (70, 5)])
def test_loss_and_gradient_are_finite_at_every_limit(size: tuple[int, int], value: float, sureness: float) -> None:
    truth = torch.full((2, 1, *size), value)
    for sign in (-1, 1):
        logits = torch.full_like(truth, sign * sureness).requires_grad_()
        for name, term in pixel_losses([logits], truth, EVERY_WEIGHT).items():
            assert term.isfinite(), name
            (slope,) = torch.autograd.grad(term, logits, retain_graph=True)
            assert slope.isfinite().all(), name


def test_a_sure_mistake_keeps_its_gradient_in_the_cross_entropy() -> None:
    logits = torch.full((1, 1, 1, 1), 40.0, requires_grad=True)
    binary_cross_entropy(logits, torch.zeros(1, 1, 1, 1)).backward()
    assert float(logits.grad) == pytest.approx(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize("size", [(3, 4), (7, 6), (66, 2)])
def test_gradients_are_right(loss: Loss, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(8)
    prediction, truth = (torch.rand(2, 1, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    valid = torch.ones_like(truth)
    valid[0, :, :1] = 0
    for counts in (None, valid):
        assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(), truth, counts))


@pytest.mark.parametrize("loss", [iou_loss, patch_iou_loss, structure_loss])
def test_gradients_with_the_defects_are_right(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(9)
    prediction, truth = (torch.rand(2, 1, 6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    switched = partial(loss, target=truth, reference_defects=True)
    assert torch.autograd.gradcheck(switched, prediction.requires_grad_())


def test_differences_are_means_over_all_pixels(probabilities: torch.Tensor, target: torch.Tensor) -> None:
    p, t = probabilities.numpy(), target.numpy()
    assert float(mae_loss(probabilities, target)) == pytest.approx(np.abs(p - t).mean())
    assert float(mse_loss(probabilities, target)) == pytest.approx(((p - t) ** 2).mean())
    assert float(threshold_regulariser(probabilities)) == pytest.approx((2 * p * (1 - p)).mean())


def test_soft_truth_is_met_best_by_itself(probabilities: torch.Tensor) -> None:
    for loss in (mae_loss, mse_loss, ssim_loss):
        assert float(loss(probabilities, probabilities)) == pytest.approx(0, abs=1e-12)
    for shift in (-0.2, 0.2):
        best = float(binary_cross_entropy(probabilities.logit(), probabilities))
        assert float(binary_cross_entropy(probabilities.logit() + shift, probabilities)) > best


@pytest.mark.parametrize("size", [(64, 64), (130, 64), (100, 150), (5, 200)])
def test_patch_iou_is_the_mean_over_the_windows(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(10)
    p, t = (torch.rand(3, 1, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = []
    for image in range(3):
        for top in range(0, size[0], 64):
            for left in range(0, size[1], 64):
                x, y = (m[image, 0, top : top + 64, left : left + 64].numpy() for m in (p, t))
                expected.append(1 - (x * y).sum() / (x.sum() + y.sum() - (x * y).sum()))
    assert float(patch_iou_loss(p, t)) == pytest.approx(np.mean(expected))


def test_patch_iou_sees_what_the_reference_misses() -> None:
    truth = torch.zeros(2, 1, 128, 128)
    truth[..., :64, :64] = 1
    noisy = truth.clone()
    noisy[..., 100:110, 100:110] = 1  # outside the first window
    assert float(patch_iou_loss(noisy, truth)) == pytest.approx(0.25)
    assert float(patch_iou_loss(noisy, truth, reference_defects=True)) == 0
    half = truth.clone()
    half[..., :32, :64] = 0
    assert float(patch_iou_loss(half, truth)) == pytest.approx(0.5 / 4)
    assert float(patch_iou_loss(half, truth, reference_defects=True)) == pytest.approx(0.5 * 2)


def test_patch_iou_of_the_reference_steps_with_the_batch() -> None:
    p, t = (torch.rand(65, 1, 70, 20, generator=torch.Generator().manual_seed(n)) for n in (11, 12))
    windows = [iou_loss(p[..., cut, :], t[..., cut, :], reference_defects=True) for cut in (slice(64), slice(64, 128))]
    assert float(patch_iou_loss(p, t, reference_defects=True)) == pytest.approx(float(sum(windows)))


def test_iou_of_the_reference_grows_with_the_batch_and_is_nan_where_all_is_empty() -> None:
    half = torch.zeros(3, 1, 8, 8)
    half[..., :4] = 1
    assert float(iou_loss(half, torch.ones(3, 1, 8, 8), reference_defects=True)) == pytest.approx(1.5)
    assert math.isnan(float(iou_loss(half * 0, half * 0, reference_defects=True)))


def test_contour_equals_the_definition_pixel_by_pixel(probabilities: torch.Tensor, target: torch.Tensor) -> None:
    p, t = probabilities.numpy()[:, 0], target.numpy()[:, 0]
    lengths = [
        math.sqrt((m[i + 2, j] - m[i + 1, j]) ** 2 + (m[i, j + 2] - m[i, j + 1]) ** 2 + 1e-8)
        for m in p
        for i in range(SHAPE[2] - 2)
        for j in range(SHAPE[3] - 2)
    ]
    regions = np.where(t == 1, 1 - p, p).mean()
    assert float(contour_loss(probabilities, target)) == pytest.approx(10 * np.mean(lengths) + regions)
    assert float(contour_loss(probabilities, target, length_weight=0)) == pytest.approx(regions)


def test_structure_equals_the_definition(target: torch.Tensor) -> None:
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    expected = []
    for x, t in zip(logits.numpy()[:, 0], target.numpy()[:, 0], strict=True):
        w = 1 + 5 * np.abs(ndimage.uniform_filter(t, 31, mode="constant") - t)
        p = 1 / (1 + np.exp(-x))
        entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
        inter, union = (w * p * t).sum(), (w * (p + t)).sum()
        expected.append((w * entropy).sum() / w.sum() + 1 - (inter + 1) / (union - inter + 1))
    assert float(structure_loss(logits, target)) == pytest.approx(np.mean(expected))
    twice = structure_loss(logits, target, reference_defects=True)
    assert float(twice) == pytest.approx(float(structure_loss(logits.sigmoid(), target)))
    # So confined, not even a perfect prediction gets near 0.
    assert float(structure_loss(logits_of(target, 50), target, reference_defects=True)) > 0.5


def test_iou_is_the_mean_over_the_images() -> None:
    half = torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1
    whole = torch.ones(1, 1, 8, 8)
    assert float(iou_loss(half, whole)) == pytest.approx(0.5)
    both = iou_loss(torch.cat([half, whole]), torch.cat([whole, whole]))
    assert float(both) == pytest.approx(0.25)


def test_iou_of_an_empty_image_is_finite_with_a_finite_gradient() -> None:
    empty = torch.zeros(2, 1, 8, 8, requires_grad=True)
    loss = iou_loss(empty, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert empty.grad is not None
    assert empty.grad.isfinite().all()
    # Through a sigmoid, as in training, the gradient stays small however close to empty the prediction is.
    logits = torch.full((2, 1, 8, 8), -18.0, requires_grad=True)
    iou_loss(logits.sigmoid(), torch.zeros(2, 1, 8, 8)).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1


def test_ssim_equals_a_plain_windowed_computation(probabilities: torch.Tensor, target: torch.Tensor) -> None:
    offsets = torch.arange(11, dtype=torch.float64) - 5
    taps = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(taps, taps).div(taps.sum() ** 2).view(1, 1, 11, 11)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, window, padding=5)

    p, t = probabilities, target
    mp, mt = blur(p), blur(t)
    vp, vt, cov = blur(p * p) - mp**2, blur(t * t) - mt**2, blur(p * t) - mp * mt
    ssim = (2 * mp * mt + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mt**2 + 1e-4) * (vp + vt + 9e-4))
    expected = float(1 - (1 + ssim.mean()) / 2)
    assert float(ssim_loss(p, t)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (12, 5)])
def test_ssim_gradient_is_right_even_for_maps_smaller_than_the_window(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.rand(2, 1, *size, generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.rand(2, 1, *size, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim_loss(x, t), p)


def test_ssim_follows_contrast_and_stays_in_range(target: torch.Tensor) -> None:
    assert 0.5 < float(ssim_loss(1 - target, target)) <= 1
    flat = torch.full_like(target, 0.5)
    assert float(ssim_loss(target * 0.8 + 0.1, target)) < float(ssim_loss(flat, target))


def test_full_validity_changes_nothing(probabilities: torch.Tensor, target: torch.Tensor) -> None:
    everything = torch.ones_like(target)
    for loss in EVERY_LOSS:
        assert float(loss(probabilities, target, everything)) == pytest.approx(float(loss(probabilities, target)))


def test_ignored_pixels_have_no_say(probabilities: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
    for loss in EVERY_LOSS:
        changed = probabilities * valid + (1 - probabilities) * (1 - valid)
        flipped = target * valid + (1 - target) * (1 - valid)
        before = float(loss(probabilities, target, valid))
        assert float(loss(changed, flipped, valid)) == pytest.approx(before, abs=1e-12)
        p = probabilities.clone().requires_grad_()
        loss(p, target, valid).backward()
        assert p.grad is not None
        assert not (p.grad * (1 - valid)).any()


def test_a_batch_without_a_valid_pixel_costs_nothing(probabilities: torch.Tensor, target: torch.Tensor) -> None:
    nothing = torch.zeros_like(target)
    for loss in EVERY_LOSS:
        if loss is not ssim_loss:  # of nothing known, half of it
            assert float(loss(probabilities, target, nothing)) == 0
    assert math.isfinite(float(ssim_loss(probabilities, target, nothing)))


def test_pixel_losses_sum_over_outputs_and_skip_terms_of_weight_zero(target: torch.Tensor) -> None:
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64).float()
    truth = target.float()
    one = pixel_losses([logits], truth, PixelWeights())
    two = pixel_losses([logits, logits], truth, PixelWeights())
    assert set(one) == {"bce", "iou", "ssim"}
    for name, term in one.items():
        assert float(two[name]) == pytest.approx(2 * float(term))
    assert set(pixel_losses([logits], truth, PixelWeights(bce=0, iou=0))) == {"ssim"}


def test_small_outputs_meet_the_truth_averaged_over_their_cells() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., :8, :6] = 1  # whole, three quarters and no part of the 4 x 4 cells
    cells = F.avg_pool2d(truth, 4).clamp(1e-6, 1 - 1e-6)
    weights = PixelWeights(bce=1, iou=0, ssim=0)
    matching = float(pixel_losses([cells.logit()], truth, weights)["bce"])
    for shift in (-0.5, 0.5):
        assert float(pixel_losses([cells.logit() + shift], truth, weights)["bce"]) > matching
    at_target = pixel_losses([cells.logit()], truth, weights, compare_at="target")
    assert float(at_target["bce"]) != pytest.approx(matching)


def test_small_outputs_ignore_what_is_ignored_in_the_truth() -> None:
    generator = torch.Generator().manual_seed(5)
    truth = (torch.rand(1, 1, 16, 16, generator=generator) > 0.5).float()
    valid = torch.ones_like(truth)
    valid[..., :6, :6] = 0
    flipped = truth * valid + (1 - truth) * (1 - valid)
    output = torch.randn(1, 1, 4, 4, generator=generator)
    first = pixel_losses([output], truth, PixelWeights(), valid)
    second = pixel_losses([output], flipped, PixelWeights(), valid)
    for name in first:
        assert float(first[name]) == pytest.approx(float(second[name]))


def test_gradient_loss_is_least_where_the_prediction_is_the_label() -> None:
    labels = [torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    matching = float(gradient_loss(labels, labels))
    shifted = [label + 0.3 for label in labels]
    assert float(gradient_loss(shifted, labels)) > matching
    single = [float(gradient_loss([label], [label])) for label in labels]
    assert matching == pytest.approx(sum(single))


def test_edges_count_by_their_strength_in_and_around_objects() -> None:
    truth = torch.zeros(2, 1, 96, 96)
    truth[0, :, 24:72, 24:72] = 1  # the second photo has no object
    image = torch.zeros(2, 3, 96, 96)
    image[:, :, 30:60, 30:60] = 1.0  # within the object
    image[:, :, 80:90, 80:90] = 1.0  # away from it
    image[:, :, 22:24, 40:60] = 0.05  # right beside it, and faint
    label = edge_label(image, truth)
    assert label.shape == truth.shape
    assert float(label.min()) == 0
    assert float(label.max()) == 1
    inside, beside = label[0, 0, 30, 45], label[0, 0, 23, 50]
    assert inside == 1
    assert 0 < beside < 1
    assert not label[0, :, 76:, 76:].any()
    assert not label[1].any()
    # Light and contrast of the whole photo change nothing.
    torch.testing.assert_close(edge_label(3 * image - 1, truth), label, atol=0.01, rtol=0)
    assert edge_label(torch.ones_like(image), truth).max() < 0.01


def test_edges_are_those_of_the_laplacian() -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    strength = gradient_map(image).abs()
    expected = (strength / (4 * strength.mean(dim=(1, 2, 3), keepdim=True))).clamp(0, 1)
    torch.testing.assert_close(edge_label(image, torch.ones(2, 1, 64, 64)), expected, atol=1e-3, rtol=0)


def test_gradient_loss_enlarges_the_prediction() -> None:
    prediction = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    label = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(7))
    large = F.interpolate(prediction, (32, 32), mode="bilinear", align_corners=True)
    expected = F.binary_cross_entropy(large.sigmoid(), label.sigmoid())
    assert float(gradient_loss([prediction], [label])) == pytest.approx(float(expected), rel=1e-5)


def test_pixel_losses_name_every_term_and_pass_the_switch_on(target: torch.Tensor) -> None:
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(14), dtype=torch.float64)
    terms = pixel_losses([logits], target, EVERY_WEIGHT)
    assert list(terms) == [field.name for field in dataclasses.fields(PixelWeights)]
    theirs = pixel_losses([logits], target, EVERY_WEIGHT, reference_defects=True)
    assert {name for name in terms if float(terms[name]) != float(theirs[name])} == {"iou", "patch_iou", "structure"}
    for name in terms:
        only = PixelWeights(**{field: 3.0 * (field == name) for field in terms})
        assert {name: 3 * float(terms[name])} == pytest.approx(
            {key: float(term) for key, term in pixel_losses([logits], target, only).items()}
        )


def test_half_precision_outputs_are_compared_in_full(target: torch.Tensor) -> None:
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(15)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        terms = pixel_losses([logits], target.float(), EVERY_WEIGHT)
    exact = pixel_losses([logits.double()], target, EVERY_WEIGHT)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert float(term.detach()) == pytest.approx(float(exact[name].detach()), rel=1e-5), name
    torch.stack(list(terms.values())).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 24, 32), torch.float32),
        ((1, 1, 24, 32), torch.float32),
        (SHAPE, torch.uint8),
        ((2, 3, 24, 32), torch.float32),
    ],
)
def test_a_truth_that_would_be_stretched_is_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"the truth must be floating point in \[0, 1\], \(2, 1, H, W\)"):
        pixel_losses([torch.zeros(SHAPE)], torch.zeros(shape, dtype=dtype), PixelWeights())


def test_validity_of_another_shape_is_refused(target: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"valid must have the truth's shape \(2, 1, 24, 32\), not \(1, 1, 24, 32\)"):
        pixel_losses([target], target, PixelWeights(), target[:1])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "30", True, None])
def test_impossible_weights_are_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match="the weight of the patch_iou loss must be a number of 0 or more"):
        PixelWeights(patch_iou=weight)


def test_class_loss_counts_photos_of_unknown_category_as_zero() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    shares = logits.softmax(1)
    known = -(math.log(float(shares[0, 4])) + math.log(float(shares[2, 0]))) / 3
    assert float(class_loss(logits, torch.tensor([4, -1, 0]))) == pytest.approx(known)
    nothing = logits.clone().requires_grad_()
    loss = class_loss(nothing, torch.tensor([-1, -1, -1]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert nothing.grad is not None
    assert not nothing.grad.any()
    assert torch.autograd.gradcheck(lambda x: class_loss(x, torch.tensor([4, -1, 0])), logits.requires_grad_())


def test_gradient_loss_has_the_right_gradient() -> None:
    prediction, label = (torch.randn(2, 1, size, size, dtype=torch.float64) for size in (3, 8))
    assert torch.autograd.gradcheck(lambda x: gradient_loss([x], [label]), prediction.requires_grad_())
