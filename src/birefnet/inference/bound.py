"""Keeping to a limit of memory: how much an input takes, and tiles where the whole would take too much."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from birefnet.errors import InputError
from birefnet.imaging.tiling import cover, taper
from birefnet.model.ledger import Ledger

Network = Callable[[Tensor], Tensor]

# Sides of the inputs that are tried, in pixels: the pieces of work have their full size from the first on.
_TRIED = (512, 768)
# What heaps lose in holes and convolutions take for copies in layouts of their own.
_RESERVE = 1.3
# Bytes a pixel that tiles are blended in: the image, sums, weights, their quotient, its sigmoid and its copy.
_BLENDED = 32
# The part of a tile's side over which it gives way to its neighbour.
_MARGIN = 8
_LEAST_SIDE = 256


class MemoryBound:
    """Runs a network on images of any size within a limit of memory.

    What a pixel takes is found out by trying two sizes when first asked. An image that would take too much goes through
    in overlapping tiles, whose logits are blended: no tile sees beyond its own part of the image, so results differ
    where an object is larger than a tile.

    Args:
        network: images (1, 3, H, W) -> logits (1, 1, H, W).
        grid: what sides of its input must be multiples of.
        least: the smallest side of its input.
        max_memory: bytes that the process may take in all, or on a GPU its tensors.
        device: where the network runs.
    """

    def __init__(self, network: Network, grid: int, least: int, max_memory: int, device: torch.device) -> None:
        self._network = network
        self._grid = grid
        self._least = -(-max(least, _LEAST_SIDE) // grid) * grid
        self._limit = max_memory
        self._device = device
        self._law: tuple[float, float] | None = None

    def __call__(self, image: Tensor) -> Tensor:
        """Segment an image.  (1, 3, H, W) -> logits (1, 1, H, W).

        Raises:
            InputError: the limit is too low for any tile.
        """
        height, width = image.shape[2:]
        if height * width <= self.largest_side() ** 2:
            return self._network(image)
        side = self.largest_side(beside=_BLENDED * height * width)
        tile = min(height, side), min(width, side)
        margin = tile[0] // _MARGIN, tile[1] // _MARGIN
        total = image.new_zeros(1, 1, height, width)
        weights = image.new_zeros(height, width)
        for window in cover(np.ones((height, width), bool), (height, width), tile, margin):
            weight = torch.from_numpy(taper(window, (height, width), margin)).to(image)
            rows, columns = window.part
            total[0, 0, rows, columns] += weight * self._network(image[:, :, rows, columns].contiguous())[0, 0]
            weights[rows, columns] += weight
        return total / weights

    def largest_side(self, beside: int = 0) -> int:
        """Side of the largest square that keeps to the limit, in pixels, with so many bytes taken beside.

        Raises:
            InputError: there is none.
        """
        if self._law is None:
            self._law = self._find_law()
        fixed, per_pixel = self._law
        side = int(math.sqrt(max(self._limit - fixed - beside, 0) / per_pixel)) // self._grid * self._grid
        if side < self._least:
            least = fixed + beside + per_pixel * self._least**2
            raise InputError(
                f"a memory limit of {self._limit / 1e9:.2f} GB is too low for this network: it needs "
                f"{least / 1e9:.2f} GB for its smallest tiles; raise --max-memory or choose a smaller model"
            )
        return side

    def _find_law(self) -> tuple[float, float]:
        """Bytes that are taken whatever the size, and bytes a pixel."""
        sides = [-(-max(side, self._least) // self._grid) * self._grid for side in _TRIED]
        if sides[0] == sides[1]:
            sides[1] += max(_TRIED[1] - _TRIED[0], self._grid) // self._grid * self._grid
        peaks = []
        for side in sides:
            image = torch.zeros(1, 3, side, side, device=self._device)
            with Ledger() as ledger:
                self._network(image)
            peaks.append(ledger.peak + image.nbytes)
        per_pixel = (peaks[1] - peaks[0]) / (sides[1] ** 2 - sides[0] ** 2)
        rest = max(peaks[0] - per_pixel * sides[0] ** 2, 0)
        return self._resident() + _RESERVE * rest, _RESERVE * per_pixel

    def _resident(self) -> int:
        """Bytes that are taken before an image comes."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pages * os.sysconf("SC_PAGE_SIZE")
