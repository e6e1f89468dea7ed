"""ONNX files that run at any size and batch, checked against the network they were made of."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from birefnet._atomic import atomic_path
from birefnet._extras import require
from birefnet.engines.metadata import INPUT, METADATA_KEY, OUTPUT
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.errors import ConfigError, OutputError, first_line
from birefnet.export.decompose import decompose
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

# Which format of file goes with an opset, so that no runtime refuses a file for that alone.
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


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
    if path.suffix.lower() != ".onnx":
        raise OutputError(f"{path}: an ONNX file ends in .onnx: choose such a name")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: an ONNX file computes in {' or '.join(PRECISIONS)}")
    for library in ("onnx", "onnxscript"):
        require(library, extra="export")
    _check_size(model, path, halved=half or precision == "float16")
    network = traceable(model)
    deformable = any(isinstance(part, TraceableDeformConv2d) for part in network.modules())
    if decompose_deform:
        decompose(network)
    opset = _choose_opset(opset, needs_operator=deformable and not decompose_deform)
    graph = _trace(network, model, opset)
    _strip_notes(graph)
    _merge_bias(graph)
    if precision == "float16":
        graph = _to_float16(graph)
    elif half:
        _halve_weights(graph)
    facts = {
        "input_spec": model.input_spec.to_dict(),
        "config": model.config.to_dict(),
        "output": OUTPUT,
        "precision": precision,
        "opset": opset,
    }
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(facts))
    bound = HALF_BOUND if half or precision == "float16" else FLOAT_BOUND
    with atomic_path(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        del graph, network  # a large network need not lie in memory three times while it runs
        comparison = compare(OnnxEngine(temporary), model, photos=photos)
        comparison.require(bound, path)
    runtime = "1.25" if deformable and not decompose_deform else "1.18" if opset > OPSET else "1.14"
    return comparison.report(path, f"opset {opset}: runs in ONNX Runtime from {runtime} on")


def _choose_opset(asked: int | None, *, needs_operator: bool) -> int:
    least = DEFORM_OPSET if needs_operator else OPSET
    if asked is None:
        return least
    if asked not in OPSETS:
        raise ConfigError(f"opset {asked}: choose from {OPSETS[0]} to {OPSETS[-1]}")
    if asked < least:
        raise ConfigError(f"opset {asked} has no DeformConv: choose {least} or more, or decompose it")
    return asked


def _check_size(model: BiRefNet, path: Path, *, halved: bool) -> None:
    size = sum(parameter.numel() for parameter in model.parameters()) * (2 if halved else 4)
    if size > MOST_BYTES:
        remedy = "choose openvino" if halved else "store them as float16 (--half), or choose openvino"
        raise OutputError(
            f"{path}: the weights take {size / 2**30:.1f} GB, and one ONNX file holds less than 2: {remedy}"
        )


def _trace(network: nn.Module, model: BiRefNet, opset: int) -> Any:  # an onnx.ModelProto
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
        raise OutputError(f"the network cannot be exported to ONNX ({_cause(error)})") from error
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


# --- what is done to the graph ---


def _strip_notes(graph: Any) -> None:
    """Drop the exporter's notes: a tenth of the file, with source lines and paths of the machine it was made on."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.functions[:]
    for item in (*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    graph.ir_version = min(graph.ir_version, _IR_VERSIONS[graph.opset_import[0].version])


def _merge_bias(graph: Any) -> None:
    """Give deformable convolutions the number that is added to each of their channels: one pass over a map less."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in [node for node in graph.graph.node if node.op_type == "DeformConv"]:
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != "Add":
            continue
        add = following[0]
        names = [name for name in add.input if name in constants]
        if len(names) != 1:
            continue
        bias = numpy_helper.to_array(constants[names[0]])
        if bias.shape != (len(bias), 1, 1):
            continue
        # A constant of its own, as several additions may share one.
        node.input[3] = f"{node.output[0]}.bias"
        graph.graph.initializer.append(numpy_helper.from_array(bias.reshape(-1).copy(), node.input[3]))
        node.output[0] = add.output[0]
        graph.graph.node.remove(add)
    read = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in read]:
        graph.graph.initializer.remove(tensor)


def _halve_weights(graph: Any) -> None:
    """Store weights as float16 and cast them where they are used; the runtime does so once, when it loads the file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 64:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.graph.node.insert(0, cast)
    onnx.checker.check_model(graph)


# Sums of many terms and exponentials, which lose most by rounding, and positions, of which float16 could not tell the
# pixels of a large map apart.
_FLOAT32_OPERATORS = ("Softmax", "LayerNormalization", "ReduceMean", "GridSample", "Resize", "Range", "Erf", "Gelu")


def _to_float16(graph: Any) -> Any:
    """Compute in float16 but for sums and positions; input and output stay float32."""
    from onnxruntime.transformers import float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights too small for float16, which the comparison judges
        return float16.convert_float_to_float16(
            graph,
            keep_io_types=True,
            disable_shape_infer=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPERATORS],
        )
