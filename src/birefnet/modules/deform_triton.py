"""The modulated deformable convolution on a GPU: our Triton kernel, and what stands in for it where it cannot run.

For inference alone: nothing here can be differentiated.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from birefnet._extras import require
from birefnet.errors import first_line
from birefnet.modules.deform_conv import deform_conv2d

# Older GPUs have no tensor cores that Triton uses, and the kernel spills most of what it computes with.
_LEAST_CAPABILITY = (8, 0)

TYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types of the map and the kernel that the Triton kernel takes."""


class DeformConv(Protocol):
    """A modulated deformable convolution, with the signature of `birefnet.modules.deform_conv.deform_conv2d`."""

    def __call__(self, x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
        """Convolve.  (B, C, H, W) -> (B, O, Ho, Wo)."""
        ...


def available(device: torch.device | str) -> bool:
    """Tell whether the Triton kernel can run on a device: a GPU, not too old, beside an installed triton."""
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available() or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def deform_conv2d_triton(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
    """Convolve at displaced positions with a factor for each tap, by one kernel that stores no columns.

    The same as `birefnet.modules.deform_conv.deform_conv2d`, for inference. Positions and sums are computed in float32
    whatever the type of the inputs; for a float32 map the matrix product is exact too, unless
    `torch.set_float32_matmul_precision` allows less. The first call with a new shape of the kernel, or with a map four
    times the area, tries several tiles and keeps the fastest.

    Args:
        x: The map, (B, C, H, W); copied unless its channels lie side by side.
        offset: Displacements in pixels, (B, 2 * kh * kw, Ho, Wo): y and x of the first tap, of the second, and so on.
        modulation: Factor of each tap, already activated, (B, kh * kw, Ho, Wo).
        weight: The kernel, (O, C, kh, kw), of the type of `x`; copied unless `weight.permute(2, 3, 1, 0)` is
            contiguous.
        padding: Zero pixels around the map, on each side.

    Returns:
        (B, O, Ho, Wo) in channels-last memory, where Ho = H + 2 * padding - kh + 1 and Wo likewise.

    Raises:
        MissingExtraError: triton is not installed.
    """
    require("triton", extra="torch")
    kernel = importlib.import_module("birefnet.modules.deform_kernel")  # imports triton

    assert x.dtype in TYPES, x.dtype
    assert x.dtype == weight.dtype, (x.dtype, weight.dtype)
    assert max(x.shape[2:]) < kernel.LARGEST_SIDE, x.shape
    (kernel_height, kernel_width), taps = weight.shape[2:], weight.shape[2] * weight.shape[3]
    output = _output(x, weight, padding)
    out_size = output.shape[2:]
    assert min(out_size) > 0, "the kernel is larger than the padded map"
    assert offset.shape == (x.shape[0], 2 * taps, *out_size), offset.shape
    assert modulation.shape == (x.shape[0], taps, *out_size), modulation.shape

    if x.stride(1) != 1:
        x = x.contiguous(memory_format=torch.channels_last)
    matrix = weight.permute(2, 3, 1, 0).contiguous().flatten(0, 2)
    size = (kernel_height, kernel_width)
    # Triton launches on the current device, which may be another GPU than the map's.
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        kernel.launch(x, offset, modulation, matrix, output, kernel=size, padding=padding)
    return output


def _output(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Make room for the result, in channels-last memory."""
    height, width = (side + 2 * padding - taps + 1 for side, taps in zip(x.shape[2:], weight.shape[2:], strict=True))
    shape = (x.shape[0], weight.shape[0], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _triton_suits(x: Tensor) -> bool:
    return x.dtype in TYPES and available(x.device)


def _torchvision_suits(x: Tensor) -> bool:
    return x.is_cuda and find_spec("torchvision") is not None


def _deform_conv2d_torchvision(
    x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0
) -> Tensor:
    """Convolve by torchvision's operator, in float32 or better.

    It computes positions in the type of its inputs, and half precision cannot tell the pixels of a large map apart. Its
    own autocast converts likewise.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    inputs = (x.to(dtype), offset.to(dtype), weight.to(dtype))
    operator = importlib.import_module("torchvision.ops").deform_conv2d  # no dependency of ours
    output: Tensor = operator(*inputs, padding=padding, mask=modulation.to(dtype))
    return output.to(x.dtype, memory_format=torch.channels_last)


class Choice(NamedTuple):
    """One way to convolve.

    Attributes:
        name: What it is called in notes.
        reason: Why it stands where it does.
        suits: Whether it is expected to work for this map.
        run: The convolution.
    """

    name: str
    reason: str
    suits: Callable[[Tensor], bool]
    run: DeformConv


CHOICES = (
    Choice("Triton", "stores no columns and keeps channels last", _triton_suits, deform_conv2d_triton),
    Choice("torchvision", "stores all columns, in float32", _torchvision_suits, _deform_conv2d_torchvision),
    Choice("plain torch", "needs nothing, but launches kernels for every chunk", lambda _: True, deform_conv2d),
)
"""The ways there are, best first; a later one stands in where an earlier one cannot run."""


class FirstThatWorks:
    """Convolves by the first of several ways that suits the map and works.

    One that failed where a later one worked is not tried again for the same device and type.

    Args:
        choices: The ways, best first.

    Attributes:
        notes: A line for a person on each way that failed.
    """

    def __init__(self, choices: Sequence[Choice] = CHOICES) -> None:
        self.choices = tuple(choices)
        self.notes: list[str] = []
        self._failed: set[tuple[str, torch.device, torch.dtype]] = set()

    def candidates(self, x: Tensor) -> list[Choice]:
        """List the ways that suit a map and have not failed, best first."""
        known = ((choice, (choice.name, x.device, x.dtype)) for choice in self.choices)
        return [choice for choice, key in known if key not in self._failed and choice.suits(x)]

    def __call__(self, x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
        """Convolve, as `deform_conv2d_triton` says.

        Raises:
            OutOfMemoryError: memory is short; no other way is tried, as it would take more.
        """
        failures: list[tuple[Choice, Exception]] = []
        for choice in self.candidates(x):
            try:
                output = choice.run(x, offset, modulation, weight, padding=padding)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers, drivers and broken installations raise whatever they like
                failures.append((choice, error))
                continue
            for failed, reason in failures:
                self._remember(failed, reason, x, choice)
            return output
        raise failures[-1][1]  # none works: the inputs are at fault, or the device

    def _remember(self, failed: Choice, reason: Exception, x: Tensor, instead: Choice) -> None:
        self._failed.add((failed.name, x.device, x.dtype))
        self.notes.append(
            f"deformable convolution in {str(x.dtype).removeprefix('torch.')} on {x.device}: {failed.name} failed "
            f"({first_line(reason)}), {instead.name} is used instead"
        )


_first_that_works = FirstThatWorks()


@torch.library.custom_op("birefnet::deform_conv2d_cuda", mutates_args=())
def _operator(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:
    return _first_that_works(x, offset, modulation, weight, padding=padding)


@_operator.register_fake
def _(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, padding: int) -> Tensor:  # noqa: ARG001
    return _output(x, weight, padding)


def deform_conv2d_cuda(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
    """Convolve by the first of `CHOICES` that works, as `deform_conv2d_triton` says.

    `torch.compile` sees one operator, `birefnet::deform_conv2d_cuda`, and looks no further.
    """
    if torch.compiler.is_compiling():
        output: Tensor = _operator(x, offset, modulation, weight, padding)
        return output
    return _first_that_works(x, offset, modulation, weight, padding=padding)


def notes() -> tuple[str, ...]:
    """Give the lines for a person on what `deform_conv2d_cuda` could not use in this process, each once."""
    return tuple(_first_that_works.notes)
