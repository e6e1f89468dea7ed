"""The heap that a step is played through."""

from birefnet.training.heap import Heap


def test_holes_of_the_heap_are_used_and_merge() -> None:
    heap = Heap()
    a, b, c = heap.take(1000), heap.take(5000), heap.take(1000)
    reach = heap.reach
    heap.give(b)
    assert heap.take(2000) == b
    d = heap.take(2000)
    assert b < d < c
    assert heap.reach == reach
    heap.take(6000)  # finds no hole
    assert heap.reach > reach + 6000
    for place in (a, b, d, c):
        heap.give(place)
    assert heap.take(7000) == a
