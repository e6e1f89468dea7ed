"""The inference form of a whole network."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from birefnet.backbones import Pyramid
from birefnet.backbones.swin_v1 import SwinTransformer
from birefnet.inference.aspp import DeformableAspp, is_plain
from birefnet.inference.aspp_gpu import GpuDeformableAspp
from birefnet.inference.bound import MemoryBound
from birefnet.inference.decoder import ImageFilter, InferenceDecoder, ScaledMap, can_join
from birefnet.inference.folding import fold_batch_norms
from birefnet.inference.precision import DTYPES, choose_precision
from birefnet.inference.resizing import resize_twice
from birefnet.inference.swin import InferenceSwin
from birefnet.model import BiRefNet
from birefnet.model.decoder import DecoderStage
from birefnet.model.refiners import Logits, Refinement
from birefnet.modules.aspp import Aspp
from birefnet.modules.resize import resize, size_of

# Images of so many pixels go through the network one by one on a CPU: nothing is gained by more at a time, but memory.
_ALONE = 384 * 384


class InferenceModel(nn.Module):
    """A network that gives the same logits as the one it is made of, in fewer and cheaper steps.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
    """

    def __init__(self, model: BiRefNet, precision: str) -> None:
        super().__init__()
        self.precision = precision
        self.network = model
        self._fusion = model.encoder.scale_fusion
        self._bound: MemoryBound | None = None
        self.decoder: InferenceDecoder | None = None
        if can_join(model.decoder):
            self.decoder = InferenceDecoder(model.decoder, self._fusion)
            model.decoder = None  # its layers live in the form
        if model.refinement is not None:
            model.refinement = _Refinement(model.refinement, DTYPES[precision])

    def forward(self, image: Tensor) -> Tensor:
        """Segment.  float32 (B, 3, H, W), sides as the network takes them -> float32 logits (B, 1, H, W).

        Raises:
            InputError: the image has another shape, or the limit of memory is too low.
        """
        self.network._check(image)
        if self._bound is not None:
            return torch.cat([self._bound(one) for one in image.split(1)])
        if image.device.type == "cpu" and image.shape[2] * image.shape[3] > _ALONE:
            return torch.cat([self._refined(one) for one in image.split(1)])
        return self._refined(image)

    def limit_memory(self, most: int, device: torch.device) -> None:
        """Keep to so many bytes from now on: see `MemoryBound`."""
        self._bound = MemoryBound(self._refined, self.network.grid, self.network.least_side, most, device)

    def _refined(self, image: Tensor) -> Tensor:
        refinement = self.network.refinement
        if refinement is None:
            return self._segment(image)
        logits: tuple[Tensor, ...] = refinement(image, lambda view: (self._segment(view),))
        return logits[-1]

    def _segment(self, image: Tensor) -> Tensor:
        dtype = DTYPES[self.precision]
        view = image.to(dtype)
        encoder = self.network.encoder
        if self.decoder is None:
            logits: Tensor = self.network.decoder(encoder(view), view).logits
            return logits.to(image.dtype)
        full: Pyramid = encoder.backbone(view)
        half: Pyramid | tuple[None, ...] = (None,) * 4
        if self._fusion != "none":
            smaller = resize(image, (image.shape[2] // 2, image.shape[3] // 2)).to(dtype)
            half = encoder.backbone(smaller)
        maps = [ScaledMap(a, b) for a, b in zip(full, half, strict=True)]
        levels = maps[3 - encoder.context_levels : 3]
        size = size_of(maps[3].full)
        gathered = [self._joined(scaled, size) for scaled in (*levels, maps[3])]
        deepest = torch.cat(gathered, dim=1).contiguous(memory_format=torch.channels_last)
        maps[3] = ScaledMap(encoder.squeeze(deepest), None)
        drawn: Tensor = self.decoder(maps, view, image)
        return drawn

    def _joined(self, scaled: ScaledMap, size: tuple[int, int]) -> Tensor:
        """Join both scales of a map, resized to a size."""
        full = resize(scaled.full, size)
        if scaled.half is None:
            return full
        half = resize_twice(scaled.half, size_of(scaled.full), size)
        return torch.cat([full, half], dim=1) if self._fusion == "cat" else full + half


class _Refinement(Refinement):
    """A refinement whose refiner calculates in a type of its own.

    Args:
        refinement: what to do the same as.
        dtype: type of the refiner's weights.
    """

    def __init__(self, refinement: Refinement, dtype: torch.dtype) -> None:
        super().__init__(refinement.refiner, scale=refinement.scale, iterations=refinement.iterations)
        self.dtype = dtype

    def _look_again(self, inputs: Tensor, network: Callable[[Tensor], Logits]) -> Logits:
        looked = super()._look_again(inputs.to(self.dtype), lambda view: network(view.to(inputs.dtype)))
        return tuple(logits.to(inputs.dtype) for logits in looked)


def optimise(
    model: BiRefNet, *, precision: str = "auto", device: str | torch.device = "cpu", max_memory: int | None = None
) -> InferenceModel:
    """Make the inference form of a network.

    The network itself is left as it is. Weights that the form does not change are shared with it where device and type
    are the same, so a network that is trained on needs a new form.

    Args:
        model: the network.
        precision: "float32", "bfloat16", "float16", or "auto": what the device is quickest in.
        device: where the form runs.
        max_memory: bytes that the process may take, or on a GPU its tensors; what would take more goes in tiles.

    Raises:
        ConfigError: there is no such precision.
    """
    device = torch.device(device)
    precision = choose_precision(precision, device)
    network = _with_shared_weights(model)
    if next(network.parameters()).dtype in (torch.bfloat16, torch.float16):
        _cast(network, torch.float32, next(network.parameters()).device)  # what follows multiplies weights
    fold_batch_norms(network, next(network.parameters()).new_zeros(1, 3, *_probe_size(network)))
    drop_training_heads(network)
    _replace_parts(network, GpuDeformableAspp if device.type != "cpu" else DeformableAspp)
    form = InferenceModel(network, precision).eval()
    _cast(form, DTYPES[precision], device)
    if max_memory is not None:
        form.limit_memory(max_memory, device)
    return form


def _with_shared_weights(model: BiRefNet) -> BiRefNet:
    """Copy a network without its weights: the copy's tensors are the original's until they are replaced."""
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = tensor
    return copy.deepcopy(model, memo).eval()


def drop_training_heads(network: BiRefNet) -> None:
    """Remove what gives predictions to losses alone: they would be weights that nothing reads."""
    network.class_head = None
    for module in network.modules():
        if isinstance(module, DecoderStage):
            module.side_head = None
            if module.outward is not None:
                module.outward.register_module("prediction", nn.Identity())


def _replace_parts(parent: nn.Module, pyramid: Callable[[Aspp], nn.Module]) -> None:
    """Put inference forms in the places of the parts that have one."""
    for name, child in parent.named_children():
        # Exactly ours: what derives from them may do something else.
        if type(child) is SwinTransformer:
            setattr(parent, name, InferenceSwin(child))
        elif type(child) is Aspp and is_plain(child):
            setattr(parent, name, pyramid(child))
        else:
            _replace_parts(child, pyramid)


def _cast(form: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Bring weights to a type and device, without touching the tensors that others hold."""
    for module in form.modules():
        precise = torch.promote_types(dtype, torch.float32) if isinstance(module, ImageFilter) else dtype
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            moved = tensor.detach().to(device, precise if tensor.is_floating_point() else tensor.dtype)
            if isinstance(module, nn.Conv2d) and moved.ndim == 4:
                moved = moved.contiguous(memory_format=torch.channels_last)
            setattr(module, name, nn.Parameter(moved, requires_grad=False) if name in module._parameters else moved)


def _probe_size(network: BiRefNet) -> tuple[int, int]:
    """A small size that the network takes, also with a backbone of a user's own that needs more than it says."""
    side = max(4 * network.grid, network.least_side)
    return side, side
