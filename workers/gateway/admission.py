"""Who may be connected to the public port, and how often it may come.

Counted are those who have proved nothing, in all and by address, and whoever else an address has.
An address is an IPv4 address or the /64 of an IPv6 address: what one peer may be taken to have.
When there are too many the newest is refused: the others may be honest.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator.config import Limits
from workers.gateway.addresses import Networks, network_of
from workers.gateway.allowance import Bucket
from workers.gateway.refusals import Refusals

# The span that `limits.handshakes_per_address` counts, in seconds.
WINDOW = 60.0


class Guest(Protocol):
    """A connection, as long as it has proved nothing."""

    def turn_away(self, reason: str) -> None:
        """Cut the connection; it leaves."""


class Entry:
    """One connection's place. Leave when it is gone."""

    __slots__ = ("_admission", "address", "network")

    def __init__(self, admission: "Admission", address: str, network: str) -> None:
        self._admission = admission
        self.address = address
        self.network = network

    def expect(self, guest: Guest) -> None:
        """Who is to be cut when strangers have to make room."""
        self._admission.strangers[self] = guest

    def move(self, address: str) -> bool:
        """A proxy says for whom it speaks, whose place it needs; false to refuse it."""
        return self._admission.move(self, address)

    def prove(self) -> None:
        """It has proved who it is."""
        self._admission.prove(self)

    def note(self, reason: str, text: str) -> None:
        """Count why it is cut."""
        self._admission.refusals.note(reason, self.address, text)

    def leave(self) -> None:
        """The connection is gone. May be repeated."""
        self._admission.leave(self)


class Admission:
    """Counts connections. The limits are those in force when somebody enters."""

    def __init__(
        self,
        limits: Callable[[], Limits],
        refusals: Refusals,
        clock: Callable[[], float],
        *,
        proxies: Sequence[str] = (),
    ) -> None:
        """`proxies`: networks behind whose addresses there may be any number of peers."""
        self.strangers: dict[Entry, Guest | None] = {}
        """Who has proved nothing, the newest last."""
        self.is_short_of = ""
        """"memory": no stranger is let in."""
        self.last_descriptor = sys.maxsize
        """Those beyond it are kept for what is not a stranger's."""
        self.refusals = refusals
        self._limits = limits
        self._clock = clock
        self._proxies = Networks(proxies)
        self._entries: set[Entry] = set()
        self._strange: Counter[str] = Counter()
        self._connected: Counter[str] = Counter()
        self._windows: dict[str, Bucket] = {}

    @property
    def why_wait(self) -> str:
        """The reason that there is no place for any stranger, "" if there is one."""
        if self.is_short_of:
            return self.is_short_of
        is_full = len(self.strangers) >= self._limits().unauthenticated
        return "strangers" if is_full else ""

    def enter(self, address: str, descriptor: int = 0) -> Entry | None:
        """A place for a new connection, None to refuse it; `descriptor` is its socket's number.

        The system gives the lowest that is free: the number tells how many are in use.
        """
        network = network_of(address)
        is_last = descriptor > self.last_descriptor
        reason = "descriptors" if is_last else self._why_not(address, network)
        if reason:
            self.refusals.note(reason, address, "its connection is refused")
            return None
        entry = Entry(self, address, network)
        self._add(entry, None)
        return entry

    def move(self, entry: Entry, address: str) -> bool:
        guest = self.strangers.get(entry)
        self.leave(entry)
        entry.address, entry.network = address, network_of(address)
        reason = self._why_not(address, entry.network)
        if reason:
            self.refusals.note(reason, address, "its request is refused")
            return False
        self._add(entry, guest)
        return True

    def _add(self, entry: Entry, guest: Guest | None) -> None:
        self._entries.add(entry)
        self.strangers[entry] = guest
        self._strange[entry.network] += 1
        self._connected[entry.network] += 1

    def prove(self, entry: Entry) -> None:
        if entry in self.strangers:
            del self.strangers[entry]
            _discount(self._strange, entry.network)

    def leave(self, entry: Entry) -> None:
        if entry in self._entries:
            self.prove(entry)
            self._entries.remove(entry)
            _discount(self._connected, entry.network)

    def shed(self, count: int, reason: str) -> int:
        """Cut so many strangers, the newest first; returns how many there were."""
        shed = 0
        for entry, guest in reversed(list(self.strangers.items())):
            if shed == count:
                break
            if guest is not None:
                self.refusals.note(reason, entry.address, "its connection makes room for others")
                guest.turn_away(f"the worker is short of {reason}")
                self.leave(entry)
                shed += 1
        return shed

    def each_second(self) -> None:
        """Forget who has not come for long."""
        now = self._clock()
        self._windows = {n: each for n, each in self._windows.items() if not each.is_full(now)}

    def _why_not(self, address: str, network: str) -> str:
        """The reason to refuse a connection, "" to let it in."""
        limits = self._limits()
        if reason := self.why_wait:
            return reason
        if address in self._proxies:
            return ""
        if self._strange[network] >= self._most_strangers(network, limits):
            return "strangers-of-address"
        if self._connected[network] >= limits.connections_per_address:
            return "connections-of-address"
        if limits.handshakes_per_address and not self._comes_seldom(network, limits):
            return "handshakes-of-address"
        return ""

    def _most_strangers(self, network: str, limits: Limits) -> int:
        """One more for each connection from there that has proved a domain, up to half of all.

        A host of thousands of domains brings them all at once after a restart.
        """
        least = limits.unauthenticated_per_address
        proved = self._connected[network] - self._strange[network]
        return max(least, min(least + proved, limits.unauthenticated // 2))

    def reload(self) -> None:
        """The limit in force now holds for those, too, who have come often."""
        rate = self._limits().handshakes_per_address / WINDOW
        for window in self._windows.values():
            window.set_rate(rate)

    def _comes_seldom(self, network: str, limits: Limits) -> bool:
        now = self._clock()
        window = self._windows.get(network)
        if window is None:
            rate = limits.handshakes_per_address / WINDOW
            window = self._windows[network] = Bucket(rate, burst=WINDOW)
        return window.take_if_left(1, now)


def _discount(counter: Counter[str], network: str) -> None:
    counter[network] -= 1
    if not counter[network]:
        del counter[network]
