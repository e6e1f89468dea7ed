"""Measuring a network while it trains, with the measures of `birefnet evaluate`, at the truth's own resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from birefnet.config import InputSpec, in_proportion
from birefnet.data.augment import NONE, augment
from birefnet.data.looks import resize
from birefnet.data.pairs import Pair
from birefnet.data.photos import Photos
from birefnet.imaging.decide import decide
from birefnet.imaging.masks import read_map, resize_map
from birefnet.imaging.postprocess import without_scraps
from birefnet.imaging.preprocess import denormalised, grey_world, mirrored
from birefnet.losses import training_losses
from birefnet.metrics import Conventions, Reading, Scorer
from birefnet.metrics import Pair as Compared
from birefnet.model import TrainOutput
from birefnet.training.loop import autocast
from birefnet.training.samples import Sample
from birefnet.training.state import Session

_KEPT = 24
"""Photos whose masks are kept to be looked at."""


@dataclass(frozen=True)
class Measured:
    """What a validation found.

    Attributes:
        values: means over all photos by name, with "loss".
        samples: masks to be looked at, spread over the set.
    """

    values: dict[str, float]
    samples: list[Sample]


@dataclass(frozen=True)
class _One:
    """What is found about one photo: a reading of each measure, and its loss."""

    readings: dict[str, Reading]
    loss: float
    sample: Sample | None


class Validator:
    """Measures the network of a run on the photos that are held out.

    Several processes share the photos; what they find is put together photo by photo in the order of the set, so that
    the figures are those of one process to the last digit.

    Args:
        photos: what is held out, decoded for the network.
        pairs: the same as files, whose truths are read at their own resolution; None where there are no files, so that
            the decoded truths have to do.
        size: (height, width) of the input; where the weights keep a photo's proportions, of a square one.
    """

    def __init__(self, photos: Photos, pairs: Sequence[Pair] | None, size: tuple[int, int]) -> None:
        self.photos = photos
        self.pairs = pairs
        self.size = size
        count = min(_KEPT, len(photos))
        self._shown = {round(i * (len(photos) - 1) / max(1, count - 1)) for i in range(count)}

    @torch.no_grad()
    def measure(self, session: Session) -> Measured:
        """Measure the weights to keep. To be called on every process; the network comes back in training mode.

        Raises:
            DataError: a truth cannot be read any more.
        """
        parallel, recipe = session.parallel, session.recipe
        conventions = Conventions(truth_above=recipe.validation.truth_above)
        scorer = Scorer(recipe.validation.measures, conventions)
        found: dict[int, _One] = {}
        was_training = session.model.training
        session.model.eval()
        with session.weights_to_keep():
            batch = max(1, recipe.data.batch // parallel.world // recipe.memory.accumulate)
            for size, alike in self._by_size(session.input_spec).items():
                for start in range(0, len(alike), batch * parallel.world):
                    first = start + parallel.rank * batch
                    indices = alike[first : first + batch]
                    # Processes with sharded weights run the network together: one without photos left runs it for
                    # nothing.
                    looked = self._look(session, scorer, indices or alike[:1], size)
                    found |= dict(zip(indices, looked, strict=False))
        session.model.train(was_training)
        everything: dict[int, _One] = {}
        for part in parallel.gather(found):
            everything |= part
        return self._summed(scorer, everything)

    def _by_size(self, spec: InputSpec) -> dict[tuple[int, int], list[int]]:
        """Part the photos by the size of the input: one for all unless they keep their proportions."""
        if not spec.keep_aspect:
            return {self.size: list(range(len(self.photos)))}
        parts: dict[tuple[int, int], list[int]] = {}
        for index, aspect in enumerate(self.photos.aspects):
            parts.setdefault(in_proportion(self.size, aspect), []).append(index)
        return parts

    def _look(self, session: Session, scorer: Scorer, indices: list[int], size: tuple[int, int]) -> list[_One]:
        recipe, device, spec = session.recipe, session.parallel.device, session.input_spec
        pixels = self.photos.read(indices, *size).to(device)
        images, target, valid = augment(pixels, size, NONE, [], None, spec.mean, spec.std)
        photos = images.float().cpu().numpy()
        with autocast(recipe.precision, device):
            logits = session.model(images.contiguous(memory_format=torch.channels_last)).float()
            joined = logits
            if spec.mirror:  # as these weights will be used
                second = torch.from_numpy(mirrored(photos, grey_world(photos, spec), spec)).to(images)
                looked = session.model(second.contiguous(memory_format=torch.channels_last))
                joined = (logits + looked.float().flip(-1)) / 2
        alphas = joined.sigmoid().cpu().numpy()[:, 0]
        if spec.crf:  # at the size of the input, as these are all the pixels there are
            settled = decide(alphas, denormalised(photos, spec), spec.crf)
            alphas = np.stack([without_scraps(alpha) for alpha in settled])
        levels = np.rint(alphas * 255).astype(np.uint8)
        found = []
        for row, index in enumerate(indices):
            coarse = (target[row, 0] * 255).round().byte().cpu().numpy()
            truth = coarse if self.pairs is None else read_map(self.pairs[index].mask).levels
            compared = Compared(
                resize_map(levels[row], (truth.shape[0], truth.shape[1])), truth, conventions=scorer.conventions
            )
            readings = {name: measure.read(compared) for name, measure in scorer.measures.items()}
            part = slice(row, row + 1)
            terms = training_losses(TrainOutput(logits[part]), target[part], recipe.loss, valid=valid[part])
            sample = None
            if index in self._shown:
                shown = resize(pixels[row : row + 1, :3].float(), size)[0].round().byte().cpu().numpy()
                sample = Sample(
                    self.photos.names[index],
                    shown.transpose(1, 2, 0),
                    coarse,
                    levels[row],
                    {name: value for reading in readings.values() for name, value in reading.values.items()},
                    valid[row, 0].bool().cpu().numpy(),
                )
            found.append(_One(readings, float(torch.stack(list(terms.values())).sum()), sample))
        return found

    def _summed(self, scorer: Scorer, everything: dict[int, _One]) -> Measured:
        losses, samples = [], []
        for index in range(len(self.photos)):
            one = everything[index]
            for name, measure in scorer.measures.items():
                measure.take(one.readings[name])
            losses.append(one.loss)
            if one.sample is not None:
                samples.append(one.sample)
        means: dict[str, Any] = {k: v for k, v in scorer.compute().items() if not k.endswith("_per_image")}
        return Measured({"loss": sum(losses) / len(losses), **means}, samples)
