"""Turns for work that many want at the same moment: after a flap or a restart, every hop connects.

So many have a turn at once; whoever has stanzas waiting goes first, but every fourth turn is the
others'. What a turn is for has keys: its site, under whose domain anybody may make up names without
end, and the network that it leads to. Sites have turns in rotation, and no key has more than an
eighth of all at once, so that neither a thousand domains of one owner nor those of a hosting
provider that is down keep the rest from theirs.

A turn counts for a second at most, and less when others wait: a handshake that works is mostly over
by then, and those that hang in the network must not keep the rest waiting.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import NamedTuple

LONGEST_TURN = 1.0
HURRIED_TURN = 0.25
_URGENT_IN_A_ROW = 3
_SHARE = 8
# Under these labels of a country registries give names to everybody.
_REGISTRIES = frozenset(("ac", "co", "com", "edu", "gov", "net", "or", "org"))


class Key(NamedTuple):
    """What a turn is for: both parts are counted."""

    site: str
    network: str


def key_for(domain: str, address: str) -> Key:
    """The key of a connection to a remote domain at an IP address."""
    return Key(site_of(domain), _network_of(address))


def site_of(domain: str) -> str:
    """The part of a domain under which its owner may make up names without end."""
    labels = domain.split(".")
    is_registry = len(labels) > 2 and labels[-2] in _REGISTRIES and len(labels[-1]) == 2
    return ".".join(labels[-3 if is_registry else -2 :])


def _network_of(address: str) -> str:
    """What one owner has at least: /24, or /48 of IPv6."""
    address = address.partition("%")[0]
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


class _Waiting(NamedTuple):
    key: Key
    turn: asyncio.Future[None]


class _Line:
    """Those that wait, by site: next is the site whose last turn, or first wish, is longest ago.

    A site whose next in line meets a full key is parked there and comes back when a turn of that
    key is over, so that picking costs O(log n) of the sites.
    """

    def __init__(self, running: Counter[str], share: int) -> None:
        self.queues: dict[str, deque[_Waiting]] = {}
        self._running = running
        self._share = share
        self._turns = 0
        self._ready: list[tuple[int, str]] = []
        self._parked: dict[str, list[tuple[int, str]]] = {}

    def add(self, waiting: _Waiting) -> None:
        site = waiting.key.site
        if site not in self.queues:
            self.queues[site] = deque()
            self._enrol(site)
        self.queues[site].append(waiting)

    def _enrol(self, site: str) -> None:
        self._turns += 1
        heapq.heappush(self._ready, (self._turns, site))

    def pick(self) -> _Waiting | None:
        """Who has the next turn; None if all that wait have full keys."""
        while self._ready:
            since, site = heapq.heappop(self._ready)
            queue = self.queues[site]
            while queue and queue[0].turn.done():  # gave up
                self._wake_all(queue.popleft().key)
            if not queue:
                del self.queues[site]
                continue
            head = queue[0]
            full = next((part for part in head.key if self._running[part] >= self._share), None)
            if full is not None:
                heapq.heappush(self._parked.setdefault(full, []), (since, site))
                # What let it come so far is for somebody else.
                self._wake_all(head.key)
                continue
            queue.popleft()
            if queue:
                self._enrol(site)
            else:
                del self.queues[site]
            return head
        return None

    def wake(self, part: str) -> None:
        """A turn of this part of a key is over: one of those it held back goes on waiting."""
        parked = self._parked.get(part)
        if parked is None or self._running[part] >= self._share:
            return
        heapq.heappush(self._ready, heapq.heappop(parked))
        if not parked:
            del self._parked[part]

    def _wake_all(self, key: Key) -> None:
        for part in key:
            self.wake(part)


class Herd:
    """At most `limit` turns at once, an eighth of them (at least one) for each part of a key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._share = max(1, limit // _SHARE)
        self._of_part: Counter[str] = Counter()
        self._urgent = _Line(self._of_part, self._share)
        self._others = _Line(self._of_part, self._share)
        self._row = 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        queues = (*self._urgent.queues.values(), *self._others.queues.values())
        return sum(not each.turn.done() for queue in queues for each in queue)

    @asynccontextmanager
    async def turn(self, key: Key, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn and have it."""
        await self._begin(key, urgent)
        loop = asyncio.get_running_loop()
        longest = loop.time() + LONGEST_TURN
        timer: asyncio.TimerHandle
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._end(key)

        def look() -> None:
            nonlocal timer
            if self._urgent.queues or self._others.queues or loop.time() >= longest:
                end()
            else:
                timer = loop.call_later(HURRIED_TURN, look)

        timer = loop.call_later(HURRIED_TURN, look)
        try:
            yield
        finally:
            timer.cancel()
            end()

    async def _begin(self, key: Key, urgent: bool) -> None:
        line = self._urgent if urgent else self._others
        # While turns are free, all who wait have full keys: whoever has not passes nobody.
        if self.running < self.limit and key.site not in line.queues and self._has_room(key):
            self._count(key, 1)
            return
        waiting = _Waiting(key, asyncio.get_running_loop().create_future())
        line.add(waiting)
        self._serve()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                self._end(key)  # it came at the same moment: for somebody else
            raise

    def _has_room(self, key: Key) -> bool:
        return all(self._of_part[part] < self._share for part in key)

    def _count(self, key: Key, change: int) -> None:
        self.running += change
        for part in key:
            self._of_part[part] += change
            if not self._of_part[part]:
                del self._of_part[part]

    def _end(self, key: Key) -> None:
        """A turn is over: the next in line has it, if there is one."""
        self._count(key, -1)
        for line in (self._urgent, self._others):
            for part in key:
                line.wake(part)
        self._serve()

    def _serve(self) -> None:
        while self.running < self.limit:
            waiting = self._pick()
            if waiting is None:
                return
            waiting.turn.set_result(None)
            self._count(waiting.key, 1)

    def _pick(self) -> _Waiting | None:
        if self._row < _URGENT_IN_A_ROW and (waiting := self._urgent.pick()) is not None:
            self._row += 1
            return waiting
        if (waiting := self._others.pick()) is not None:
            self._row = 0
            return waiting
        return self._urgent.pick()
