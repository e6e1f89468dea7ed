"""The parts that a network is cut into, where memory is saved or shared."""

from torch import nn

from birefnet.model import BiRefNet
from birefnet.model.refiners import BackboneRefiner
from birefnet.modules.refunet import RefUNet

_LISTS = (nn.ModuleList, nn.Sequential)


def blocks_of(model: BiRefNet) -> dict[str, nn.Module]:
    """Find the parts that activations are kept or recomputed by, and parameters are sharded by, with their names.

    They are the blocks of a backbone that is a transformer, the stages of one that is convolutional, and the stages of
    the decoder; none lies within another. A refiner has the same parts.
    """
    found: dict[str, nn.Module] = {}

    def add(prefix: str, parts: dict[str, nn.Module]) -> None:
        found.update({f"{prefix}.{name}" if name else prefix: part for name, part in parts.items()})

    add("encoder.backbone", _backbone_blocks(model.encoder.backbone))
    add("decoder", _children_of(model.decoder, "stages"))
    refiner = None if model.refinement is None else model.refinement.refiner
    if isinstance(refiner, BackboneRefiner):
        add("refinement.refiner.backbone", _backbone_blocks(refiner.backbone))
        add("refinement.refiner.decoder", _children_of(refiner.decoder, "stages"))
    elif isinstance(refiner, RefUNet):
        add("refinement.refiner", {"": refiner})
    return found


def _backbone_blocks(backbone: nn.Module) -> dict[str, nn.Module]:
    """Blocks at any depth, else stages, else all of a backbone that has neither."""
    lists = [name for name, part in backbone.named_modules() if name.endswith("blocks") and isinstance(part, _LISTS)]
    blocks = {f"{name}.{i}": block for name in lists for i, block in enumerate(backbone.get_submodule(name).children())}
    return blocks or _children_of(backbone, "stages") or {"": backbone}


def _children_of(module: nn.Module, name: str) -> dict[str, nn.Module]:
    part = getattr(module, name, None)
    if not isinstance(part, _LISTS):
        return {}
    return {f"{name}.{i}": child for i, child in enumerate(part.children())}
