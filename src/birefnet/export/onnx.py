"""ONNX files that run at any size and batch, checked against the network they were made of."""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from birefnet._atomic import atomic_path
from birefnet._extras import require
from birefnet.engines.base import Engine
from birefnet.engines.metadata import INPUT, METADATA_KEY, OUTPUT
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.errors import ConfigError, OutputError, WeightsError, first_line
from birefnet.export.decompose import decompose
from birefnet.export.facts import check_target, facts_of
from birefnet.export.traceable import TraceableDeformConv2d, deform_conv2d_op, dynamic_shapes, example, traceable
from birefnet.export.verify import FLOAT_BOUND, HALF_BOUND, ExportReport, compare
from birefnet.model import BiRefNet

OPSET = 18
"""What files are written in where nothing asks for more: ONNX Runtime has it since 1.14."""

DEFORM_OPSET = 19
"""What first has `DeformConv`; ONNX Runtime computes it since 1.25."""

OPSETS = (18, 19, 20, 21, 22, 23)
"""What can be asked for."""

PRECISIONS = ("float32", "float16")

MOST_BYTES = 2**31 - 2**20
"""What fits into one file: Protocol Buffers' own limit is 2 GiB."""


def export_onnx(
    model: BiRefNet,
    path: str | Path,
    *,
    half: bool = False,
    precision: str = "float32",
    decompose_deform: bool = False,
    opset: int | None = None,
    photos: str | Path | None = None,
) -> ExportReport:
    """Write a network as ONNX with dynamic batch, height and width, after comparing it with the original.

    The input `image` is a normalised image (N, 3, H, W), sides multiples of 32; the output `alpha` is (N, 1, H, W),
    both float32. The metadata hold the input's preparation and say what the output is.

    Args:
        model: the network.
        path: where to, ending in `.onnx`.
        half: store the weights as float16, half the size; they are computed with as float32.
        precision: what is computed in, "float32", or "float16" for processors that are made for it.
        decompose_deform: write deformable convolutions as grid sampling and convolutions, for runtimes without the
            operator `DeformConv`.
        opset: version of the operators, by default the least that has all that are needed.
        photos: a folder of photos to compare on, or one photo; see `birefnet.export.verify.compare`.

    Returns:
        What was compared, and the largest difference of alpha.

    Raises:
        ConfigError: no such precision, or the opset lacks an operator.
        OutputError: the network cannot be exported, differs after it, or the file cannot be written.
        MissingExtraError: onnx or onnxscript is not installed.
        InputError: the folder holds no photos.
    """
    path = Path(path)
    check_target(model, path, ".onnx")
    graph, chosen = build_graph(
        model, path, half=half, precision=precision, decompose_deform=decompose_deform, opset=opset
    )
    bound = HALF_BOUND if half or precision == "float16" else FLOAT_BOUND
    needs_operator = any(node.op_type == "DeformConv" for node in graph.graph.node)
    with atomic_path(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        del graph  # a large network need not lie in memory three times while it runs
        comparison = compare(run_file(temporary, path), model, photos=photos)
        comparison.require(bound, path)
    return comparison.report(path, _runtimes(chosen, needs_operator=needs_operator))


def build_graph(
    model: BiRefNet,
    path: Path,
    *,
    half: bool = False,
    precision: str = "float32",
    decompose_deform: bool = False,
    opset: int | None = None,
) -> tuple[Any, int]:
    """Trace a network as an `onnx.ModelProto` with its metadata.

    Args:
        model: the network.
        path: what the file will be called, for messages.
        half: as of `export_onnx`, and so are the others.
        precision: see there.
        decompose_deform: see there.
        opset: see there.

    Returns:
        The graph, and its opset.

    Raises:
        ConfigError: no such precision, or the opset lacks an operator.
        OutputError: the network cannot be exported.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: an ONNX file computes in {' or '.join(PRECISIONS)}")
    for library in ("onnx", "onnxscript"):
        require(library, extra="export")
    from birefnet.export import onnx_graph

    _check_weights(model, path, halved=half or precision == "float16")
    # Weights that are stored as float16 stay the network's own: of a network that was saved so, none is rounded again.
    network = traceable(model, fold=not half)
    deformable = any(isinstance(part, TraceableDeformConv2d) for part in network.modules())
    if decompose_deform:
        decompose(network)
    opset = _choose_opset(opset, needs_operator=deformable and not decompose_deform)
    graph = _trace(network, model, path, opset)
    onnx_graph.strip_notes(graph)
    onnx_graph.merge_bias(graph)
    onnx_graph.fold_transposes(graph)
    if precision == "float16":
        onnx_graph.to_float16(graph)
    elif half:
        onnx_graph.halve_weights(graph)
    graph.metadata_props.add(key=METADATA_KEY, value=facts_of(model, precision, opset=opset))
    return graph, opset


def run_file(temporary: Path, path: Path) -> Engine:
    """Load a file that has not got its name yet.

    Args:
        temporary: where it is.
        path: what it will be called, for the message.

    Raises:
        OutputError: ONNX Runtime does not load it.
    """
    try:
        return OnnxEngine(temporary)
    except WeightsError as error:
        reason = str(error).replace(str(temporary), path.name)
        raise OutputError(f"{path}: not written ({reason}): leave --precision and --opset out") from error


def _runtimes(opset: int, *, needs_operator: bool) -> str:
    """Say which versions of ONNX Runtime run a file, as far as it is known."""
    if needs_operator:
        return f"opset {opset} with DeformConv: runs in ONNX Runtime from 1.25 on"
    if opset == OPSET:
        return f"opset {opset}: runs in ONNX Runtime from 1.14 on"
    return f"opset {opset}: checked in ONNX Runtime {version('onnxruntime')}; older ones may not have it"


def _choose_opset(asked: int | None, *, needs_operator: bool) -> int:
    least = DEFORM_OPSET if needs_operator else OPSET
    if asked is None:
        return least
    if asked not in OPSETS:
        raise ConfigError(f"opset {asked}: choose from {OPSETS[0]} to {OPSETS[-1]}")
    if asked < least:
        raise ConfigError(f"opset {asked} has no DeformConv: choose {least} or more, or decompose it")
    return asked


def weight_bytes(model: BiRefNet) -> int:
    """What the weights take as float32."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def _check_weights(model: BiRefNet, path: Path, *, halved: bool) -> None:
    size = weight_bytes(model) // (2 if halved else 1)
    if size > MOST_BYTES:
        remedy = "choose openvino" if halved else "store them as float16 (--half), or choose openvino"
        raise OutputError(
            f"{path}: the weights take {size / 2**30:.1f} GB, and one ONNX file holds less than 2: {remedy}"
        )


def _trace(network: nn.Module, model: BiRefNet, path: Path, opset: int) -> Any:  # an onnx.ModelProto
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter remarks on itself
            program = torch.onnx.export(
                network,
                example(model),
                dynamo=True,
                dynamic_shapes=dynamic_shapes(model),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                custom_translation_table=_translations(),
            )
        assert program is not None
        return program.model_proto
    except Exception as error:  # whatever the exporter cannot express
        raise OutputError(f"{path}: the network cannot be exported to ONNX ({_cause(error)})") from error
    finally:
        noise.setLevel(level)


def _cause(error: BaseException) -> str:
    """What the exporter stumbled on: its own message is a page about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Say what ONNX has for our own operators."""
    from onnxscript import opset19

    def deformable(x: Any, offset: Any, modulation: Any, weight: Any, padding: int) -> Any:
        return opset19.DeformConv(x, weight, offset, None, modulation, pads=[padding] * 4, strides=[1, 1])

    assert deform_conv2d_op is not None  # which registers what is named below
    return {torch.ops.birefnet.deform_conv2d.default: deformable}
