"""The batches of a run, each a pure function of the seed and the step."""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from birefnet.config import IMAGENET_MEAN, IMAGENET_STD, in_proportion
from birefnet.data.augment import NONE, REFERENCE, Augmentation, augment
from birefnet.data.compose import Composition, compose
from birefnet.data.photos import Photos, Size
from birefnet.errors import ConfigError

MULTIPLE = 32
"""Sides of batches are multiples of it: the network halves them five times."""

_CPU = torch.device("cpu")

# Steps whose photos are sorted by their proportions: so many that these hardly differ in a batch.
_STRETCH = 16


@dataclass(frozen=True)
class Batch:
    """What the network is trained on.

    Attributes:
        images: (B, 3, H, W) float32, normalised, channels last in memory.
        target: share of foreground (B, 1, H, W) in [0, 1].
        valid: 1 where the target is known, else 0 (B, 1, H, W).
        classes: (B,) int64, index of each photo's DIS5K class, -1 where it is not known.
        names: what photos these are, for messages.
    """

    images: Tensor
    target: Tensor
    valid: Tensor
    classes: Tensor
    names: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """Move to a device, without waiting for it where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy to memory that a GPU can read by itself; called by torch's loader too."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.images), change(self.target), change(self.valid), change(self.classes), self.names)


@dataclass(frozen=True)
class Stage:
    """A part of a run at one size of photos.

    Attributes:
        height: of the photos.
        width: of the photos.
        share: part of the run's steps.
    """

    height: int
    width: int
    share: float


def parse_sizes(text: str) -> tuple[Stage, ...]:
    """Read stages written as "160:0.65,224x320:0.35", HEIGHTxWIDTH:SHARE, or a single size alone.

    Raises:
        ConfigError: the text is not of that form, a side is no multiple of 32, or the shares do not add up to 1.
    """
    stages = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:x(\d+))?(?::(\d*\.?\d+))?\s*", part)
        if match is None or (match[3] is None and "," in text):
            raise ConfigError(f"sizes must look like 1024, 1440x2560 or 160:0.5,224:0.5, not {text!r}")
        height = int(match[1])
        stages.append(Stage(height, int(match[2] or height), float(match[3] or 1)))
    if any(side < MULTIPLE or side % MULTIPLE for stage in stages for side in (stage.height, stage.width)):
        raise ConfigError(f"every side must be a positive multiple of {MULTIPLE}: {text!r}")
    if any(stage.share <= 0 for stage in stages) or abs(sum(stage.share for stage in stages) - 1) > 1e-6:
        raise ConfigError(f"the shares of the sizes must add up to 1: {text!r}")
    return tuple(stages)


def format_sizes(stages: Sequence[Stage]) -> str:
    """Write stages as `parse_sizes` reads them."""
    texts = [f"{s.height}" if s.height == s.width else f"{s.height}x{s.width}" for s in stages]
    if len(stages) == 1:
        return texts[0]
    return ",".join(f"{text}:{stage.share:g}" for text, stage in zip(texts, stages, strict=True))


def parse_weights(text: str) -> dict[str, float]:
    """Read weights of sources written as "pascal_s:2,objects:0.5"; "" names none.

    Raises:
        ConfigError: the text is not of that form, a source is named twice, or a weight is not above 0.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(.+?)\s*:\s*(\d*\.?\d+)", part)
        if match is None or match[1] in weights or float(match[2]) <= 0:
            raise ConfigError(f"weights must look like pascal_s:2,objects:0.5, above 0, each source once, not {text!r}")
        weights[match[1]] = float(match[2])
    return weights


