from dataclasses import replace

import pytest
import torch
from torch import Tensor

from birefnet.errors import ConfigError, InputError
from birefnet.losses import (
    LOSS_RECIPES,
    LossRecipe,
    PixelWeights,
    Resolution,
    class_loss,
    gradient_loss,
    pixel_losses,
    training_losses,
    weights_at,
)
from birefnet.losses.gradient import edge_label
from birefnet.model import BiRefNet, TrainOutput
from support import TINY

CLASSES = torch.tensor([3, -1])
EVERYTHING = PixelWeights(1, 1, 1, 1, 1, 1, 1, 1, 1)


def floats(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in terms.items()}


@pytest.fixture
def truth() -> Tensor:
    mask = torch.zeros(2, 1, 64, 96)
    mask[0, :, 10:40, 20:70] = 1  # the second photo is empty
    return mask


@pytest.fixture
def model() -> BiRefNet:
    torch.manual_seed(0)
    return BiRefNet(replace(TINY, classes=7)).train()


@pytest.fixture
def output(model: BiRefNet) -> TrainOutput:
    return model.forward_train(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))


def test_terms_are_those_of_masks_gradients_and_categories(output: TrainOutput, truth: Tensor) -> None:
    terms = training_losses(output, truth, "General", classes=CLASSES)
    masks = [*output.side_logits, output.logits]
    assert len(masks) == 4
    expected = pixel_losses(masks, truth, PixelWeights(mae=100), compare_at="target")
    expected["gradient"] = gradient_loss(output.gradient_logits, output.gradient_labels)
    assert output.class_logits is not None
    expected["category"] = 5 * class_loss(output.class_logits, CLASSES)
    assert list(terms) == ["bce", "iou", "ssim", "mae", "gradient", "category"]
    for name, term in terms.items():
        assert torch.equal(term, expected[name]), name


def test_every_parameter_learns_from_the_sum(model: BiRefNet, output: TrainOutput, truth: Tensor) -> None:
    recipe = LossRecipe("all", EVERYTHING)
    terms = training_losses(output, truth, recipe, classes=CLASSES)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_gradient_branch_can_learn_edges_instead(output: TrainOutput, truth: Tensor) -> None:
    recipe = LossRecipe("edges", gradient_label="edges")
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    terms = training_losses(output, truth, recipe, classes=CLASSES, image=image)
    label = edge_label(image, truth)
    assert torch.equal(terms["gradient"], gradient_loss(output.gradient_logits, [label] * 3, shares=True))
    published = training_losses(output, truth, LossRecipe("published"), classes=CLASSES, image=image)
    assert {name for name, term in terms.items() if not torch.equal(term, published[name])} == {"gradient"}
    with pytest.raises(InputError, match="pass the image"):
        training_losses(output, truth, recipe, classes=CLASSES)
    with pytest.raises(ConfigError, match="unknown gradient label 'laplace': did you mean 'laplacian'"):
        LossRecipe("none", gradient_label="laplace")


