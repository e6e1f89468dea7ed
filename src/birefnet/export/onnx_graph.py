"""What is done to an ONNX graph after it was traced: smaller files, fewer steps, and half precision."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# Which format of file goes with an opset, so that no runtime refuses a file for that alone.
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}

# Sums of many terms and exponentials, which lose most by rounding, and what takes factors of size in float32 only.
_FLOAT32_OPERATORS = ("Softmax", "LayerNormalization", "ReduceMean", "GridSample", "Resize", "Range", "Erf", "Gelu")

_WEIGHTED = ("Conv", "MatMul", "Gemm")


def strip_notes(graph: Any) -> None:
    """Drop the exporter's notes: a tenth of the file, with source lines and paths of the machine it was made on."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.functions[:]
    for item in (*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    graph.ir_version = min(graph.ir_version, _IR_VERSIONS[graph.opset_import[0].version])


def fold_transposes(graph: Any) -> None:
    """Store transposed weights transposed; the exporter leaves those of more than 8192 numbers to each run."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    folded: dict[tuple[str, tuple[int, ...]], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.graph.node:
        if node.op_type != "Transpose" or node.input[0] not in constants:
            kept.append(node)
            continue
        values = numpy_helper.to_array(constants[node.input[0]])
        axes = tuple(node.attribute[0].ints) if node.attribute else tuple(reversed(range(values.ndim)))
        # One copy for all that read it: a backbone reads its weights once for each scale.
        name = folded.setdefault((node.input[0], axes), node.output[0])
        renamed[node.output[0]] = name
        if name == node.output[0]:
            graph.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(values.transpose(axes)), node.output[0])
            )
    for node in kept:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    _replace_nodes(graph, kept)


def merge_bias(graph: Any) -> None:
    """Give deformable convolutions the number that is added to each of their channels: one pass over a map less."""
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
    _drop_unread(graph)


def halve_weights(graph: Any) -> None:
    """Store weights as float16 and cast them where they are used; the runtime does so once, when it loads the file.

    What has one number a channel stays: it takes no room, and what is computed from a norm is in no half precision.
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) == max(tensor.dims, default=1):
            continue
        name = tensor.name
        tensor.CopyFrom(_halved(tensor, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    _replace_nodes(graph, [*casts, *graph.graph.node])


def to_float16(graph: Any) -> None:
    """Compute in float16 but for sums, exponentials and the positions of samples; input and output stay float32.

    Nodes without a float input (ranges, constants, casts of whole numbers) give what they gave, and every float is cast
    where a reader wants it otherwise.
    """
    floats = set(_float_names(graph))
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    exact = _position_outputs(graph)
    halves: set[str] = set()
    other: dict[str, str] = {}  # a name -> that of the same numbers in the other precision
    nodes: list[Any] = []

    def given(name: str, half: bool) -> str:
        if (name in halves) == half:
            return name
        if name not in other:
            other[name] = f"{name}.{'float16' if half else 'float32'}"
            if name in weights:
                graph.graph.initializer.append(_halved(weights[name], other[name]))
            else:
                kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [other[name]], to=kind))
        return other[name]

    for node in graph.graph.node:
        taken = [index for index, name in enumerate(node.input) if name in floats]
        if taken and node.op_type != "Cast":  # a cast takes everything, and says what it gives
            half = node.op_type not in _FLOAT32_OPERATORS and node.output[0] not in exact
            for index in taken:
                node.input[index] = given(node.input[index], half)
            if half:
                halves.update(name for name in node.output if name in floats)
        nodes.append(node)
    for result in graph.graph.output:
        if result.name in halves:
            _rename(nodes, result.name, f"{result.name}.float16")
            nodes.append(helper.make_node("Cast", [f"{result.name}.float16"], [result.name], to=TensorProto.FLOAT))
    _replace_nodes(graph, nodes)


def _float_names(graph: Any) -> Iterator[str]:
    """Names of everything that is float32."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            yield value.name
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor.name


def _position_outputs(graph: Any) -> set[str]:
    """First outputs of the nodes that work out where `GridSample` reads, from the convolution on that predicts it.

    Of a map of 1024 pixels float16 could not tell half pixels apart.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    left = [node.input[1] for node in graph.graph.node if node.op_type == "GridSample"]
    found: set[str] = set()
    while left:
        node = makers.get(left.pop())
        if node is not None and node.op_type not in _WEIGHTED and node.output[0] not in found:
            found.add(node.output[0])
            left += node.input
    return found


def _halved(tensor: Any, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers too great for float16, which the comparison judges
        values: NDArray[np.float16] = numpy_helper.to_array(tensor).astype(np.float16)
    return numpy_helper.from_array(values, name)


def _rename(nodes: list[Any], name: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for index, other in enumerate(names):
                if other == name:
                    names[index] = new


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)
    _drop_unread(graph)
    onnx.checker.check_model(graph)


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in read]:
        graph.graph.initializer.remove(tensor)
