"""The optimizer: AdamW, which parameters it treats how, and its rate as a pure function of the step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from birefnet.config import unknown_name
from birefnet.errors import ConfigError

SCHEDULES = ("constant", "cosine")

_BACKBONE = "encoder.backbone."


@dataclass(frozen=True)
class OptimizerRecipe:
    """How the weights are changed.

    Attributes:
        rate: learning rate at its height.
        schedule: "constant", or "cosine" for half a cosine from the height down to `final_rate`.
        warm_up: share of the steps over which the rate rises to its height.
        final_rate: rate at the end of a cosine, as a share of the height.
        weight_decay: of AdamW.
        decay_all: also on biases and norms, as in the reference; shrinking these teaches nothing.
        backbone_rate: rate of the backbone as a share of the others'.
        layer_decay: each layer of the backbone learns at this share of the rate of the one after it (Bao et al.,
            BEiT, arXiv 2106.08254); 1 for all alike.
        clip: largest norm of the gradient; a larger one is scaled down. 0 for no limit.
        ema: decay a step of the averaged weights, which are what is kept; lower at first, when weights change fast.
            0 keeps the last weights.

    Raises:
        ConfigError: a value is impossible.
    """

    rate: float = 1e-4
    schedule: str = "constant"
    warm_up: float = 0.0
    final_rate: float = 0.01
    weight_decay: float = 1e-2
    decay_all: bool = False
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        limits = {
            "rate": (self.rate, 1e-12, 100.0),
            "warm_up": (self.warm_up, 0.0, 1.0),
            "final_rate": (self.final_rate, 0.0, 1.0),
            "weight_decay": (self.weight_decay, 0.0, 100.0),
            "backbone_rate": (self.backbone_rate, 0.0, 100.0),
            "layer_decay": (self.layer_decay, 0.01, 1.0),
            "clip": (self.clip, 0.0, math.inf),
            "ema": (self.ema, 0.0, 0.999999),
        }
        for name, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise ConfigError(f"optimizer.{name} must be from {least:g} to {most:g}, not {value!r}")


def rate_at(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """Learning rate at a step, counted from 0, of a run of so many steps."""
    rising = round(recipe.warm_up * steps)
    if step < rising:
        return recipe.rate * (step + 1) / rising
    if recipe.schedule == "constant":
        return recipe.rate
    done = (step - rising) / max(1, steps - rising)
    return recipe.rate * (recipe.final_rate + (1 - recipe.final_rate) * (1 + math.cos(math.pi * done)) / 2)


def ema_decay_at(recipe: OptimizerRecipe, step: int) -> float:
    """Decay of the averaged weights at a step: at first short, so that they forget where they started."""
    return min(recipe.ema, (1 + step) / (10 + step))


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """Make AdamW over the parameters that are trained.

    Each group has a "factor" beside its "lr": its rate as a share of the recipe's; see `set_rate`.

    Raises:
        ConfigError: nothing is left to train.
    """
    layers = backbone_layers(model)
    deepest = max(layers.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = 1.0
        if name in layers:
            factor = recipe.backbone_rate * recipe.layer_decay ** (deepest - layers[name])
        decay = recipe.weight_decay if recipe.decay_all or parameter.ndim > 1 else 0.0
        if factor:
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise ConfigError("nothing is left to train: freeze less")
    return torch.optim.AdamW(
        [{"params": found, "weight_decay": decay, "factor": factor} for (factor, decay), found in groups.items()],
        lr=recipe.rate,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, each by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def backbone_layers(model: nn.Module) -> dict[str, int]:
    """Number the backbone's parameters by depth: those of one block, or of one layer outside of blocks, alike.

    Returns:
        Name of each parameter of the backbone -> its layer, from 0 for the shallowest.
    """
    order: dict[str, int] = {}
    layers = {}
    for name, _ in model.named_parameters():
        if name.startswith(_BACKBONE):
            layers[name] = order.setdefault(_block_of(name.removeprefix(_BACKBONE)), len(order))
    return layers


def _block_of(name: str) -> str:
    """Path of the block that a parameter belongs to: up to the last number in it, or of its layer where none is."""
    parts = name.split(".")[:-1]
    if parts and parts[0] == "output_norms":  # each behind a stage: they learn as the last layer does
        return parts[0]
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    # Numbers further down count the layers within a block: of stages.2.blocks.5.mlp.0 the block is ...blocks.5.
    last = numbers[min(1, len(numbers) - 1)] if numbers else max(0, len(parts) - 1)
    return ".".join(parts[: last + 1])
