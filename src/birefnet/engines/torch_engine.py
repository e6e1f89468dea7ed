"""The PyTorch back end."""

import numpy as np
import torch
from numpy.typing import NDArray

from birefnet.errors import InputError
from birefnet.model import BiRefNet


class TorchEngine:
    """Runs a loaded network on a device.

    Raises:
        InputError: this machine has no such device.
    """

    def __init__(self, model: BiRefNet, device: str = "cpu") -> None:
        try:
            self.device = torch.device(device)
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from error

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1]."""
        logits = self.model(torch.from_numpy(images).to(self.device))
        alpha: NDArray[np.float32] = logits.float().sigmoid().cpu().numpy()
        return alpha
