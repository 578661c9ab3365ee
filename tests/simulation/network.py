"""The network between processes: connections that delay, stall, break or swallow what is sent.

What travels is a `Parcel`: bytes of a TCP stream, or one unit of a WebSocket, with the ids of the
stanzas in it, so that the checker hears what was lost on the way and through whose fault.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tests.simulation.world import Process, World

EOF = "eof"
RESET = "reset"
DATA = "data"


class Parcel(NamedTuple):
    """Something on its way: `kind` is DATA, EOF or RESET."""

    kind: str
    payload: Any
    ids: tuple[str, ...] = ()


class Receiver(Protocol):
    """Whoever reads at an end."""

    def received(self, parcels: list[Parcel]) -> None: ...


class End:
    """One end of a connection, as the kernel of its process has it."""

    def __init__(self, wire: "Wire", process: Process, label: str) -> None:
        self.wire = wire
        self.process = process
        self.label = label
        self.peer: End
        self.receiver: Receiver | None = None
        self.inbox: deque[Parcel] = deque()
        self.is_reading = True
        self.is_closed = False
        """We sent FIN or RST: nothing more leaves."""
        self.is_gone = False
        """Nothing more is read here."""
        self.is_cut_short = False
        """What it has sent and is still under way arrives no more."""
        self.last_arrival = 0.0
        self._is_posted = False
        self.on_input: Callable[[], None] | None = None

    def send(self, payload: Any, ids: tuple[str, ...] = ()) -> None:
        if self.process.is_dead:
            return  # nobody sees what a killed process would have done
        if self.is_closed:
            self.wire.lost(self, Parcel(DATA, payload, ids), "was written after the end")
            return
        self.wire.transmit(self, Parcel(DATA, payload, ids))

    def finish(self) -> None:
        """FIN."""
        if not self.is_closed and not self.process.is_dead:
            self.is_closed = True
            self.wire.transmit(self, Parcel(EOF, None))

    def abort(self) -> None:
        """RST: what was not read is lost."""
        if self.is_gone or self.process.is_dead:
            return
        self.drop_unread("the reader cut the connection")
        if not self.is_closed:
            self.is_closed = True
            self.wire.transmit(self, Parcel(RESET, None))

    def drop_unread(self, why: str) -> None:
        self.is_gone = True
        for parcel in self.inbox:
            self.wire.lost(self.peer, parcel, why)
        self.inbox.clear()

    def process_died(self) -> None:
        """The kernel closes what a dead process had open; what it has sent still arrives.

        Not always: a peer that goes on writing may see the reset before it has read.
        """
        had_unread = bool(self.inbox)
        self.is_cut_short = self.wire.network.world.rng.random() < 0.5
        self.drop_unread("its reader was killed")
        if not self.is_closed:
            self.is_closed = True
            self.wire.transmit(self, Parcel(RESET if had_unread else EOF, None))

    def deliver(self, parcel: Parcel) -> None:
        if self.is_gone or self.process.is_dead:
            self.wire.lost(self.peer, parcel, "nobody reads any more")
            return
        self.inbox.append(parcel)
        if self.on_input is not None:
            self.on_input()
        self.wake()

    def wake(self) -> None:
        if self.receiver is not None and self.is_reading and self.inbox and not self._is_posted:
            self._is_posted = True
            self.process.post(self._pump)

    def _pump(self) -> None:
        self._is_posted = False
        if not self.is_reading or self.receiver is None or self.is_gone:
            return
        parcels = list(self.inbox)
        self.inbox.clear()
        self.receiver.received(parcels)

    def set_reading(self, wanted: bool) -> None:
        self.is_reading = wanted
        self.wake()


class Wire:
    """A connection; `kind` says between whom: "local-out", "local-in", "wss-out", "wss-in"."""

    def __init__(self, network: "Network", kind: str, near: Process, far: Process) -> None:
        self.network = network
        self.kind = kind
        self.number = network.world.ordinal()
        self.a = End(self, near, f"{kind}#{self.number}")
        self.b = End(self, far, f"{kind}#{self.number}")
        self.a.peer, self.b.peer = self.b, self.a
        self.is_cut = False
        self.is_black = False
        self.latency = network.latency
        network.wires.append(self)

    def transmit(self, sender: End, parcel: Parcel) -> None:
        world = self.network.world
        if self.is_cut or self.is_black:
            self.lost(sender, parcel, "a fault broke the connection")
            return
        delay = self.latency * (0.5 + world.rng.random())
        arrival = max(sender.last_arrival, world.now + delay)
        sender.last_arrival = arrival
        world.later(arrival - world.now, self._arrive, sender, parcel)

    def _arrive(self, sender: End, parcel: Parcel) -> None:
        if self.is_cut or self.is_black:
            self.lost(sender, parcel, "a fault broke the connection")
        elif not (sender.is_cut_short and parcel.kind == DATA):  # no excuse: nobody acknowledged it
            sender.peer.deliver(parcel)

    def lost(self, sender: End, parcel: Parcel, why: str) -> None:
        if parcel.ids:
            self.network.on_lost(self, sender, parcel.ids, why)

    def cut(self) -> None:
        """A fault: both ends learn of it after a moment, what was under way is lost."""
        if self.is_cut or (self.a.is_gone and self.b.is_gone):
            return
        self.is_cut = True
        self.network.world.trace("FAULT", f"cut {self.a.label}")
        for end in (self.a, self.b):
            delay = self.network.world.rng.random() * 0.05
            self.network.world.later(delay, self._tell_cut, end)

    def _tell_cut(self, end: End) -> None:
        if not end.is_gone and not end.process.is_dead:
            end.is_closed = True
            end.inbox.append(Parcel(RESET, None))
            if end.on_input is not None:
                end.on_input()
            end.wake()

    def blacken(self) -> None:
        """A fault: from now on nothing arrives, in either direction, and nobody is told."""
        self.network.world.trace("FAULT", f"black hole {self.a.label}")
        self.is_black = True
        # A server that is not ours finds out in its own time.
        for end in (self.a, self.b):
            if end.process.machine is None:
                self.network.world.later(8.0, self._tell_cut, end)

    @property
    def is_open(self) -> bool:
        return not (self.is_cut or self.a.is_gone or self.b.is_gone)


class Network:
    """Who can be connected to, and all connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.latency = 0.002
        self.wires: list[Wire] = []
        self.gateways: dict[str, Any] = {}
        self.services: dict[tuple[str, int], Callable[[End], bool]] = {}
        self.on_lost: Callable[[Wire, End, tuple[str, ...], str], None] = lambda *_: None
        self.on_read: Callable[[End, tuple[str, ...]], None] = lambda *_: None

    def open(self, kind: str, near: Process, far: Process) -> Wire:
        wire = Wire(self, kind, near, far)
        near.on_death.append(wire.a.process_died)
        far.on_death.append(wire.b.process_died)
        if len(self.wires) > 200:
            self.wires = [each for each in self.wires if each.is_open]
        return wire