@dataclass(frozen=True)
class DataRecipe:
    """What batches are made of.

    Attributes:
        batch: photos a step, of all processes together.
        sizes: of the photos, stage by stage, as `parse_sizes` reads them.
        dynamic: least and greatest side of batches, both of which are drawn anew for each in steps of 32; with it
            `sizes` says nothing. None for fixed sizes.
        augmentation: how far photos are changed.
        composition: which photos are put together anew.
        weights: how often photos of a source (`Pair.source`) are seen next to those of sources that are not named here,
            each of which counts 1: "pascal_s:2,objects:0.5", as `parse_weights` reads them. An epoch is as long as
            without.
        soft: masks are mattes, whose levels are kept; otherwise they are foreground or not, from the middle on.
        keep_aspect: photos keep their proportions, those alike share batches, and `sizes` says how many pixels a batch
            has: see `birefnet.config.in_proportion`. The weights will be used like that, too.

    Raises:
        ConfigError: a value is impossible.
    """

    batch: int = 8
    sizes: str = "1024"
    dynamic: tuple[int, int] | None = None
    augmentation: Augmentation = REFERENCE
    composition: Composition = field(default_factory=Composition)
    weights: str = ""
    soft: bool = False
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch ({self.batch}) must be at least 1")
        if self.keep_aspect and self.dynamic is not None:
            raise ConfigError(
                "keep_aspect and dynamic both say what shape batches have: set keep_aspect=false, or leave dynamic out"
            )
        parse_sizes(self.sizes)
        parse_weights(self.weights)
        if self.dynamic is not None:
            low, high = self.dynamic
            if low < MULTIPLE or high < low or low % MULTIPLE or high % MULTIPLE:
                raise ConfigError(f"dynamic must be (LEAST, GREATEST), multiples of {MULTIPLE}, not ({low}, {high})")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that `sizes` describes."""
        return parse_sizes(self.sizes)

    @property
    def fixed_sizes(self) -> tuple[Size, ...]:
        """Sizes of batches (height, width) that are known beforehand, for packs: none if they are drawn."""
        if self.dynamic is not None:
            return ()
        return tuple(dict.fromkeys((stage.height, stage.width) for stage in self.stages))


def check_sources(recipe: DataRecipe, sources: Iterable[str]) -> None:
    """Check that photos come from all sources that a recipe names.

    Args:
        recipe: what batches are made of.
        sources: of the photos, as in `Photos`.

    Raises:
        ConfigError: no photo comes from one of them.
    """
    known = set(sources)
    donors = recipe.composition.donors if recipe.composition.paste else ()
    for setting, named in (("data.weights", parse_weights(recipe.weights)), ("data.composition.donors", donors)):
        for source in named:
            if source not in known:
                some = ", ".join(sorted(known)[:20])
                raise ConfigError(f"{setting}: no photo comes from {source!r}: choose of {some}")


class Batches:
    """The batch of every step, the same whenever and wherever it is asked for.

    Which photos a step sees and how each is changed follow from the seed and the number of the sample in the run alone:
    not from how many processes share the work, nor from what was made before.

    Attributes:
        steps: of the whole run.
        device: where batches are made.
    """

    def __init__(
        self,
        photos: Photos,
        recipe: DataRecipe,
        samples: int,
        seed: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        rank: int = 0,
        world: int = 1,
        device: torch.device = _CPU,
    ) -> None:
        """Plan the batches of a run.

        Args:
            photos: what to learn from.
            recipe: what batches are made of.
            samples: photos seen in the whole run, each time counted; the last batch is filled up.
            seed: of everything random.
            mean: per-channel mean subtracted from photos in [0, 1].
            std: per-channel standard deviation the difference is divided by.
            rank: which of the processes this is.
            world: how many processes share each batch.
            device: where to make batches.

        Raises:
            ConfigError: the batch cannot be shared evenly, or no photo may give what the composition pastes.
            DataError: photos keep their proportions, and a file cannot be read.
        """
        if samples < 1:
            raise ConfigError(f"samples ({samples}) must be at least 1")
        if recipe.batch % world:
            raise ConfigError(
                f"a batch of {recipe.batch} cannot be shared by {world} processes: make it a multiple of that"
            )
        self.steps = math.ceil(samples / recipe.batch)
        self.device = device
        self._photos, self._recipe, self._seed = photos, recipe, seed
        self._mean, self._std = tuple(mean), tuple(std)
        self._share = recipe.batch // world
        self._offset = rank * self._share
        self._stages = recipe.stages
        check_sources(recipe, photos.sources)
        self._donors = _donors(photos, recipe.composition)
        self._weights = _weights(photos, recipe.weights)
        self._order: tuple[int, Tensor] | None = None  # of the last epoch that was asked for
        self._aspects = photos.aspects if recipe.keep_aspect else ()
        self._sorted: tuple[int, list[list[int]]] | None = None  # of the last stretch that was asked for

    def __call__(self, step: int) -> Batch:
        """Make this process's share of the batch of a step.

        Raises:
            DataError: a photo cannot be read.
        """
        samples = self._samples_of(step)[self._offset : self._offset + self._share]
        chosen = [self._photo_of(sample) for sample in samples]
        size = self.size_at(step)
        # Packs hold all photos at one size: out of proportion, which the warp to the batch's own undoes.
        pixels, plain = self._composed(samples, chosen, self._stage_at(step))
        settings = self._recipe.augmentation
        generators = [] if settings == NONE else [self._generator("change", sample) for sample in samples]
        images, target, valid = augment(pixels, size, settings, generators, plain, self._mean, self._std)
        categories = [self._photos.categories[index] for index in chosen]
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            target,
            valid,
            torch.tensor([-1 if category is None else category for category in categories], device=self.device),
            tuple(self._photos.names[index] for index in chosen),
        )

    def epoch_of(self, step: int) -> int:
        """Which time, from 1 on, the first sample of a step goes through the photos."""
        return step * self._recipe.batch // len(self._photos) + 1

    def size_at(self, step: int) -> Size:
        """(height, width) of the photos at a step."""
        size = self._stage_at(step)
        if not self._recipe.keep_aspect:
            return size
        aspects = [self._aspects[self._photo_of(sample)] for sample in self._samples_of(step)]
        return in_proportion(size, math.exp(sum(map(math.log, aspects)) / len(aspects)))

    def _stage_at(self, step: int) -> Size:
        if self._recipe.dynamic is not None:
            least, greatest = (side // MULTIPLE for side in self._recipe.dynamic)
            sides = torch.randint(least, greatest + 1, (2,), generator=self._generator("size", step))
            return int(sides[0]) * MULTIPLE, int(sides[1]) * MULTIPLE
        done = step / self.steps
        for stage in self._stages:
            # A rounding error of the shares' sum must not lengthen a stage by a step.
            if done < stage.share - 1e-9:
                return stage.height, stage.width
            done -= stage.share
        return self._stages[-1].height, self._stages[-1].width

    def _composed(self, samples: Sequence[int], chosen: Sequence[int], size: Size) -> tuple[Tensor, Tensor | None]:
        pixels = self._photos.read(chosen, *size).to(self.device)
        settings = self._recipe.composition
        if not settings.changes:
            return pixels, None
        donors = _Candidates(self, samples, chosen, size) if self._donors else None
        return compose(pixels, donors, settings, [self._generator("compose", sample) for sample in samples])

    def _samples_of(self, step: int) -> Sequence[int]:
        """Number the samples of the whole batch of a step: one after the other, unless photos alike share batches.

        Then the samples of a stretch of steps are sorted by their photos' proportions and parted into as many batches,
        which come in a random order: so a run sees what it would see otherwise, but for a few steps' delay.
        """
        size = self._recipe.batch
        if not self._recipe.keep_aspect:
            return range(step * size, (step + 1) * size)
        stretch, place = divmod(step, _STRETCH)
        if self._sorted is None or self._sorted[0] != stretch:
            first = stretch * _STRETCH
            count = min(_STRETCH, self.steps - first)
            samples = sorted(
                range(first * size, (first + count) * size), key=lambda it: self._aspects[self._photo_of(it)]
            )
            order = torch.randperm(count, generator=self._generator("aspect", stretch)).tolist()
            self._sorted = stretch, [samples[part * size : (part + 1) * size] for part in order]
        return self._sorted[1][place]

    def _photo_of(self, sample: int) -> int:
        """Tell the photo of a sample: each epoch is its own random order of all photos, or of a draw by weight."""
        epoch, place = divmod(sample, len(self._photos))
        kept = self._order
        if kept is None or kept[0] != epoch:
            self._order = kept = epoch, _order(_mixed("order", self._seed, epoch), len(self._photos), self._weights)
        return int(kept[1][place])

    def _donor_of(self, sample: int, own: int) -> int:
        """Draw another photo than the sample's own, if there is one."""
        place = int(torch.randint(len(self._donors), (), generator=self._generator("donor", sample)))
        return self._donors[place] if self._donors[place] != own else self._donors[(place + 1) % len(self._donors)]

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(_mixed(purpose, self._seed, number))


