"""Networks to measure without any download: drawn weights that make the arithmetic do what trained ones make it do."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birefnet.backbones import BACKBONES
from birefnet.config import InputSpec, ModelConfig, unknown_name
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d
from birefnet.zoo import ZOO, find

OFFSET_STD = 2.0
"""Standard deviation of the deformable convolutions' offsets, in pixels of their map: about what trained ones show."""

LOGIT_STD = 3.0
"""Standard deviation of the logits: decided here, undecided there."""

_SIDE = 256
_SPREAD = 0.1


def random_network(name: str, seed: int = 0) -> BiRefNet:
    """Build a network with drawn weights, the same for the same seed, in evaluation mode.

    A fresh network has no offsets in its deformable convolutions and batch norms that change nothing, so that it would
    read memory in other patterns than a trained one, and merging its parts would prove nothing. Here offsets are
    spread by `OFFSET_STD` and logits by `LOGIT_STD` on a drawing with the spectrum of a photo, and batch norms change
    all that passes.

    Args:
        name: of a backbone, for the network that the reference builds around it, or of a published model.
        seed: of all that is drawn.

    Raises:
        ConfigError: there is no such backbone or model; the message lists those that exist.
    """
    known = find(name)
    if name not in BACKBONES and known is None:
        raise unknown_name("backbone or model", name, [*BACKBONES, *ZOO])
    config = ModelConfig(backbone=name if known is None else known.backbone)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BiRefNet.from_config(config, InputSpec() if known is None else known.input_spec).eval()
        handles = []
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                _fill_norm(module)
            elif isinstance(module, ModulatedDeformConv2d):
                handles.append(module.register_forward_pre_hook(_fill_deformable))
        logits = model(_drawing(_SIDE))
        for handle in handles:
            handle.remove()
        head, scale = model.decoder.head, LOGIT_STD / logits.std()
        head.weight *= scale
        assert head.bias is not None
        head.bias.copy_((head.bias - logits.mean()) * scale)
    return model


def _drawing(side: int) -> Tensor:
    """Noise with as much in each octave, as photos have it, normalised.  -> (1, 3, side, side)."""
    image = torch.zeros(1, 3, side, side)
    for octave in range(2, side.bit_length()):
        cells = min(2**octave, side)
        image += F.interpolate(torch.randn(1, 3, cells, cells), size=(side, side), mode="bilinear")
    return (image - image.mean()) / image.std()


def _fill_norm(norm: nn.BatchNorm2d) -> None:
    """Draw weights and statistics around those that change nothing.

    With the statistics of what really passes, each of many layers would amplify what the one before has rounded.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for values, middle in ((norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 0.0), (norm.running_var, 1.0)):
        values.copy_(middle + _SPREAD * torch.randn_like(values))


def _fill_deformable(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Draw what predicts a deformable convolution's offsets and modulation, scaled on the map about to pass."""
    assert isinstance(module, ModulatedDeformConv2d)
    for conv, std in ((module.offset_conv, OFFSET_STD), (module.modulation_conv, 1.0)):
        nn.init.normal_(conv.weight)
        conv.weight.mul_(std / conv(inputs[0]).std())
