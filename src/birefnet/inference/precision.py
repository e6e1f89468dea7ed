"""Which numbers a device calculates with best."""

import torch

from birefnet._processors import computes_bfloat16
from birefnet.config import unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
"""Types by their names; the last one is for proofs."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """Decide the precision for a device.

    Raises:
        ConfigError: there is no such precision.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise unknown_name("precision", wanted, ("auto", *DTYPES))
        return wanted
    if device.type == "cuda":
        return "float16" if torch.cuda.get_device_capability(device) >= (7, 0) else "float32"
    return "bfloat16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "float32"


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by way of float32, which takes longer than float32, on a CPU ten times.

    False where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) < (8, 0)
    return device.type == "cpu" and computes_bfloat16() is False
