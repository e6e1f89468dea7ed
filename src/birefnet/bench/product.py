"""The speed of one large matrix product, which is what a network's arithmetic could reach on this machine at best."""

import time
from collections.abc import Callable

import numpy as np

from birefnet.errors import MissingExtraError

TYPES = ("float32", "bfloat16", "float16")

_LEAST_SECONDS = 0.05
_SIDES = (512, 1024, 2048, 4096)


class MatrixProduct:
    """A product of square matrices, large enough to take a twentieth of a second where that can be.

    Attributes:
        flops: operations of one product; a multiplication and an addition are two.
    """

    def __init__(self, precision: str) -> None:
        assert precision in TYPES, precision
        for side in _SIDES:
            self._multiply = _product(precision, side)
            self.flops = 2 * side**3
            self._multiply()
            if self() > _LEAST_SECONDS:
                break

    def __call__(self) -> float:
        """Multiply once; returns seconds."""
        start = time.perf_counter()
        self._multiply()
        return time.perf_counter() - start


def _product(precision: str, side: int) -> Callable[[], object]:
    try:
        import torch
    except ModuleNotFoundError:
        if precision != "float32":
            raise MissingExtraError(
                f"torch is not installed, and numpy multiplies no {precision}: run  pip install 'birefnet[torch]'",
                name="torch",
            ) from None
        matrix = np.random.default_rng(0).standard_normal((side, side), np.float32)
        result = np.empty_like(matrix)
        return lambda: np.matmul(matrix, matrix, out=result)
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(side, side, generator=generator).to(getattr(torch, precision))
    # In place, so that no memory is asked for while the time is taken.
    out = torch.empty_like(tensor)
    return lambda: torch.mm(tensor, tensor, out=out)
