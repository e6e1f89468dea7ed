"""What a training run is to do, and its learning rate and image size as pure functions of the progress."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from birefnet.errors import ConfigError

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, besides the network and the data.

    Attributes:
        samples: photos seen in the whole run, each time counted.
        sizes: (side, share of the samples) of each stage, in order: small photos first cost little and teach most.
        batch: photos a step.
        rate: peak learning rate.
        final_rate: learning rate at the end, as a share of the peak.
        warm_up: share of the samples over which the rate rises from 0.
        weight_decay: of AdamW, on the weights of convolutions and linear layers alone.
        clip: largest norm of the gradient; a larger one is scaled down.
        ema: decay a step of the averaged weights, which are what is kept; lower at first, when weights change fast.
        iou_weight: weight of the IoU loss. The published 0.5 leaves an undertrained network grey where it is unsure;
            about half the weight of the cross entropy makes it decide.
        gradient_weight: weight of the loss of the gradient branch.
        precision: "float32", or "bfloat16" for autocast.
        seed: of the initial weights, the order of the photos and their augmentation.
    """

    samples: int = 200_000
    sizes: tuple[tuple[int, float], ...] = ((160, 0.5), (224, 0.35), (288, 0.15))
    batch: int = 16
    rate: float = 1e-3
    final_rate: float = 0.01
    warm_up: float = 0.02
    weight_decay: float = 1e-2
    clip: float = 100.0
    ema: float = 0.999
    iou_weight: float = 15.0
    gradient_weight: float = 1.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1:
            raise ConfigError(f"samples ({self.samples}) and batch ({self.batch}) must be at least 1")
        if any(side < 32 or side % 32 for side, _ in self.sizes):
            raise ConfigError(f"every size must be a positive multiple of 32, not {format_sizes(self.sizes)}")
        if any(share <= 0 for _, share in self.sizes) or abs(sum(s for _, s in self.sizes) - 1) > 1e-6:
            raise ConfigError(f"the shares of the sizes must add up to 1: {format_sizes(self.sizes)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if not (self.rate > 0 and self.clip > 0 and 0 <= self.ema < 1 and 0 <= self.warm_up < 1):
            raise ConfigError("rate and clip must be above 0, ema and warm_up from 0 to below 1")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return math.ceil(self.samples / self.batch)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "sizes": [list(stage) for stage in self.sizes]}


def parse_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """Read stages written as SIZE:SHARE,SIZE:SHARE or, for a single one, SIZE.

    Raises:
        ConfigError: the text is not of that form.
    """
    stages = []
    try:
        for part in text.split(","):
            side, _, share = part.partition(":")
            stages.append((int(side), float(share) if share else 1.0))
    except ValueError:
        raise ConfigError(f"sizes must look like 160:0.5,224:0.5, not {text!r}") from None
    return tuple(stages)


def format_sizes(sizes: tuple[tuple[int, float], ...]) -> str:
    """Write stages as `parse_sizes` reads them."""
    return ",".join(f"{side}:{share:g}" for side, share in sizes)


def size_at(recipe: Recipe, step: int) -> int:
    """Side of the photos at a step."""
    done = step / recipe.steps
    for side, share in recipe.sizes:
        if done < share:
            return side
        done -= share
    return recipe.sizes[-1][0]


def rate_at(recipe: Recipe, step: int) -> float:
    """Learning rate at a step: a linear rise, then half a cosine down to the final rate."""
    rising = max(1, round(recipe.warm_up * recipe.steps))
    if step < rising:
        return recipe.rate * (step + 1) / rising
    done = (step - rising) / max(1, recipe.steps - rising)
    share = recipe.final_rate + (1 - recipe.final_rate) * (1 + math.cos(math.pi * done)) / 2
    return recipe.rate * share


def decay_at(recipe: Recipe, step: int) -> float:
    """Decay of the averaged weights at a step: at first short, so that they forget the random start."""
    return min(recipe.ema, (1 + step) / (10 + step))
