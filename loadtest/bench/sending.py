"""Sending encoded batches over links: as fast as they are taken, or so many a second."""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.bench.link import Link
from loadtest.bench.stanzas import SIZE, encode

TICK = 0.001


@dataclass(slots=True)
class Packet:
    """What is written at once: numbers `first` to `first + count - 1`."""

    link: Link
    data: bytes
    first: int
    count: int


def prepare(
    links: list[Link], count: int, batch: int, *, size: int = SIZE, mixed: bool = False
) -> list[Packet]:
    """`count` stanzas in batches, dealt to the links in turn."""
    packets = []
    for at, first in enumerate(range(0, count, batch)):
        link = links[at % len(links)]
        numbers = range(first, min(count, first + batch))
        messages = [encode(link.sender, link.target, n, size=size, mixed=mixed) for n in numbers]
        packets.append(Packet(link, link.packed(messages), first, len(messages)))
    return packets


class Load:
    """One run of prepared packets; `finished` is done when all are written and acknowledged.

    It fails with `ConnectionError` when a link ends before that.
    """

    def __init__(self, packets: list[Packet], *, rate: float, window: int) -> None:
        self.count = sum(packet.count for packet in packets)
        self.sent_at = array("d", bytes(8 * self.count))
        """When each stanza was due, with a `rate`; its link may have held it back since."""
        self._rate = rate
        self._window = window
        self._queues: dict[Link, deque[Packet]] = {}
        self._busy: set[Link] = set()
        """Links with something to write, or to be acknowledged where they have XEP-0198."""
        self._upcoming: Iterator[Packet] = iter(packets)
        for packet in packets:
            self._queues.setdefault(packet.link, deque())
        self._loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._due = 0
        self._begun = 0.0

    def start(self) -> None:
        """Begin to send."""
        for link in self._queues:
            link.on_progress = self._on_progress
        self._begun = time.monotonic()
        if self._rate:
            self._tick()
            return
        for packet in self._upcoming:
            self._queues[packet.link].append(packet)
        self._busy.update(self._queues)
        for link in self._queues:
            self._on_progress(link)

    def _tick(self) -> None:
        now = time.monotonic()
        target = (now - self._begun) * self._rate
        while self._due < target:
            packet = next(self._upcoming, None)
            if packet is None:
                self._check()
                return
            self._due += packet.count
            for number in range(packet.first, packet.first + packet.count):
                self.sent_at[number] = now
            self._queues[packet.link].append(packet)
            self._on_progress(packet.link)
        self._loop.call_later(TICK, self._tick)

    def _on_progress(self, link: Link) -> None:
        self._fill(link)
        if self._queues[link] or (link.manages and link.acknowledged < link.sent):
            self._busy.add(link)
            if link.is_closed and not self.finished.done():
                self.finished.set_exception(
                    ConnectionError(f"{link.sender} → {link.target} has ended")
                )
        else:
            self._busy.discard(link)
            self._check()

    def _fill(self, link: Link) -> None:
        queue = self._queues[link]
        while queue and not (link.is_blocked or link.is_closed):
            packet = queue[0]
            outstanding = link.sent - link.acknowledged
            if link.manages and outstanding and outstanding + packet.count > self._window:
                return
            queue.popleft()
            link.write(packet.data, packet.count)

    def _check(self) -> None:
        """Done when nothing is left to write or to be acknowledged."""
        if not (self._busy or self.finished.done() or (self._rate and self._due < self.count)):
            self.finished.set_result(None)
