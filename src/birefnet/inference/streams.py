"""Batches through a network on a GPU, with the transfers beside the computation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from birefnet.inference.accelerate import Network
from birefnet.inference.memory import SizeCache

# Sizes whose memory is kept, two batches each.
_SIZES = 4


class Mark(Protocol):
    """A point in a lane's work."""

    def synchronize(self) -> None:
        """Wait until the work up to here is done."""
        ...


class Lanes(Protocol):
    """Queues of work: each does its jobs in order, and all run at the same time."""

    def submit(self, lane: str, job: Callable[[], None], after: Sequence[Mark]) -> Mark:
        """Put a job into a lane, to be done after certain marks of others; the result marks its end."""
        ...


class CudaLanes:
    """A CUDA stream for each lane. Jobs run at once and only enqueue their work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: dict[str, torch.cuda.Stream] = {}
        torch.cuda.synchronize(device)  # weights that are still on their way

    def submit(self, lane: str, job: Callable[[], None], after: Sequence[Mark]) -> Mark:
        """Enqueue a job's work after certain events; the result is the event of its end."""
        if lane not in self._streams:
            self._streams[lane] = torch.cuda.Stream(self._device)
        stream = self._streams[lane]
        event = torch.cuda.Event()
        with torch.cuda.stream(stream):
            for mark in after:
                assert isinstance(mark, torch.cuda.Event)
                stream.wait_event(mark)
            job()
            event.record(stream)
        mark_of_end: Mark = event
        return mark_of_end


class _Slot:
    """The memory of one batch on its way, and the mark of its end."""

    def __init__(self, shape: tuple[int, ...], *, pinned: bool) -> None:
        self.pinned = pinned
        self.host_in = torch.empty(shape, pin_memory=pinned)
        # Each made by the lane that writes to it.
        self.device_in: Tensor | None = None
        self.device_out: Tensor | None = None
        self.host_out: Tensor | None = None
        self.done: Mark | None = None


class StreamedRunner:
    """Runs a network on arrays, and on many with the transfers beside the computation. For one thread at a time.

    On a GPU, batches go through pinned memory in two slots: while one is computed, the next is copied in and the one
    before is copied out.

    Args:
        network: The network, in evaluation mode, on the device.
        device: Where it runs.
        dtype: Type of images that the network takes; they are converted on the device.
        lanes: Who does the work; streams on a GPU and nobody on a CPU, which has no transfers.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device | str,
        *,
        dtype: torch.dtype = torch.float32,
        lanes: Lanes | None = None,
    ) -> None:
        self.network = network
        self.device = torch.device(device)
        self.dtype = dtype
        self._lanes = CudaLanes(self.device) if lanes is None and self.device.type == "cuda" else lanes
        self._slots: SizeCache[list[_Slot]] = SizeCache(_SIZES)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch.  (B, 3, H, W) -> (B, 1, H, W), float32."""
        (result,) = self.run_many([images])
        return result

    def run_many(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Run batches of any sizes, in order; one is taken ahead of the results.

        (B, 3, H, W) each -> (B, 1, H, W) each, float32, arrays of their own.
        """
        if self._lanes is None:
            for images in batches:
                yield self._run_plainly(images)
            return
        ahead: _Slot | None = None
        for images in batches:
            try:
                started = self._start(images, self._lanes)
            except Exception:
                if ahead is not None:
                    yield self._finish(ahead)
                raise
            if ahead is not None:
                yield self._finish(ahead)
            ahead = started
        if ahead is not None:
            yield self._finish(ahead)

    @torch.inference_mode()
    def _run_plainly(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        output = self.network(_as_tensor(images).to(self.device, self.dtype))
        result: NDArray[np.float32] = output.float().cpu().numpy()
        return result

    def _start(self, images: NDArray[np.float32], lanes: Lanes) -> _Slot:
        """Send a batch on its way.

        Its slot is free: two take turns, and the batch before the last one is finished before another starts. Only of
        an abandoned run may there be one on its way, and nobody wants its result.
        """
        slot = self._next_slot(images.shape)
        slot.host_in.copy_(_as_tensor(images))
        copied_in = lanes.submit("in", lambda: self._copy_in(slot), after=[])
        computed = lanes.submit("compute", lambda: self._compute(slot), after=[copied_in])
        slot.done = lanes.submit("out", lambda: self._copy_out(slot), after=[computed])
        return slot

    def _next_slot(self, shape: tuple[int, ...]) -> _Slot:
        pinned = self.device.type == "cuda"
        slots = self._slots.get(shape, lambda: [_Slot(shape, pinned=pinned) for _ in range(2)])
        slots.reverse()
        return slots[0]

    def _copy_in(self, slot: _Slot) -> None:
        if slot.device_in is None:
            slot.device_in = torch.empty_like(slot.host_in, device=self.device)
        slot.device_in.copy_(slot.host_in, non_blocking=True)

    @torch.inference_mode()
    def _compute(self, slot: _Slot) -> None:
        assert slot.device_in is not None
        output = self.network(slot.device_in.to(self.dtype))
        if slot.device_out is None:
            with torch.inference_mode(mode=False):  # to be written to in any mode
                slot.device_out = torch.empty(output.shape, device=self.device)
        slot.device_out.copy_(output)

    def _copy_out(self, slot: _Slot) -> None:
        assert slot.device_out is not None
        if slot.host_out is None:
            slot.host_out = torch.empty(slot.device_out.shape, pin_memory=slot.pinned)
        slot.host_out.copy_(slot.device_out, non_blocking=True)

    def _finish(self, slot: _Slot) -> NDArray[np.float32]:
        """Wait for a batch and take its result out of the slot."""
        assert slot.done is not None
        slot.done.synchronize()
        assert slot.host_out is not None
        result: NDArray[np.float32] = slot.host_out.numpy().copy()
        return result


def _as_tensor(images: NDArray[np.float32]) -> Tensor:
    """View an array as a tensor; one that cannot be written to, or runs backwards, is copied."""
    return torch.from_numpy(np.require(images, np.float32, ["C", "W"]))