def test_masks_before_a_refiner_count_as_side_masks_do(truth: Tensor) -> None:
    logits = [torch.randn(truth.shape, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    refined = training_losses(TrainOutput(logits[1], earlier_logits=(logits[0],)), truth, "DIS5K")
    alone = [floats(training_losses(TrainOutput(mask), truth, "DIS5K")) for mask in logits]
    assert floats(refined) == pytest.approx({name: sum(terms[name] for terms in alone) for name in refined})


def test_late_weights_replace_those_of_the_recipe(output: TrainOutput, truth: Tensor) -> None:
    early = training_losses(output, truth, "COD", classes=CLASSES)
    late = training_losses(output, truth, "COD", weights=weights_at("COD", 132, 150), classes=CLASSES)
    assert "bce" not in late
    assert floats(late)["iou"] == pytest.approx(floats(early)["iou"] / 4)
    for name in ("ssim", "gradient", "category"):
        assert torch.equal(late[name], early[name])


def test_branches_that_are_missing_or_weigh_nothing_have_no_term(output: TrainOutput, truth: Tensor) -> None:
    silent = replace(LOSS_RECIPES["DIS5K"], gradient=0, category=0)
    assert list(training_losses(output, truth, silent)) == ["bce", "iou", "ssim"]
    assert list(training_losses(TrainOutput(output.logits), truth, "DIS5K")) == ["bce", "iou", "ssim"]


def test_pixels_that_do_not_count_have_no_say(output: TrainOutput, truth: Tensor) -> None:
    valid = torch.ones_like(truth)
    valid[..., :20, :30] = 0
    flipped = truth * valid + (1 - truth) * (1 - valid)
    recipe = LossRecipe("all", EVERYTHING, category=0)
    first = training_losses(output, truth, recipe, valid=valid)
    second = training_losses(output, flipped, recipe, valid=valid)
    assert floats(first) == pytest.approx(floats(second))


def test_the_switch_brings_the_errors_back(output: TrainOutput, truth: Tensor) -> None:
    recipe = LossRecipe("all", EVERYTHING, category=0)
    mended = training_losses(output, truth, recipe)
    theirs = training_losses(output, truth, recipe, reference_defects=True)
    assert {name for name in mended if not torch.equal(mended[name], theirs[name])} == {"iou", "patch_iou", "structure"}
    assert floats(theirs)["iou"] == pytest.approx(2 * floats(mended)["iou"], rel=1e-5)


def test_no_term_is_read_on_the_way() -> None:
    # A meta tensor has no values: any `.item()`, which would hold a GPU up, raises.
    masks = [torch.empty(2, 1, size, size, device="meta") for size in (2, 4, 8, 64)]
    output = TrainOutput(
        masks[3],
        side_logits=tuple(masks[:3]),
        gradient_logits=tuple(masks[:3]),
        gradient_labels=(masks[3],) * 3,
        class_logits=torch.empty(2, 7, device="meta"),
    )
    for defects in (False, True):
        for counts in (None, masks[3]):
            terms = training_losses(
                output,
                masks[3],
                LossRecipe("all", EVERYTHING),
                classes=CLASSES.to("meta"),
                valid=counts,
                reference_defects=defects,
            )
            assert all(term.shape == () for term in terms.values())
            assert len(terms) == 11


def test_a_class_head_needs_classes(output: TrainOutput, truth: Tensor) -> None:
    with pytest.raises(InputError, match="has a class head: pass the photos' classes"):
        training_losses(output, truth, "DIS5K")


def test_wrong_input_is_refused(output: TrainOutput, truth: Tensor) -> None:
    with pytest.raises(ConfigError, match="unknown task 'Mating': did you mean 'Matting'"):
        training_losses(output, truth, "Mating")
    with pytest.raises(InputError, match=r"the truth must be .* not \(2, 64, 96\)"):
        training_losses(output, truth[:, 0], "DIS5K", classes=CLASSES)


@pytest.mark.parametrize("compare_at", ["output", "target"])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(compare_at: Resolution) -> None:
    # So that it does not matter how a batch is parted among processes or accumulated steps.
    random = torch.Generator().manual_seed(3)
    masks = [torch.randn(4, 1, size, size, generator=random, dtype=torch.float64) for size in (2, 4, 8, 64)]
    labels = torch.randn(4, 1, 64, 64, generator=random, dtype=torch.float64)
    truth = torch.rand(4, 1, 64, 64, generator=random, dtype=torch.float64)
    valid = (torch.rand(4, 1, 64, 64, generator=random) > 0.4).double()
    valid[1] = 0
    valid[2, :, :50] = 0
    classes = torch.tensor([3, -1, 0, -1])
    logits = torch.randn(4, 7, generator=random, dtype=torch.float64)

    def terms(part: slice) -> dict[str, Tensor]:
        sides = tuple(mask[part] for mask in masks[:3])
        output = TrainOutput(masks[3][part], sides, sides, (labels[part],) * 3, (), logits[part])
        recipe = LossRecipe("all", EVERYTHING)
        return training_losses(
            output, truth[part], recipe, classes=classes[part], valid=valid[part], compare_at=compare_at
        )

    whole, first, second = terms(slice(4)), terms(slice(2)), terms(slice(2, 4))
    for name, value in whole.items():
        assert float(value) == pytest.approx(float(first[name] + second[name]) / 2, rel=1e-12), name
