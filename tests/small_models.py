"""The smallest network with a deformable convolution, for tests of exporters: tracing takes time by the operator."""

import functools

import torch

from birefnet.config import InputSpec, ModelConfig
from birefnet.model import BiRefNet

SMALL = ModelConfig(
    backbone="mobilenet_v4_s",
    attention="none",
    squeeze="deformable",
    context_levels=0,
    decoder_channels=8,
    attention_channels=8,
    inward="none",
    scale_fusion="none",
    outward=False,
    side_supervision=False,
)


@functools.cache
def small_model() -> BiRefNet:
    """A network whose alpha takes many values, and whose deformable convolutions look some pixels away."""
    torch.manual_seed(0)
    network = BiRefNet(SMALL, InputSpec(size=(64, 64))).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "offset_conv.bias" in name:
                parameter.normal_(0, 2)
        logits = network(torch.randn(1, 3, 64, 64))
        network.decoder.head.weight.mul_(2 / logits.std())
        network.decoder.head.bias.copy_((network.decoder.head.bias - logits.mean()) * 2 / logits.std())
    return network
