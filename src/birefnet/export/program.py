"""Programs of `torch.export`, which run in PyTorch without this package, and compiled packages of them."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from birefnet._atomic import atomic_path
from birefnet.engines.metadata import METADATA_KEY
from birefnet.errors import OutputError, first_line
from birefnet.export.decompose import decompose
from birefnet.export.facts import check_target, facts_of
from birefnet.export.traceable import dynamic_shapes, example, traceable
from birefnet.export.verify import FLOAT_BOUND, ExportReport, compare, shapes_for
from birefnet.model import BiRefNet

FACTS_FILE = f"{METADATA_KEY}.json"
"""Name of the metadata within a program's file: what `torch.export.load` fills in as one of its `extra_files`."""

LEAST_CELLS = 4
"""Least height and width, in multiples of the grid: a traced program asks that no side of a map be 1, at any scale."""


def export_program(
    model: BiRefNet, path: str | Path, *, aot: bool = False, photos: str | Path | None = None
) -> ExportReport:
    """Write a network as a program of `torch.export` of any batch, height and width, after comparing it.

    It maps a normalised image (N, 3, H, W) float32, sides multiples of 32 from 128 on, to alpha. Deformable
    convolutions are decomposed, so that the file holds operators of PyTorch alone:

        torch.export.load(path).module()(image)

    Args:
        model: the network.
        path: where to, ending in `.pt2`.
        aot: compile it for this machine's CPU by AOTInductor into a package, which
            `torch._inductor.aoti_load_package` loads without tracing or compiling anything. Needs a C++ compiler.
        photos: a folder of photos to compare on, or one photo; see `birefnet.export.verify.compare`.

    Returns:
        What was compared, and the largest difference of alpha, of the file loaded anew.

    Raises:
        OutputError: the network cannot be traced or compiled, differs after it, or the file cannot be written.
        InputError: the folder holds no photos.
    """
    path = Path(path)
    check_target(model, path, ".pt2", cells=LEAST_CELLS)
    if aot and _compiler() is None:
        raise OutputError(f"{path}: compiling needs a C++ compiler, and none is here: install g++, or leave --aot out")
    program = trace(model)
    facts = facts_of(model, "float32", cells=LEAST_CELLS)
    with atomic_path(path) as temporary:
        if aot:
            _compile(program, (temporary, path), facts)
        else:
            torch.export.save(program, temporary, extra_files={FACTS_FILE: facts})
        del program
        shapes = shapes_for(model, LEAST_CELLS)
        comparison = compare(ProgramEngine(temporary, aot=aot), model, photos=photos, shapes=shapes)
        comparison.require(FLOAT_BOUND, path)
    how = "torch._inductor.aoti_load_package, on a CPU like this one" if aot else "torch.export.load"
    return comparison.report(path, f"PyTorch {torch.__version__.partition('+')[0]} or later loads it: {how}")


def trace(model: BiRefNet) -> torch.export.ExportedProgram:
    """Trace a network with dynamic batch, height and width, out of operators of PyTorch alone.

    Raises:
        OutputError: it cannot be traced.
    """
    network = traceable(model)
    decompose(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter remarks on itself
            return torch.export.export(network, example(model), dynamic_shapes=dynamic_shapes(model, LEAST_CELLS))
    except Exception as error:  # whatever the exporter cannot express
        raise OutputError(f"the network cannot be traced by torch.export ({first_line(error)})") from error


class ProgramEngine:
    """Runs a program's file as any program would: it is loaded anew, without classes of this package.

    Args:
        path: the file.
        aot: whether it is a compiled package.
    """

    precision = "float32"

    def __init__(self, path: Path, *, aot: bool = False) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the loader remarks on itself
            self._run: Any = torch._inductor.aoti_load_package(str(path)) if aot else torch.export.load(path).module()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1]."""
        alpha: Tensor = self._run(torch.from_numpy(images))
        return alpha.numpy()


def _compile(program: torch.export.ExportedProgram, target: tuple[Path, Path], facts: str) -> None:
    """Compile into a file.

    Args:
        program: what to compile.
        target: where to, and what the file will be called.
        facts: its metadata.
    """
    temporary, path = target
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler remarks on itself
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(temporary), inductor_configs={"aot_inductor.metadata": {METADATA_KEY: facts}}
            )
    except Exception as error:  # whatever the compiler cannot express
        raise OutputError(f"{path}: the network cannot be compiled ({first_line(error)}): leave --aot out") from error


def _compiler() -> str | None:
    """The C++ compiler that PyTorch would use, None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
