"""ONNX files that run at any size and batch, checked against the network they were made of."""

import io
import json
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from birefnet._atomic import atomic_path
from birefnet._extras import require
from birefnet.engines.onnx_engine import INPUT, METADATA_KEY, OUTPUT, OnnxEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.errors import OutputError, first_line
from birefnet.model import BiRefNet
from birefnet.model.decoder import GRID

OPSET = 18
TOLERANCE = 1e-4
# What a mask may differ by when the weights in the file are rounded to float16: an eighth of a level of 8 bits.
HALF_TOLERANCE = 5e-4


class _Alpha(nn.Module):
    """The network with the sigmoid inside, so that nobody has to know what the output means."""

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        alpha: Tensor = self.model(image).sigmoid()
        return alpha


def export_onnx(model: BiRefNet, path: str | Path, *, half: bool = False) -> float:
    """Write a network as ONNX with dynamic batch, height and width, after comparing it with the original.

    The input is a normalised image (N, 3, H, W), sides multiples of 32; the output is alpha (N, 1, H, W). The metadata
    hold the input's preparation and say what the output is.

    Args:
        model: the network; no deformable attention, as deformable convolution has no exporter yet.
        path: where to, ending in `.onnx`.
        half: store the weights as float16, half the size; they are computed with as float32.

    Returns:
        The largest difference of alpha from the network's, seen at several sizes and batches.

    Raises:
        OutputError: the network cannot be exported, differs after it, or the file cannot be written.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    path = Path(path)
    for library in ("onnx", "onnxscript"):
        require(library, extra="export")
    if "deformable" in (model.config.attention, model.config.squeeze):
        raise OutputError(f"{path}: deformable attention cannot be exported to ONNX yet")
    graph = _trace(model)
    _strip_notes(graph)
    if half:
        _halve_weights(graph)
    facts = {"input_spec": model.input_spec.to_dict(), "config": model.config.to_dict(), "output": "alpha"}
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(facts))
    with atomic_path(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        difference = _compare(model, temporary)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        if difference > tolerance:
            raise OutputError(f"{path}: not written, its masks differ by {difference:.2g}, more than {tolerance:g}")
    return difference


def _trace(model: BiRefNet):  # type: ignore[no-untyped-def]  # an onnx.ModelProto
    batch = torch.export.Dim("batch")
    height, width = (GRID * torch.export.Dim(name, min=1, max=256) for name in ("rows", "columns"))
    was_training, noise = model.training, logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter remarks on itself
            program = torch.onnx.export(
                _Alpha(model.eval()).eval(),
                # No two sizes alike, lest the exporter take them for one.
                (torch.zeros(2, 3, 4 * GRID, 5 * GRID),),
                dynamo=True,
                dynamic_shapes=({0: batch, 2: height, 3: width},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
            )
        assert program is not None
        return program.model_proto
    except Exception as error:  # whatever the exporter cannot express
        raise OutputError(f"the network cannot be exported ({first_line(error)})") from error
    finally:
        model.train(was_training)
        noise.setLevel(level)


def _strip_notes(graph) -> None:  # type: ignore[no-untyped-def]  # an onnx.ModelProto
    """Drop the exporter's notes: a tenth of the file, with source lines and paths of the machine it was made on."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    for item in (*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _halve_weights(graph) -> None:  # type: ignore[no-untyped-def]  # an onnx.ModelProto
    """Store weights as float16 and cast them where they are used; the runtime does so once, when it loads the file."""
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


def _compare(model: BiRefNet, path: Path) -> float:
    """Largest difference of alpha between the file in ONNX Runtime and the network."""
    engine, original = OnnxEngine(path), TorchEngine(model)
    random = np.random.default_rng(0)
    height, width = model.input_spec.size
    shapes = ((1, height, width), (3, 2 * GRID, 4 * GRID), (2, 5 * GRID, 2 * GRID))
    differences = []
    for batch, rows, columns in shapes:
        images = random.standard_normal((batch, 3, rows, columns), np.float32)
        differences.append(float(np.abs(engine(images) - original(images)).max()))
    return max(differences)
