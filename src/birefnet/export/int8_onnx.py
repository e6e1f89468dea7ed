"""Static quantisation for ONNX Runtime, by its own tools."""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import quantization

from birefnet._processors import cpu_instructions
from birefnet.engines.base import Engine
from birefnet.engines.metadata import INPUT, METADATA_KEY
from birefnet.engines.onnx_engine import OnnxEngine
from birefnet.errors import OutputError
from birefnet.export.onnx import MOST_BYTES, build_graph, weight_bytes
from birefnet.export.sensitivity import Sensitivity, fingerprint
from birefnet.model import BiRefNet

WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Operators with weights: where nearly all of the time goes."""

BETWEEN = ("Add", "Concat", "Resize", "Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Slice", "Split")
"""Operators between them that would otherwise turn whole numbers into floats and back."""


class OnnxQuantiser:
    """Writes int8 files of a network for ONNX Runtime: U8S8, a scale for each output channel, as pairs of Q and DQ.

    Products of two activations, as in attention, stay in float32: there are no weights to save, and a softmax is the
    last to be rounded.

    Args:
        model: the network.
        folder: for files on the way.
        path: what the file will be called, for messages.

    Attributes:
        plain: the file of the network in float32.
    """

    def __init__(self, model: BiRefNet, folder: Path, path: Path) -> None:
        self.plain = folder / "float32.onnx"
        self._inferred = folder / "inferred.onnx"
        self._augmented = folder / "augmented.onnx"
        if (size := weight_bytes(model)) > MOST_BYTES:  # ranges are taken from a file with float32 weights
            raise OutputError(
                f"{path}: the weights take {size / 2**30:.1f} GB, and one ONNX file holds less than 2: choose openvino"
            )
        graph, _ = build_graph(model, path)
        self.plain.write_bytes(graph.SerializeToString())
        onnx.shape_inference.infer_shapes_path(str(self.plain), str(self._inferred))
        self._ranges: Any = None

    def calibrate(self, images: Sequence[NDArray[np.float32]]) -> None:
        """Take the ranges of activations from prepared photos, (1, 3, H, W) each."""
        with _quiet():
            calibrator = quantization.create_calibrator(
                self._inferred, [*WEIGHTED, *BETWEEN], augmented_model_path=str(self._augmented)
            )
            calibrator.collect_data(_Reader(images))
            self._ranges = calibrator.compute_data()

    def write(self, target: Path, kept: Sequence[Sensitivity]) -> int:
        """Write a file in which all but the given layers are quantised; return how many have weights of 8 bits."""
        graph = onnx.load(self._inferred)
        with _quiet():
            quantizer = quantization.QDQQuantizer(
                graph,
                per_channel=True,
                # Without VNNI, two products are added in 16 bits: full weights would overflow there.
                reduce_range=not {"VNNI", "AMX-INT8", "NEON"}.intersection(cpu_instructions()),
                weight_qType=quantization.QuantType.QInt8,
                activation_qType=quantization.QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=excluded_nodes(graph, kept),
                op_types_to_quantize=[*WEIGHTED, *BETWEEN],
                extra_options={},
            )
            quantizer.quantize_model()
        quantised = quantizer.model.model
        del quantised.graph.value_info[:]
        for entry in quantised.metadata_props:
            if entry.key == METADATA_KEY:
                entry.value = json.dumps({**json.loads(entry.value), "precision": "int8"})
        target.write_bytes(quantised.SerializeToString())
        return count_quantised(quantised)

    def engine(self, path: Path, threads: int | None = None) -> Engine:
        """Run a file, what is not int8 in float32."""
        return OnnxEngine(path, threads=threads)


def excluded_nodes(graph: onnx.ModelProto, kept: Sequence[Sensitivity]) -> list[str]:
    """Names of the nodes that stay in float32: those of the kept layers, and products of two activations."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    wanted = {layer.fingerprint for layer in kept}
    names = []
    for node in graph.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        own = [weights[name] for name in node.input[:2] if name in weights]
        if not own or fingerprint(numpy_helper.to_array(own[0])) in wanted:
            names.append(node.name)
    return names


def count_quantised(graph: onnx.ModelProto) -> int:
    """How many weights of layers are 8-bit whole numbers; weights with several readers count once."""
    whole = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    given = {
        node.output[0]: node.input[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in whole
    }
    return len(
        {
            given[name]
            for node in graph.graph.node
            if node.op_type in WEIGHTED
            for name in node.input[:2]
            if name in given
        }
    )


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Hands out photos one by one."""

    def __init__(self, images: Sequence[NDArray[np.float32]]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next photo, None after the last."""
        image = next(self._left, None)
        return None if image is None else {INPUT: image}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' remarks about themselves from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
