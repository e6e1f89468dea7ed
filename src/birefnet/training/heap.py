"""The heap of a process, played without one: how far it reaches when tensors come and go.

A process keeps the holes between its tensors, so that it takes more than its tensors do.
"""

import bisect
from collections.abc import Sequence

_STEPS = 3
"""Steps that are played: holes that one leaves may be no room for the next; further ones change next to nothing."""


def reach_of(fixed: int, events: Sequence[tuple[int, int]]) -> int:
    """How far a heap reaches that keeps `fixed` bytes, and then sees the events of a step several times over.

    Args:
        fixed: bytes that are there all the time.
        events: in their order, the number of a piece of memory with its size where it comes, with 0 where it goes.
    """
    heap = Heap()
    heap.take(fixed)
    for _ in range(_STEPS):
        places: dict[int, int] = {}
        for number, size in events:
            if size:
                places[number] = heap.take(size)
            elif number in places:
                heap.give(places.pop(number))
        for place in places.values():
            heap.give(place)
    return heap.reach


class Heap:
    """A heap as the C library of Linux keeps one: the smallest hole that is large enough is taken, and holes merge.

    Attributes:
        reach: how far it ever went, in bytes.
    """

    _ALIGNED = 64

    def __init__(self) -> None:
        self.reach = 0
        self._end = 0
        self._holes: list[tuple[int, int]] = []  # size and place, sorted
        self._hole_sizes: dict[int, int] = {}  # by place
        self._hole_places: dict[int, int] = {}  # by end
        self._taken: dict[int, int] = {}  # size by place

    def take(self, size: int) -> int:
        """Find room, and tell where."""
        size = -(-(size + self._ALIGNED) // self._ALIGNED) * self._ALIGNED
        index = bisect.bisect_left(self._holes, (size, 0))
        if index < len(self._holes):
            room, place = self._holes[index]
            self._fill(place)
            if room > size:
                self._open(place + size, room - size)
        else:
            place = self._end
            self._end += size
            self.reach = max(self.reach, self._end)
        self._taken[place] = size
        return place

    def give(self, place: int) -> None:
        """Free what is at a place."""
        size = self._taken.pop(place)
        if place + size in self._hole_sizes:
            size += self._fill(place + size)
        if place in self._hole_places:
            place = self._hole_places[place]
            size += self._fill(place)
        if place + size == self._end:
            self._end = place
        else:
            self._open(place, size)

    def _open(self, place: int, size: int) -> None:
        bisect.insort(self._holes, (size, place))
        self._hole_sizes[place] = size
        self._hole_places[place + size] = place

    def _fill(self, place: int) -> int:
        size = self._hole_sizes.pop(place)
        del self._hole_places[place + size]
        del self._holes[bisect.bisect_left(self._holes, (size, place))]
        return size
