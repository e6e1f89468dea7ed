"""What inference keeps between calls and in how large pieces it works."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import torch

Value = TypeVar("Value")

_KEPT = 32


class SizeCache(Generic[Value]):
    """Keeps what depends on the size of the input alone, for the sizes used last."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Give the value of a key, made on its first use."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        if len(self._values) > self._most:
            self._values.popitem(last=False)
        return value


# A GPU's launches cost more than its caches give, so pieces are only to keep memory in bounds there.
_ON_GPUS = 64


def elements_on(device: torch.device, elements: int) -> int:
    """How many elements to work on at a time on a device, where so many suit a processor's cache."""
    return elements if device.type == "cpu" else _ON_GPUS * elements


def row_chunks(count: int, width: int, elements: int, least: int = 1) -> Iterator[slice]:
    """Cut rows into even chunks of about so many elements, for rows of `width` elements, but of `least` rows."""
    chunks = max(min(-(-count * width // elements), count // least), 1)
    size = -(-count // chunks)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
