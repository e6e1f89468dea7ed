import math

import pytest
import torch
from torch.nn import functional as F

from birefnet.losses import PixelWeights, gradient_loss, pixel_losses
from birefnet.losses.functional import binary_cross_entropy, iou_loss, ssim_loss

SHAPE = (2, 1, 24, 32)


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
    for loss in (iou_loss, ssim_loss, binary_cross_entropy):
        assert float(loss(probabilities, target, everything)) == pytest.approx(float(loss(probabilities, target)))


def test_ignored_pixels_have_no_say(probabilities: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
    for loss in (iou_loss, ssim_loss, binary_cross_entropy):
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
    assert float(binary_cross_entropy(probabilities, target, nothing)) == 0
    assert float(iou_loss(probabilities, target, nothing)) == 0
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


def test_gradient_loss_enlarges_the_prediction() -> None:
    prediction = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    label = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(7))
    large = F.interpolate(prediction, (32, 32), mode="bilinear", align_corners=True)
    expected = F.binary_cross_entropy(large.sigmoid(), label.sigmoid())
    assert float(gradient_loss([prediction], [label])) == pytest.approx(float(expected), rel=1e-5)