class _Candidates:
    """A photo for each sample of a batch whose object may be pasted on it, read only where it is."""

    def __init__(self, batches: Batches, samples: Sequence[int], chosen: Sequence[int], size: Size) -> None:
        self._batches, self._samples, self._chosen, self._size = batches, samples, chosen, size

    def __getitem__(self, index: int) -> Tensor:
        batches = self._batches
        other = batches._donor_of(self._samples[index], self._chosen[index])
        return batches._photos.read([other], *self._size)[0].to(batches.device)


def _donors(photos: Photos, settings: Composition) -> list[int]:
    """Tell which photos may give their object."""
    if not settings.paste:
        return []
    return [i for i, source in enumerate(photos.sources) if not settings.donors or source in settings.donors]


def _weights(photos: Photos, text: str) -> Tensor | None:
    """Tell each photo's weight, if they differ."""
    weights = parse_weights(text)
    each = torch.tensor([weights.get(source, 1.0) for source in photos.sources], dtype=torch.float64)
    return None if bool((each == each[0]).all()) else each


def _order(seed: int, count: int, weights: Tensor | None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if weights is None:
        return order
    # Systematic sampling: of photos laid end to end, each as long as its weight, those at evenly spaced points. So each
    # is there as often as it should be, rounded up or down, and the order decides for which of them it is up.
    lengths = weights[order]
    ends = (lengths * (count / lengths.sum())).cumsum(0)
    points = torch.arange(count) + torch.rand((), dtype=torch.float64, generator=generator)
    drawn = order[torch.searchsorted(ends, points).clamp_max(count - 1)]
    return drawn[torch.randperm(count, generator=generator)]


def _mixed(purpose: str, *numbers: int) -> int:
    """Mix numbers into a seed, the same on every machine; generators take no more than 32 bits of it."""
    return zlib.crc32(f"{purpose} {numbers}".encode())
