"""A recipe's network and one step of it outside of a run, to see what it takes: of shapes alone, or real."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from birefnet.data.batches import DataRecipe, Stage
from birefnet.losses import training_losses
from birefnet.model import BiRefNet
from birefnet.training.loop import autocast
from birefnet.training.lora import add_lora
from birefnet.training.recipe import Recipe
from birefnet.training.savings import checkpoint_activations, freeze


def empty_network(recipe: Recipe) -> BiRefNet:
    """Build a recipe's network as it is trained, with adapters and frozen parts, but weights that have shapes alone.

    Raises:
        ConfigError: the recipe cannot be carried out.
    """
    with _NoMemory():
        model = BiRefNet(recipe.model)
        model.train()
        change(model, recipe)
    layout = torch.channels_last if recipe.memory.channels_last else torch.contiguous_format
    model.to("meta", memory_format=layout)  # type: ignore[call-overload]
    return model


def change(model: BiRefNet, recipe: Recipe) -> None:
    """Do to a network what a run does to it before the first step, in place."""
    if recipe.lora is not None:
        add_lora(model, recipe.lora)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    if recipe.memory.checkpoint:
        checkpoint_activations(model)


def learn(network: nn.Module, recipe: Recipe, images: Tensor, target: Tensor, device: torch.device) -> None:
    """Go forward and backward once, which leaves gradients.

    Args:
        network: what `TrainStep` or `Parallel.wrap` makes of a network.
        recipe: what is trained.
        images: (B, 3, H, W).
        target: the truth, (B, 1, H, W).
        device: where they all are.
    """
    with autocast(recipe.precision, device):
        output = network(images)
    terms = training_losses(
        output,
        target,
        recipe.loss,
        classes=torch.zeros(len(images), dtype=torch.int64),
        image=images,
        valid=torch.ones_like(target),
        compare_at=recipe.compare_at,
        reference_defects=recipe.reference_defects,
    )
    loss = torch.stack(list(terms.values())).sum()
    del output, terms
    loss.backward()


def largest_stage(recipe: DataRecipe) -> Stage:
    """The stage whose batches are largest; with dynamic sizes, one of the upper end."""
    if recipe.dynamic is not None:
        return Stage(recipe.dynamic[1], recipe.dynamic[1], 1.0)
    return max(recipe.stages, key=lambda stage: stage.height * stage.width)


class _NoMemory(TorchFunctionMode):
    """Makes what weights are first made of without memory; small tables that a network computes are real."""

    _WEIGHTS = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._WEIGHTS:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
