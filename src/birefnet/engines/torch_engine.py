"""The PyTorch back end."""

import numpy as np
import torch
from numpy.typing import NDArray

from birefnet.errors import InputError, first_line
from birefnet.model import BiRefNet


class TorchEngine:
    """Runs a loaded network on a device.

    Raises:
        InputError: this machine has no such device.
    """

    def __init__(self, model: BiRefNet, device: str = "cpu") -> None:
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).cpu()  # "meta" moves weights, but computes nothing
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
            reason = first_line(error).split(". ")[0]
            raise InputError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from error

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images have a size that the network refuses, or that no memory can hold.
        """
        try:
            logits = self.model(torch.from_numpy(images).to(self.device))
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise self._too_large(images) from error
        except RuntimeError as error:
            if "alloc" in str(error):  # how the CPU's allocator says it
                raise self._too_large(images) from error
            raise
        alpha: NDArray[np.float32] = logits.float().sigmoid().cpu().numpy()
        return alpha

    def _too_large(self, images: NDArray[np.float32]) -> InputError:
        height, width = images.shape[2:]
        return InputError(
            f"{self.device} has not enough memory for {len(images)} x {height} x {width}; choose a smaller size"
        )
