"""The network between processes: connections that delay, stall, break or swallow what is sent.

What travels is a `Parcel`: bytes of a TCP stream, or one unit of a WebSocket, with the ids of the
stanzas in it, so that the checker hears what was lost on the way and through whose fault.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tests.simulation import stanzas
from tests.simulation.world import Process, World

EOF = "eof"
RESET = "reset"
DATA = "data"


records: list[int] = []
"""The sizes of the writes in what a transport gives its protocol now: TLS keeps them apart."""


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
        """The kernel closes what a dead process had open; what it has sent still arrives."""
        had_unread = bool(self.inbox)
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
        else:
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

    async def connect_gateway(self, process: Process, address: str) -> "FakeSocket":
        """TCP to the local port of another machine's gateway."""
        await asyncio.sleep(self.latency)
        machine = self.gateways.get(address)
        if machine is None or machine.is_down:
            raise ConnectionRefusedError(111, "Connection refused")
        wire = self.open("splice", process, machine.coordinator)
        machine.listening.arrive(FakeSocket(wire.b))
        return FakeSocket(wire.a)

    async def connect_stream(self, process: Process, factory: Any, host: str, port: int) -> Any:
        """What `loop.create_connection` does here: TCP to a service of this network."""
        await asyncio.sleep(self.latency)
        accept = self.services.get((host, port))
        end = accept(process) if accept is not None else None  # type: ignore[arg-type]
        if end is None:
            raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
        protocol = factory()
        transport = Transport(end, protocol)
        return transport, protocol


class Transport(asyncio.Transport):
    """An asyncio transport over an end."""

    def __init__(self, end: End, protocol: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", end.wire.number), "socket": _UNIX})
        self.end = end
        self._protocol = protocol
        self._is_closing = False
        self._is_lost = False
        end.receiver = self
        protocol.connection_made(self)
        end.wake()

    def received(self, parcels: list[Parcel]) -> None:
        data: list[bytes] = []
        for parcel in parcels:
            if parcel.kind is DATA:
                data.append(parcel.payload)
                self.end.wire.network.on_read(self.end, parcel.ids)
                continue
            self._feed(data)
            if parcel.kind is RESET:
                self._lose(ConnectionResetError("Connection reset by peer"))
                return
            if not self._is_lost and not self._protocol.eof_received():
                self.close()
        self._feed(data)

    def _feed(self, data: list[bytes]) -> None:
        if data and not self._is_lost:
            records[:] = [len(each) for each in data]
            joined = b"".join(data)
            data.clear()
            self._protocol.data_received(joined)

    def _lose(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self.end.drop_unread("the reader closed the connection")
        self._protocol.connection_lost(exc)

    def write(self, data: Any) -> None:
        if not self._is_closing:
            is_splice = self.end.wire.kind == "splice"
            self.end.send(data, stanzas.ids_in(data) if is_splice else ())

    def write_eof(self) -> None:
        self.end.finish()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.end.finish()
            self.end.process.call_soon(self._lose, None)

    def abort(self) -> None:
        if not self._is_lost:
            self._is_closing = True
            self.end.abort()
            self.end.process.call_soon(self._lose, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.end.set_reading(False)

    def resume_reading(self) -> None:
        self.end.set_reading(True)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class _UnixSocket:
    family = socket.AF_UNIX  # nothing to set on it


_UNIX = _UnixSocket()


class FakeSocket:
    """A connected socket before it has a transport: it can be peeked at and handed on."""

    family = socket.AF_UNIX

    def __init__(self, end: End) -> None:
        self.end = end
        self.is_handed_on = False
        end.on_input = self._on_input
        self._loop: Process | None = None

    def watch(self, loop: Process) -> None:
        self._loop = loop
        self._on_input()

    def _on_input(self) -> None:
        if self._loop is not None and self in self._loop.readers and self.end.inbox:
            callback, args = self._loop.readers[self]
            self._loop.post(callback, *args)

    def fileno(self) -> int:
        return 1000 + self.end.wire.number

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, *args: Any) -> None: ...

    def getsockopt(self, *args: Any) -> bytes:
        ended = any(parcel.kind is not DATA for parcel in self.end.inbox)
        return struct.pack("B", 7 if ended else 1)

    def recv(self, size: int, flags: int = 0) -> bytes:
        inbox = self.end.inbox
        if not inbox:
            raise BlockingIOError
        if inbox[0].kind is RESET:
            raise ConnectionResetError(104, "Connection reset by peer")
        data = b"".join(parcel.payload for parcel in inbox if parcel.kind is DATA)[:size]
        if not flags & socket.MSG_PEEK:
            left = len(data)
            while left:
                parcel = inbox.popleft()
                if len(parcel.payload) > left:
                    inbox.appendleft(parcel._replace(payload=parcel.payload[left:]))
                left -= min(left, len(parcel.payload))
        return data

    def send(self, data: bytes) -> None:
        self.end.send(data)

    def close(self) -> None:
        if not self.is_handed_on and self.end.receiver is None:
            self.end.on_input = None
            self.end.finish()
            self.end.drop_unread("the socket was closed")

    def detach(self) -> int:
        return self.fileno()

    def dup(self) -> "FakeSocket":
        return self

    def move_to(self, process: Process) -> None:
        """Handed over (SCM_RIGHTS): from now on another process's death closes it."""
        self.end.process.on_death.remove(self.end.process_died)
        self.end.process = process
        process.on_death.append(self.end.process_died)

    def attach(self, process: Process, factory: Any) -> Any:
        self.end.on_input = None
        protocol = factory()
        transport = Transport(self.end, protocol)
        return transport, protocol


class Listening:
    """The one local port of a machine: all of its workers watch it, whoever is first accepts."""

    def __init__(self) -> None:
        self.waiting: deque[FakeSocket] = deque()
        self.sockets: list[ListeningSocket] = []

    def arrive(self, sock: FakeSocket) -> None:
        self.waiting.append(sock)
        for each in list(self.sockets):
            each.look()


class ListeningSocket:
    """The port as one worker has inherited it."""

    def __init__(self, listening: Listening, process: Process) -> None:
        self._listening = listening
        self._process = process
        listening.sockets.append(self)
        process.on_death.append(self.close)

    def setblocking(self, flag: bool) -> None: ...

    def close(self) -> None:
        if self in self._listening.sockets:
            self._listening.sockets.remove(self)

    def watch(self, process: Process) -> None:
        self.look()

    def look(self) -> None:
        if self._listening.waiting:
            self._process.post(self._readable)

    def _readable(self) -> None:
        if self._listening.waiting and self in self._process.readers:
            callback, args = self._process.readers[self]
            callback(*args)

    def accept(self) -> tuple[FakeSocket, Any]:
        if not self._listening.waiting:
            raise BlockingIOError
        sock = self._listening.waiting.popleft()
        sock.move_to(self._process)
        return sock, ("127.0.0.1", 1)
