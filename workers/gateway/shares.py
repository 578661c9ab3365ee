"""How many of the lost sessions that are kept are whose, and whose to let go when it is too many.

Pure. However many sessions are lost at once, each costs O(log n) of the remotes that have some.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.routes import DomainPair


class Lost(NamedTuple):
    """A lost session as it counts here."""

    pair: DomainPair
    size: int
    """Bytes that waited to be sent back on it when it was lost; there may be others since."""


@dataclass(slots=True)
class _Share:
    """What one remote domain has."""

    since: int
    ids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    size: int = 0


class _Ranking:
    """Finds the remote with the most of something; of equals the one that has some for longest.

    A heap in which amounts that are out of date stay until they come up, or are too many.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._current: dict[str, tuple[int, int, str]] = {}

    def set(self, remote: str, amount: int, since: int) -> None:
        entry = (-amount, since, remote)
        if self._current.get(remote) == entry:
            return
        self._current[remote] = entry
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, entry)

    def remove(self, remote: str) -> None:
        del self._current[remote]

    def first(self) -> str:
        while True:
            entry = self._heap[0]
            if self._current.get(entry[2]) == entry:
                return entry[2]
            heapq.heappop(self._heap)


class Shares:
    """Lost sessions by id, pair and remote domain, with running totals."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of all."""
        self._lost: dict[str, Lost] = {}
        self._pairs: dict[DomainPair, OrderedDict[str, None]] = {}
        self._remotes: dict[str, _Share] = {}
        self._by_count, self._by_size = _Ranking(), _Ranking()
        self._added = 0

    def __len__(self) -> int:
        return len(self._lost)

    def __contains__(self, id: str) -> bool:
        return id in self._lost

    def add(self, id: str, lost: Lost) -> None:
        """It is the newest from now on, though it was there before."""
        self.discard(id)
        self._added += 1
        self._lost[id] = lost
        self._pairs.setdefault(lost.pair, OrderedDict())[id] = None
        share = self._remotes.setdefault(lost.pair.remote, _Share(self._added))
        share.ids[id] = None
        self._change(share, lost.pair.remote, lost.size)

    def discard(self, id: str) -> None:
        """It is not kept any more, if it was."""
        lost = self._lost.pop(id, None)
        if lost is None:
            return
        ids = self._pairs[lost.pair]
        del ids[id]
        if not ids:
            del self._pairs[lost.pair]
        share = self._remotes[lost.pair.remote]
        del share.ids[id]
        self._change(share, lost.pair.remote, -lost.size)

    def _change(self, share: _Share, remote: str, size: int) -> None:
        self.size += size
        share.size += size
        if share.ids:
            self._by_count.set(remote, len(share.ids), share.since)
            self._by_size.set(remote, share.size, share.since)
        else:
            del self._remotes[remote]
            self._by_count.remove(remote)
            self._by_size.remove(remote)

    def count(self, pair: DomainPair) -> int:
        """How many a pair has."""
        return len(self._pairs.get(pair, ()))

    def oldest_of(self, pair: DomainPair) -> str:
        """KeyError if the pair has none."""
        return next(iter(self._pairs[pair]))

    def oldest_of_most(self) -> str:
        """The oldest of the remote that has most sessions. IndexError if there is none."""
        return next(iter(self._remotes[self._by_count.first()].ids))

    def oldest_of_largest(self) -> str:
        """The oldest of the remote that has most bytes. IndexError if there is none."""
        return next(iter(self._remotes[self._by_size.first()].ids))
