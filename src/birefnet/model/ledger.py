"""A ledger of the memory that tensors take, kept while a network runs, on real tensors or on shapes alone."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class Ledger(TorchDispatchMode):
    """Notes when the memory of each tensor comes and goes.

    Attributes:
        peak: greatest number of bytes of tensors at a time.
        events: in their order, the number of a piece of memory with its size where it comes, with 0 where it goes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[int, int]] = {}
        self._count = 0
        self.restart(0)

    def restart(self, fixed: int) -> None:
        """Forget what happened, and take what is there for so many bytes that stay."""
        self._known = dict.fromkeys(self._known, (-1, 0))
        self._live = self.peak = fixed
        self.events: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note its results."""
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0  # a shape has no value; what asks for one here chooses between ways to the same result
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for storage in storages:
            self._note(storage)
        if func in _CONVOLUTIONS:
            # On a CPU it works on copies, in an order of its own, of what it reads and writes.
            storages += [leaf.untyped_storage() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self._count += 1
            self.events += [(self._count, sum(storage.nbytes() for storage in storages)), (self._count, 0)]
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key: int = storage._cdata
        size = storage.nbytes()
        if key in self._known or not size:
            return
        self._count += 1
        self._known[key] = (self._count, size)
        self.events.append((self._count, size))
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        number, size = self._known.pop(key)
        if size:
            self.events.append((number, 0))
            self._live -= size
