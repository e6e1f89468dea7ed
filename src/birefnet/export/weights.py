"""Weights files with the reference's key names, which this package and every program for the reference read."""

import copy
from pathlib import Path

import torch

from birefnet._atomic import atomic_path
from birefnet.errors import ConfigError, OutputError
from birefnet.export.verify import FLOAT_BOUND, HALF_BOUND, ExportReport, Source, compare
from birefnet.model import BiRefNet

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What weights may be stored in."""

# bfloat16 has 8 bits of mantissa, three fewer than float16.
_BOUNDS = {"float32": FLOAT_BOUND, "float16": HALF_BOUND, "bfloat16": 4 * HALF_BOUND}


def export_safetensors(
    model: BiRefNet, path: str | Path, *, precision: str = "float32", photos: str | Path | None = None
) -> ExportReport:
    """Write a network's weights, configuration and input's preparation, after comparing what the file gives.

    Args:
        model: the network.
        path: where to, ending in `.safetensors`.
        precision: what the weights are stored in, a key of `PRECISIONS`; what they are computed in is the engine's
            choice.
        photos: a folder of photos to compare on, or one photo; see `birefnet.export.verify.compare`.

    Returns:
        What was compared, and the largest difference of alpha, both computing in float32.

    Raises:
        ConfigError: no such precision.
        OutputError: the masks differ, or the file cannot be written.
        InputError: the folder holds no photos.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise OutputError(f"{path}: such a file ends in .safetensors: choose such a name")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: weights are stored in {', '.join(PRECISIONS)}")
    with atomic_path(path) as temporary:
        model.save(temporary, dtype=PRECISIONS[precision])
        comparison = compare(Source(_loaded(model, temporary)), model, photos=photos)
        comparison.require(_BOUNDS[precision], path)
    return comparison.report(path, f"weights in {precision}, with the reference's names")


def _loaded(model: BiRefNet, path: Path) -> BiRefNet:
    """Load the file as any program would; only parts of a user's own cannot be built from it."""
    if not model.config.custom:
        return BiRefNet.load(path)
    loaded = copy.deepcopy(model).float()
    loaded.load_weights(path)
    return loaded
