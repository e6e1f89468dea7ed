"""Exported files that several tests run, made without the exporters under test elsewhere."""

import dataclasses
import functools
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from birefnet.config import InputSpec
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from support import TINY, golden_model

SIZE = 64


@functools.cache
def lively_model(attention: str = "aspp", backbone: str = TINY.backbone) -> BiRefNet:
    """A small network whose alpha takes many values, and whose deformable convolutions look some pixels away."""
    config = dataclasses.replace(TINY, attention=attention, backbone=backbone)
    model = golden_model(config)
    model.input_spec = InputSpec(size=(SIZE, SIZE))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ModulatedDeformConv2d):
                bias = module.offset_conv.bias
                assert bias is not None
                bias.copy_(2 * torch.randn(bias.shape, generator=generator))
        logits = model(torch.randn(1, 3, SIZE, SIZE, generator=generator))
        # Logits from about -4 to 4, so that alpha shows differences in them.
        model.decoder.head.weight.mul_(2 / logits.std())
        model.decoder.head.bias.copy_((model.decoder.head.bias - logits.mean()) * 2 / logits.std())
    return model


def deformable_file(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    """An ONNX file that holds one deformable convolution, of numbers of some kind."""
    sizes = {"x": [1, 1, 4, 4], "w": [1, 1, 1, 1], "o": [1, 2, 4, 4]}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in sizes.items()]
    output = helper.make_tensor_value_info("alpha", kind, [1, 1, 4, 4])
    node = helper.make_node("DeformConv", list(sizes), ["alpha"], kernel_shape=[1, 1])
    graph = helper.make_graph([node], "deformable", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path
