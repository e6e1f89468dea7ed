"""Which network does a state dict belong to? Its keys and shapes tell."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from birefnet.backbones import BACKBONES, build_backbone
from birefnet.config import ModelConfig
from birefnet.errors import ConfigError, WeightsError
from birefnet.weights.files import shown
from birefnet.weights.keys import KeyMap

# Where the widths of a configuration show, by the reference's names: any one tensor's first dimension.
_WIDTHS = {
    "decoder_channels": "squeeze_module.0.conv_in.weight",
    "attention_channels": "squeeze_module.0.dec_att.aspp1.bn.weight",
    "inward_channels": "decoder.ipt_blk1.conv1.weight",
    "gradient_channels": "decoder.gdt_convs_4.0.weight",
}


def infer_config(path: Path, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """Find the configuration of a state dict that comes without one.

    Args:
        path: the file, for the message.
        tensors: the state dict with the reference's key names, without wrapper prefixes.

    Raises:
        WeightsError: the keys belong to no network that can be built here.
    """
    name, share = max(((name, _overlap(name, tensors)) for name in BACKBONES), key=lambda pair: pair[1])
    # Half, so that a file with a few keys missing is still recognised and its gaps can be named.
    if share < 0.5:
        first = shown(next(iter(tensors), "none"))
        raise WeightsError(
            f"{path}: not the weights of a BiRefNet: its {len(tensors)} keys (such as {first}) fit none of the "
            f"backbones {', '.join(BACKBONES)}"
        )
    defaults = ModelConfig()
    widths = {
        field: tensors[key].shape[0] if key in tensors and tensors[key].ndim else getattr(defaults, field)
        for field, key in _WIDTHS.items()
    }
    deformable = any(".aspp_deforms." in key for key in tensors)
    try:
        return ModelConfig(backbone=name, attention="deformable" if deformable else "dilated", **widths)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _overlap(backbone: str, tensors: Mapping[str, Tensor]) -> float:
    """Share of keys, among those of the file's backbone and this one, that both hold in the same shape."""
    keys = KeyMap(ModelConfig(backbone=backbone))
    with torch.device("meta"):
        state = build_backbone(backbone).state_dict()
    known = {keys.to_reference(f"encoder.backbone.{key}"): tensor.shape for key, tensor in state.items()}
    found = {key: tensor.shape for key, tensor in tensors.items() if key.startswith("bb.")}
    return len(known.items() & found.items()) / len(known.keys() | found.keys())
