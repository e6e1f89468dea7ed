"""Comparing an exported file, run by the program it is for, with the network that it was made of."""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from birefnet.config import InputSpec
from birefnet.data.structures import Drawn
from birefnet.engines.base import Engine
from birefnet.errors import OutputError
from birefnet.export.checks import read_photos
from birefnet.imaging.io import RgbImage
from birefnet.imaging.preprocess import prepare
from birefnet.model import BiRefNet

Shape = tuple[int, int, int]
"""Batch, height and width."""

FLOAT_BOUND = 1e-4
"""What alpha may differ by where both sides compute in float32."""

HALF_BOUND = 0.01
"""What alpha may differ by where one side computes in half precision."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what is known of it.

    Attributes:
        path: the file, or the folder.
        difference: largest difference of alpha from the network's, over all that was compared.
        checked: batches that were compared, (batch, height, width) each.
        notes: lines for a person.
    """

    path: Path
    difference: float
    checked: tuple[Shape, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What came of comparing an engine with a network.

    Attributes:
        difference: largest difference of alpha, NaN where either gives NaN.
        mean: mean difference of alpha.
        checked: batches that were compared, (batch, height, width) each.
        notes: what the pictures were, in a line.
    """

    difference: float
    mean: float
    checked: tuple[Shape, ...]
    notes: tuple[str, ...] = ()

    def require(self, bound: float, path: Path) -> None:
        """Refuse a file that differs by more than `bound`, or of which that is not known.

        Raises:
            OutputError: it does.
        """
        if not self.difference <= bound:  # NaN is within no bound
            raise OutputError(
                f"{path}: not written, its masks differ from the network's by {self.difference:.2g}, "
                f"more than {bound:g}: choose another format or precision"
            )

    def report(self, path: Path, *notes: str) -> ExportReport:
        """Say what was written, with the `notes` and those of the comparison."""
        return ExportReport(path, self.difference, self.checked, (*notes, *self.notes))


class Source:
    """The network itself as an engine, untransformed and in float32: what every file is compared with."""

    precision = "float32"

    def __init__(self, model: BiRefNet) -> None:
        exact = all(parameter.dtype == torch.float32 for parameter in model.parameters())
        self._model = model if exact else copy.deepcopy(model).float()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1]."""
        with torch.inference_mode(), _evaluating(self._model):
            parameter = next(self._model.parameters())
            logits = self._model(torch.from_numpy(images).to(parameter.device, parameter.dtype))
            alpha: NDArray[np.float32] = logits.float().sigmoid().cpu().numpy()
        return alpha


def compare(
    engine: Engine, model: BiRefNet, *, photos: str | Path | None = None, shapes: tuple[Shape, ...] | None = None
) -> Comparison:
    """Compare an engine with the network on pictures prepared as its weights want them, at several sizes and batches.

    The package holds no photos. Without a folder the pictures are drawn ones (`birefnet.data.structures`), which have
    edges, thin structures, shading and grain as photos do; there is always one of noise besides.

    Args:
        engine: runs the exported file.
        model: what the file was made of.
        photos: a folder of photos to compare on, or one photo.
        shapes: (batch, height, width) to compare at, by default `shapes_for` the model.

    Raises:
        InputError: the folder holds no photos.
        DataError: the folder cannot be read.
        ImageError: a photo cannot be read.
    """
    pictures, note = _pictures(photos, model.input_spec)
    source, endless = Source(model), itertools.cycle(pictures)
    shapes = shapes or shapes_for(model)
    # The largest batch again, until every picture has had its turn.
    missing, widest = len(pictures) - sum(batch for batch, _, _ in shapes), max(shapes)
    rounds = (*shapes, *[widest] * max(0, -(-missing // widest[0])))
    largest, means = 0.0, []
    for batch, height, width in rounds:
        taken = itertools.islice(endless, batch)
        images = np.stack([prepare(picture, model.input_spec, (height, width)) for picture in taken])
        differences = np.abs(engine(images) - source(images))
        # In this order NaN stays: Python's max would drop it.
        largest = float(np.maximum(differences.max(), largest))
        means.append(float(differences.mean()))
    return Comparison(largest, float(np.mean(means)), shapes, (note,))


def shapes_for(model: BiRefNet, cells: int = 1) -> tuple[Shape, ...]:
    """Batches to compare at: one photo at the model's own size, three at half of it, one that is not square.

    Args:
        model: whose input it is.
        cells: least multiple of the grid that the file takes.
    """
    grid = model.grid
    least = max(model.least_side, cells * grid)

    def fitted(side: float) -> int:
        return max(least, round(side / grid) * grid)

    height, width = (fitted(side) for side in model.input_spec.size)
    short, long = fitted(height / 4), fitted(width / 2)
    return (1, height, width), (3, fitted(height / 2), fitted(width / 2)), (1, short, long + grid * (short == long))


def _pictures(photos: str | Path | None, spec: InputSpec) -> tuple[list[RgbImage], str]:
    """Pictures to compare on, and what they are; the first is a photo, or what comes nearest to one."""
    height, width = spec.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if photos is None:
        drawn = Drawn(3)
        pictures = [drawn.draw(index, height, width)[0] for index in range(len(drawn))]
        return [*pictures, noise], "compared on 3 drawn pictures and noise; --photos FOLDER takes photos of your own"
    pictures = read_photos(photos)
    return [*pictures, noise], f"compared on {len(pictures)} photos of {photos} and noise"


@contextmanager
def _evaluating(model: BiRefNet) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
