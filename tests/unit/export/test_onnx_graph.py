"""Changes of ONNX graphs, on graphs small enough to see through, run by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from birefnet.export.int8_onnx import excluded_nodes
from birefnet.export.onnx_graph import fold_transposes, to_float16

GENERATOR = np.random.default_rng(0)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int]) -> onnx.ModelProto:
    """A graph from `image` to `alpha`."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "alpha")]
    initializers = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(graph: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def linear_graph() -> onnx.ModelProto:
    """Two linear layers of the same weight, each with a transpose of its own, and a product of two activations."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["w1"], perm=[1, 0]),
        helper.make_node("MatMul", ["image", "w1"], ["first"], name="first"),
        helper.make_node("Transpose", ["w"], ["w2"], perm=[1, 0]),
        helper.make_node("MatMul", ["first", "w2"], ["second"], name="second"),
        helper.make_node("MatMul", ["first", "second"], ["alpha"], name="product"),
    ]
    return graph_of(nodes, {"w": GENERATOR.standard_normal((8, 8), np.float32)}, [8, 8])


def test_transposed_weights_are_stored_so_once_and_count_as_layers() -> None:
    graph = linear_graph()
    image = GENERATOR.standard_normal((8, 8), np.float32)
    before = run(graph, image)
    assert excluded_nodes(graph, []) == ["first", "second", "product"]
    fold_transposes(graph)
    assert [node.op_type for node in graph.graph.node] == ["MatMul"] * 3
    assert [tensor.name for tensor in graph.graph.initializer] == ["w1"]
    assert excluded_nodes(graph, []) == ["product"]
    np.testing.assert_array_equal(run(graph, image), before)


def test_float16_keeps_sums_and_positions_exact() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["offset"]),
        helper.make_node("Transpose", ["offset"], ["moved"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["moved", "far"], ["grid"]),
        helper.make_node("GridSample", ["image", "grid"], ["sampled"]),
        helper.make_node("Softmax", ["sampled"], ["soft"], axis=1),
        helper.make_node("Add", ["soft", "image"], ["alpha"]),
    ]
    constants = {"k": GENERATOR.standard_normal((2, 2, 1, 1), np.float32), "far": np.full(1, 0.1, np.float32)}
    graph = graph_of(nodes, constants, [1, 2, 6, 6])
    image = GENERATOR.random((1, 2, 6, 6), np.float32)
    before = run(graph, image)
    to_float16(graph)
    after = run(graph, image)
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 0.01
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    assert types["offset"] == TensorProto.FLOAT16
    assert {types[name] for name in ("grid", "sampled", "soft")} == {TensorProto.FLOAT}
