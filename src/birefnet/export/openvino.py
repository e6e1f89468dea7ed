"""OpenVINO files that run at any size and batch, checked against the network they were made of."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from birefnet._atomic import atomic_path
from birefnet.engines.base import Engine
from birefnet.engines.metadata import INPUT, METADATA_KEY, OUTPUT
from birefnet.engines.openvino_library import openvino_library
from birefnet.errors import OutputError, first_line
from birefnet.export.checks import check_weights_place
from birefnet.export.facts import check_target, facts_of
from birefnet.export.traceable import OPERATOR, example, traceable
from birefnet.export.verify import FLOAT_BOUND, HALF_BOUND, ExportReport, compare
from birefnet.model import BiRefNet


def export_openvino(
    model: BiRefNet, path: str | Path, *, half: bool = False, photos: str | Path | None = None
) -> ExportReport:
    """Write a network as an OpenVINO file with dynamic batch, height and width, after comparing it with the original.

    The input `image` is a normalised image (N, 3, H, W), sides multiples of 32; the output `alpha` is (N, 1, H, W).
    Deformable convolutions become DeformableConvolution-8 of OpenVINO's own operators.

    Args:
        model: the network.
        path: where to, ending in `.xml`; the weights go beside it, ending in `.bin`.
        half: store the weights as float16, half the size; what they are computed in is the engine's choice.
        photos: a folder of photos to compare on, or one photo; see `birefnet.export.verify.compare`.

    Returns:
        What was compared, and the largest difference of alpha, both computing in float32.

    Raises:
        OutputError: the network cannot be converted, differs after it, or the files cannot be written.
        MissingExtraError: openvino is not installed.
        InputError: the folder holds no photos.
    """
    path = Path(path)
    check_target(model, path, ".xml")
    check_weights_place(path)
    graph = convert(model)
    add_facts(graph, model, "float32", weights="float16" if half else "float32")
    bound = HALF_BOUND if half else FLOAT_BOUND
    notes = (f"the weights are in {path.with_suffix('.bin').name}, which has to stay beside it",)
    with moved_together(path) as temporary:
        save_graph(graph, temporary, half=half)
        comparison = compare(run_file(temporary), model, photos=photos)
        comparison.require(bound, path)
    return comparison.report(path, *notes)


def convert(model: BiRefNet) -> Any:
    """Turn a network into an `openvino.Model` without metadata, float32, of any batch, height and width.

    Raises:
        OutputError: OpenVINO cannot express the network.
        MissingExtraError: openvino is not installed.
    """
    openvino = openvino_library()
    from openvino.frontend.pytorch import ConversionExtension

    network = traceable(model)
    try:
        with torch.no_grad(), _quiet():
            # Traced, not torch.export: what that proves about sizes takes minutes for windows of a dynamic map.
            program = torch.jit.trace(network, example(model), check_trace=False)
            graph = openvino.convert_model(program, extension=[ConversionExtension(OPERATOR, _deformable)])
            graph.inputs[0].get_tensor().set_names({INPUT})
            graph.outputs[0].get_tensor().set_names({OUTPUT})
            graph.reshape([-1, 3, -1, -1])
    except Exception as error:  # whatever the converter cannot express
        raise OutputError(f"the network cannot be converted to OpenVINO ({first_line(error)})") from error
    return graph


def add_facts(graph: Any, model: BiRefNet, precision: str, **more: Any) -> None:
    """Write into an `openvino.Model` what its engine wants to know.

    Args:
        graph: the model.
        model: what it was made of.
        precision: what its arithmetic is in, "float32" or "int8".
        more: further entries.
    """
    graph.set_rt_info(facts_of(model, precision, **more), [METADATA_KEY])


def run_file(path: Path) -> Engine:
    """Run a file in float32, whatever this CPU likes best: what is compared is the file, not the machine."""
    from birefnet.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(path, precision="float32")


@contextmanager
def moved_together(path: Path) -> Iterator[Path]:
    """Give a temporary path for an OpenVINO file and its weights; on success both are moved to `path`, else removed.

    Where the second cannot be moved, the first is put back. Two renames follow each other at once, with nothing between
    them: only a process that is killed there leaves new weights beside the older file.

    Raises:
        OutputError: the operating system refused to write.
    """
    weights = path.with_suffix(".bin")
    moving = None  # what the file is known by, once renaming has begun
    beside = older = path
    try:
        with atomic_path(path) as temporary:
            # OpenVINO itself names the weights after the file that describes them.
            beside, older = temporary.with_suffix(".bin"), temporary.with_suffix(".older")
            yield temporary
            check_weights_place(path)  # what was there at the start may not be what is there now
            if weights.exists():
                shutil.copy2(weights, older)
            moving = temporary.stat()
            beside.replace(weights)
    except BaseException:  # Ctrl-C too
        arrived = moving is not None and path.exists() and os.path.samestat(moving, path.stat())
        if moving is not None and not arrived and not beside.exists():
            if older.exists():
                older.replace(weights)
            else:
                weights.unlink()
        raise
    finally:
        for place in {beside, older} - {path}:
            place.unlink(missing_ok=True)


def save_graph(graph: Any, path: Path, *, half: bool = False) -> None:
    """Write an `openvino.Model`.

    Args:
        graph: the model.
        path: where to, ending in `.xml`.
        half: store the weights as float16.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        openvino_library().save_model(graph, path, compress_to_fp16=half)
    except RuntimeError as error:
        raise OutputError(f"{path}: cannot be written ({first_line(error)})") from error


def _deformable(context: Any) -> Any:
    """Make OpenVINO's own operator of ours: x, offset, modulation, weight, padding -> (B, O, H, W).

    Both list the offsets tap by tap, y before x, and take a map to be zero outside: `bilinear_interpolation_pad` lets a
    position between the border and one pixel outside fade to zero, where OpenVINO would cut it off.
    """
    from openvino import opset8

    x, offset, modulation, weight = (context.get_input(index) for index in range(4))
    padding = context.get_values_from_const_input(4)
    node = opset8.deformable_convolution(
        x,
        offset,
        weight,
        strides=[1, 1],
        pads_begin=[padding, padding],
        pads_end=[padding, padding],
        dilations=[1, 1],
        mask=modulation,
        bilinear_interpolation_pad=True,
    )
    return node.outputs()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of tracer and converter, about themselves, from the user."""
    noise = logging.getLogger("openvino")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noise.setLevel(level)
