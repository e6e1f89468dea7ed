"""The batches of a run, each a pure function of (seed, step), and making them ahead of time."""

import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from birefnet.data.augment import HEADROOM, Augmentation, Batch, augment
from birefnet.data.cache import load_pack
from birefnet.training.schedule import Recipe, size_at


class Batches:
    """The batch of every step, the same whenever it is asked for.

    Each stage reads photos packed at the size that suits it; they are kept on the device where they fit.
    """

    def __init__(self, data: Path, recipe: Recipe, device: torch.device, cache: Path) -> None:
        self.data, self.recipe, self.device, self.cache = data, recipe, device, cache
        self.augmentation = Augmentation()
        self._side = 0
        self._pixels = torch.empty(0)
        self._orders: dict[int, Tensor] = {}
        self._load(size_at(recipe, 0))

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        size = size_at(self.recipe, step)
        self._load(size)
        first = step * self.recipe.batch
        chosen = self._chosen(range(first, first + self.recipe.batch))
        pixels = self._pixels[chosen.to(self._pixels.device)].to(self.device)
        generator = torch.Generator().manual_seed(_seed("change", self.recipe.seed, step))
        batch = augment(pixels, size, self.augmentation, generator)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return Batch(images, batch.target, batch.valid)

    def _load(self, size: int) -> None:
        side = round(size * HEADROOM)
        if side == self._side or (self._side and self.data.suffix == ".npz"):
            return
        pixels = torch.from_numpy(load_pack(self.data, side, self.cache).pixels)
        if self.device.type == "cuda" and pixels.numel() < torch.cuda.mem_get_info(self.device)[0] // 2:
            pixels = pixels.to(self.device)
        self._side, self._pixels = side, pixels

    def _chosen(self, samples: Sequence[int]) -> Tensor:
        """Photos of the given samples: each epoch is its own random order of all photos."""
        count = len(self._pixels)
        epochs = {sample // count for sample in samples}
        self._orders = {epoch: self._orders.get(epoch, self._order(epoch, count)) for epoch in epochs}
        return torch.stack([self._orders[sample // count][sample % count] for sample in samples])

    def _order(self, epoch: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(_seed("order", self.recipe.seed, epoch))
        return torch.randperm(count, generator=generator)


class Feed:
    """Makes the next batch in a thread while the current one is worked on, or just makes the current one."""

    def __init__(self, batches: Batches, steps: int, threaded: bool) -> None:
        self._batches, self._steps = batches, steps
        # One thread of its own for the batch: more would fight with those of the network.
        self._pool = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,)) if threaded else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> "Feed":
        if self._pool:
            self._pool.submit(int).result()  # the thread is there, and has set its number of threads
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        """Give the batch of a step, and start on the next."""
        if not self._pool:
            return self._batches(step)
        ready = self._next
        future = ready[1] if ready and ready[0] == step else self._pool.submit(self._batches, step)
        batch = future.result()
        if step + 1 < self._steps:
            self._next = step + 1, self._pool.submit(self._batches, step + 1)
        return batch


def _seed(purpose: str, *numbers: int) -> int:
    """Mix numbers into a seed, the same on every machine; generators take no more than 32 bits of it."""
    return zlib.crc32(f"{purpose} {numbers}".encode())
