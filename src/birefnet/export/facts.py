"""What every exported file says of itself, and what is asked of its name and size before any work."""

import json
from pathlib import Path
from typing import Any

from birefnet.engines.metadata import OUTPUT
from birefnet.errors import OutputError
from birefnet.export.traceable import MOST_CELLS
from birefnet.model import BiRefNet
from birefnet.model.decoder import GRID


def facts_of(model: BiRefNet, precision: str, *, cells: int = 1, **more: Any) -> str:
    """Metadata of a file, as JSON.

    Args:
        model: what it was made of.
        precision: what its arithmetic is in: "float32", "float16" or "int8".
        cells: least height and width that the file takes, in multiples of the grid.
        more: further entries.
    """
    return json.dumps(
        {
            "input_spec": model.input_spec.to_dict(),
            "config": model.config.to_dict(),
            "output": OUTPUT,
            "precision": precision,
            "grid": model.grid,
            "least": [least_of(model, cells)] * 2,
            **more,
        }
    )


def least_of(model: BiRefNet, cells: int = 1) -> int:
    """The smallest height and width that a file takes, in pixels.

    Args:
        model: what the file is made of.
        cells: the least that the format takes, in multiples of the grid.
    """
    return max(model.least_side, cells * model.grid)


def check_target(model: BiRefNet, path: Path, suffix: str, *, cells: int = 1) -> None:
    """Refuse a file's name that no program would read it by, and a size of the model that the file could not take.

    Args:
        model: what the file is made of.
        path: of the file.
        suffix: what the name has to end in; programs tell a format by it, in small letters.
        cells: least height and width that the format takes, in multiples of the grid.

    Raises:
        OutputError: either is the case.
    """
    if path.suffix != suffix:
        raise OutputError(f"{path}: a file of this format ends in {suffix}: choose such a name")
    grid, least, most = model.grid, least_of(model, cells), GRID * MOST_CELLS
    for side in model.input_spec.size:
        if side % grid or not least <= side <= most:
            raise OutputError(
                f"{path}: the file would not take its own size {' x '.join(map(str, model.input_spec.size))}: "
                f"choose multiples of {grid} from {least} to {most} (--size)"
            )
