"""Static quantisation for OpenVINO, by NNCF."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from birefnet.engines.base import Engine
from birefnet.engines.metadata import INPUT
from birefnet.engines.openvino_engine import OpenVinoEngine
from birefnet.engines.openvino_library import openvino_core, openvino_library
from birefnet.export.openvino import add_facts, convert, save_graph
from birefnet.export.sensitivity import Sensitivity, fingerprint
from birefnet.model import BiRefNet

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
"""Operators of OpenVINO with weights that NNCF quantises."""


class OpenVinoQuantiser:
    """Writes int8 files of a network for OpenVINO, a scale for each output channel.

    Args:
        model: the network.
        folder: for files on the way.

    Attributes:
        plain: the file of the network in float32.
    """

    def __init__(self, model: BiRefNet, folder: Path) -> None:
        self.plain = folder / "float32.xml"
        self._model = model
        self._images: Sequence[NDArray[np.float32]] = ()
        graph = convert(model)
        add_facts(graph, model, "float32")
        save_graph(graph, self.plain)

    def calibrate(self, images: Sequence[NDArray[np.float32]]) -> None:
        """Keep prepared photos, (1, 3, H, W) each: NNCF takes ranges and quantises in one go."""
        self._images = images

    def write(self, target: Path, kept: Sequence[Sensitivity]) -> int:
        """Write a file in which all but the given layers are quantised; return how many have weights of 8 bits."""
        nncf = openvino_library("nncf")
        graph = openvino_core().read_model(self.plain)
        attends = any(node.get_type_name() in ("Softmax", "ScaledDotProductAttention") for node in graph.get_ops())
        with _quiet():
            quantised = nncf.quantize(
                graph,
                nncf.Dataset(self._images, lambda image: {INPUT: image}),
                # Activations without a sign get the whole range, others are symmetric.
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if attends else None,
                ignored_scope=nncf.IgnoredScope(names=excluded_nodes(graph, kept), validate=False),
                subset_size=len(self._images),
            )
        add_facts(quantised, self._model, "int8")
        save_graph(quantised, target)
        return count_quantised(quantised)

    def engine(self, path: Path, threads: int | None = None) -> Engine:
        """Run a file, what is not int8 in float32."""
        return OpenVinoEngine(path, threads=threads, precision="float32")


def excluded_nodes(graph: Any, kept: Sequence[Sensitivity]) -> list[str]:
    """Names of the nodes of an `openvino.Model` that the kept layers have become."""
    wanted = {layer.fingerprint for layer in kept}
    names = []
    for node in graph.get_ops():
        if node.get_type_name() not in WEIGHTED:
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() == "Constant" and fingerprint(source.get_data()) in wanted:
            names.append(node.get_friendly_name())
    return names


def count_quantised(graph: Any) -> int:
    """How many weights of layers are 8-bit whole numbers; weights that are there twice count once."""
    whole = openvino_library().Type.i8
    weights = (
        node.get_data()
        for node in graph.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == whole and len(node.get_output_shape(0)) > 1
    )
    return len({(weight.shape, weight.tobytes()) for weight in weights})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and remarks of the tools about themselves from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
