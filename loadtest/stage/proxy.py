"""A TCP proxy of the stage: passes bytes on, until it is told not to read from a connection."""

import asyncio
import socket
import struct
from collections.abc import Iterable

_HIGH_WATER = 1 << 18


class Pipe:
    """One accepted connection and the one made for it to the upstream."""

    def __init__(self) -> None:
        self.near = _End(self)
        self.far = _End(self)
        self.near.other, self.far.other = self.far, self.near
        self.is_stalled = False

    @property
    def upstream_name(self) -> str:
        """Our `address:port` as the upstream sees it."""
        assert self.far.transport is not None
        address, port = self.far.transport.get_extra_info("sockname")[:2]
        return f"{address}:{port}"

    @property
    def is_open(self) -> bool:
        return all(end.transport and not end.transport.is_closing() for end in self._ends)

    def stall(self) -> None:
        """Read nothing more from either side, and keep both connections: half-open for each."""
        self.is_stalled = True
        for end in self._ends:
            if end.transport is not None:
                end.transport.pause_reading()

    def cut(self) -> None:
        """Reset both connections."""
        for end in self._ends:
            end.reset()

    @property
    def _ends(self) -> "tuple[_End, _End]":
        return self.near, self.far


class _End(asyncio.Protocol):
    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.other: _End
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        transport.writelines(self.early)
        self.early.clear()
        if self.other.has_ended:
            transport.write_eof()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is None:
            self.other.early.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; the connection stays open until both sides have ended."""
        self.has_ended = True
        other = self.other.transport
        if other is not None and not other.is_closing():
            other.write_eof()
        return not self.other.has_ended

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.pipe.is_stalled and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.pipe.is_stalled:
            self.other.transport.resume_reading()


class Proxy:
    """Listens on `address` and connects on to `upstream`, with the same port."""

    def __init__(self, address: str, upstream: str, port: int) -> None:
        self.address = address
        self.upstream = upstream
        self.port = port
        self._pipes: list[Pipe] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def pipes(self) -> list[Pipe]:
        """Connections that are open on both sides and pass bytes on."""
        self._pipes = [pipe for pipe in self._pipes if pipe.is_open or pipe.is_stalled]
        return [pipe for pipe in self._pipes if not pipe.is_stalled]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, self.address, self.port)

    async def stop(self) -> None:
        """Close all connections, stalled ones too."""
        if self._server is not None:
            self._server.close()
        self.cut(self._pipes)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, pipes: Iterable[Pipe]) -> None:
        """Reset connections, and forget them."""
        for pipe in list(pipes):
            pipe.cut()
            if pipe in self._pipes:
                self._pipes.remove(pipe)

    def cut_stalled(self) -> None:
        """Reset those that were stalled."""
        self.cut([pipe for pipe in self._pipes if pipe.is_stalled])

    def _accept(self) -> asyncio.Protocol:
        pipe = Pipe()
        task = asyncio.get_running_loop().create_task(self._connect(pipe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return pipe.near

    async def _connect(self, pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: pipe.far, self.upstream, self.port)
        except OSError:
            pipe.near.reset()
            return
        self._pipes.append(pipe)
