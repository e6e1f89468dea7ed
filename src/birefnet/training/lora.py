"""Fine-tuning by low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), through peft.

The backbone's weights stay as they are; beside each of its large layers a product of two thin matrices is trained. What
is saved has the products added to the weights: a plain file, which nothing needs to know was trained so.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from birefnet._extras import require
from birefnet.errors import ConfigError
from birefnet.model import BiRefNet

TRAINS = ("decoder", "none")

_ADAPTER = "default"
_BASE = ".base_layer"
_ADAPTER_PARTS = ("lora_A", "lora_B", "lora_dropout", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


@dataclass(frozen=True)
class LoraRecipe:
    """What is adapted, and how much.

    Attributes:
        rank: columns of the thin matrices: what an adapter can learn, and what it costs.
        alpha: strength; the product is scaled by alpha / rank.
        dropout: probability of zeroing an input of an adapter in training.
        targets: path of the module whose layers get adapters; "backbone" for the network's backbone.
        train: "decoder" to train all but the backbone as usual, "none" to train nothing but adapters.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "backbone"
    train: str = "decoder"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"the rank of LoRA must be 1 or more, not {self.rank}")
        if not self.alpha > 0:
            raise ConfigError(f"the alpha of LoRA must be positive, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"the dropout of LoRA must be from 0 to less than 1, not {self.dropout}")
        if self.train not in TRAINS:
            raise ConfigError(f"LoRA cannot train {self.train!r} besides the adapters: choose from {', '.join(TRAINS)}")


class LoraCount(NamedTuple):
    """What is trained after adapters were added.

    Attributes:
        layers: layers that have an adapter.
        adapters: parameters of the adapters.
        trained: all parameters that are trained, adapters included.
        total: all parameters of the network without adapters.
    """

    layers: int
    adapters: int
    trained: int
    total: int


def add_lora(model: BiRefNet, recipe: LoraRecipe) -> LoraCount:
    """Put adapters beside a backbone's layers and freeze the layers, in place; the outputs are the same at first.

    They are its linear layers, or in a convolutional backbone its convolutions without groups. The backbone's running
    statistics are frozen by its own mode: see `savings.freeze`.

    Args:
        model: the network, on its device, before it is wrapped or an optimizer is made.
        recipe: what to adapt.

    Raises:
        ConfigError: the recipe names no module, or one without such layers.
        MissingExtraError: peft is not installed.
    """
    prefix = "encoder.backbone" if recipe.targets == "backbone" else recipe.targets
    modules = dict(model.named_modules())
    if not prefix or prefix not in modules:
        raise ConfigError(
            f"no module to adapt is named {recipe.targets!r}: write backbone, or a path such as "
            "encoder.backbone.stages.0"
        )
    names = _layers(modules, prefix)
    if not names:
        raise ConfigError(f"{recipe.targets} has no linear layer or convolution that LoRA could adapt")
    total = sum(parameter.numel() for parameter in model.parameters())
    peft = require("peft", extra="train")
    config = peft.LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules=names, bias="none"
    )
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    adapters = 0
    for name, parameter in model.named_parameters():
        if _of_adapter(name):
            parameter.requires_grad_(True)
            adapters += parameter.numel()
        else:
            # peft has frozen everything; what was frozen before stays so.
            kept = recipe.train == "decoder" and name in trainable and not name.startswith("encoder.backbone.")
            parameter.requires_grad_(kept and not name.startswith(f"{prefix}."))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return LoraCount(len(names), adapters, trained, total)


def merged_state(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return a network's state under its plain names, with what the adapters have learnt added to the weights.

    The network itself stays as it is and can go on training.

    Args:
        model: a network with adapters; one without gives its own state.
        state: the tensors to merge, under the names of `model.state_dict()`, for averaged weights or those of a
            network that is sharded; by default the network's own.
    """
    state = model.state_dict() if state is None else state
    merged = {name.replace(f"{_BASE}.", "."): value for name, value in state.items() if not _of_adapter(name)}
    for name, module in model.named_modules():
        if not _has_adapter(module):
            continue
        prefix = f"{name}." if name else ""
        down, up = (state[f"{prefix}lora_{side}.{_ADAPTER}.weight"] for side in "AB")
        weight = state[f"{prefix}base_layer.weight"]
        merged[f"{prefix}weight"] = weight + _product(down, up).to(weight.dtype) * module.scaling[_ADAPTER]
    return merged


@torch.no_grad()
def _product(down: Tensor, up: Tensor) -> Tensor:
    """What an adapter adds to its layer's weight.

    (r, in) and (out, r) -> (out, in) of a linear layer; (r, in, kh, kw) and (out, r, 1, 1) -> (out, in, kh, kw) of a
    convolution, in float32 or better.
    """
    precise = torch.promote_types(down.dtype, torch.float32)
    down, up = down.detach().to(precise), up.detach().to(precise)
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def _layers(modules: dict[str, nn.Module], prefix: str) -> list[str]:
    """Names of the layers to adapt: the linear ones of a transformer, else convolutions without groups."""
    inside = {name: part for name, part in modules.items() if name == prefix or name.startswith(f"{prefix}.")}
    linear = [name for name, part in inside.items() if isinstance(part, nn.Linear)]
    return linear or [name for name, part in inside.items() if isinstance(part, nn.Conv2d) and part.groups == 1]


def _of_adapter(name: str) -> bool:
    return any(part in _ADAPTER_PARTS for part in name.split("."))


def _has_adapter(module: Any) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "scaling") and _ADAPTER in module.scaling
