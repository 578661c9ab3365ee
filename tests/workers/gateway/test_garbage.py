import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from workers.gateway import garbage
from workers.gateway.garbage import Garbage


class Node:
    """Part of a cycle by itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    monkeypatch.setattr(garbage, "GROWTH", 1.0)
    monkeypatch.setattr(garbage, "LEAST_GROWTH", 50_000)
    made = Garbage()
    made.start()
    yield made
    made.stop()


def test_what_has_been_looked_at_is_left_alone_until_memory_has_grown(running: Garbage):
    node = Node()
    gc.collect()
    seen = weakref.ref(node)
    del node
    gc.collect()
    assert seen() is not None
    blocks = sys.getallocatedblocks()
    more = [object() for _ in range(60_000)]
    assert sys.getallocatedblocks() - blocks > 50_000
    gc.collect()
    assert seen() is None
    # From here on it is measured by what has been left.
    node = Node()
    gc.collect()
    seen = weakref.ref(node)
    del node, more
    gc.collect()
    assert seen() is not None


def test_what_is_new_is_looked_at_each_time(running: Garbage):
    for _ in range(3):
        node = Node()
        seen = weakref.ref(node)
        del node
        gc.collect()
        assert seen() is None


def test_reference_counts_free_what_is_frozen(running: Garbage):
    kept = {1, 2}, Node()
    kept[1].itself = None  # type: ignore[assignment]
    gc.collect()
    seen = weakref.ref(kept[1])
    del kept
    assert seen() is None


def test_it_can_be_left_to_python_again(running: Garbage):
    node = Node()
    gc.collect()
    seen = weakref.ref(node)
    running.stop()
    assert gc.get_freeze_count() == 0
    del node
    gc.collect()
    assert seen() is None
    running.start()  # for the fixture's end
