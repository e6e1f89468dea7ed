"""The PyTorch back end."""

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from birefnet._processors import cores
from birefnet.engines.metadata import check_images, check_threads
from birefnet.errors import InputError, first_line
from birefnet.inference import optimise
from birefnet.inference.accelerate import accelerate
from birefnet.inference.streams import StreamedRunner
from birefnet.model import BiRefNet
from birefnet.modules.deform_triton import notes as deform_notes


class TorchEngine:
    """Runs the inference form of a network on a device.

    Args:
        model: the network; it stays as it is, and shares weights with the engine (see `optimise`).
        device: such as "cpu", "cuda" or "mps".
        precision: "float32", "bfloat16", "float16", or "auto": what the device is quickest in.
        max_memory: bytes that the process may take; by default no limit is kept.
        compiled: let `torch.compile` make kernels for each size, where that works; on CUDA devices alone.
        threads: of the CPU's, for the whole process, as PyTorch has no others. By default what PyTorch has, but on the
            CPU no more than one for each core: PyTorch does not see a container's quota of time.

    Attributes:
        device: where it runs.
        precision: what it calculates in.

    Raises:
        InputError: this machine has no such device, or nothing is compiled for it.
        ConfigError: there is no such precision or number of threads.
    """

    def __init__(
        self,
        model: BiRefNet,
        device: str = "cpu",
        *,
        precision: str = "auto",
        max_memory: int | None = None,
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        check_threads(threads)
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).cpu()  # "meta" moves weights, but computes nothing
        except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
            reason = first_line(error).split(". ")[0]
            raise InputError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from error
        if compiled and self.device.type != "cuda":
            raise InputError(f"device {device!r}: networks are compiled for cuda alone; leave --compile out")
        if threads is None and self.device.type == "cpu":
            threads = min(torch.get_num_threads(), cores())
        if threads is not None and threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        form = optimise(model, precision=precision, device=self.device, max_memory=max_memory)
        self.precision = form.precision
        method = "compile" if compiled else "eager" if max_memory is not None else "graphs"
        self._network = accelerate(form, self.device, method=method)
        self._runner = StreamedRunner(self._network, self.device)
        self._turn = threading.Lock()  # the runner is for one thread, and `max_memory` for one run

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not work as hoped so far, a line each."""
        return (*self._network.notes, *deform_notes())

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images are not float32 of such a shape, or have a size that the network refuses or that no
                memory can hold.
        """
        check_images(images)
        try:
            with self._turn:
                logits = self._runner(images)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise self._too_large(images) from error
        except RuntimeError as error:
            if "alloc" in str(error):  # how the CPU's allocator says it
                raise self._too_large(images) from error
            raise
        alpha: NDArray[np.float32] = torch.from_numpy(logits).sigmoid_().numpy()
        return alpha

    def _too_large(self, images: NDArray[np.float32]) -> InputError:
        height, width = images.shape[2:]
        return InputError(
            f"{self.device} has not enough memory for {len(images)} x {height} x {width}; choose a smaller size"
        )
