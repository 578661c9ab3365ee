"""Ends of connections as code sees them: asyncio transports, sockets, listening sockets."""

import asyncio
import socket
import struct
from collections import deque
from typing import Any

from tests.simulation import stanzas
from tests.simulation.network import DATA, RESET, End, Network, Parcel
from tests.simulation.world import Process

records: list[int] = []
"""The sizes of the writes in what a transport gives its protocol now: TLS keeps them apart."""


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
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                self._protocol.get_buffer(-1)[: len(joined)] = joined
                self._protocol.buffer_updated(len(joined))
            else:
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


async def connect_gateway(network: Network, process: Process, address: str) -> FakeSocket:
    """TCP to the local port of another machine's gateway."""
    await asyncio.sleep(network.latency)
    machine = network.gateways.get(address)
    if machine is None or machine.is_down:
        raise ConnectionRefusedError(111, "Connection refused")
    wire = network.open("splice", process, machine.coordinator)
    machine.listening.arrive(FakeSocket(wire.b))
    return FakeSocket(wire.a)


async def connect_stream(
    network: Network, process: Process, factory: Any, host: str, port: int
) -> Any:
    """What `loop.create_connection` does here: TCP to a service of this network."""
    await asyncio.sleep(network.latency)
    accept = network.services.get((host, port))
    end = accept(process) if accept is not None else None  # type: ignore[arg-type]
    if end is None:
        raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
    protocol = factory()
    transport = Transport(end, protocol)
    return transport, protocol
