"""A session on TCP, towards the local server or its component port."""

import asyncio
import socket

from workers.gateway.channel import Channel
from workers.gateway.session import Session, SessionOwner
from workers.xmpp.stream import ServerStream

# LuaSocket, hence Prosody, writes in steps of so many bytes; others in whole TLS records, which are
# twice as large.
WRITE_STEP = 8192


class TcpSession(Session):
    """A session on TCP: towards the local server, STARTTLS inside (RFC 6120 §5)."""

    __slots__ = (
        "_is_server",
        "_last_record",
        "_rest_timer",
        "_server_name",
        "by_record",
        "writes",
    )

    def __init__(
        self, stream: ServerStream, owner: SessionOwner, *, is_server: bool, server_name: str = ""
    ) -> None:
        super().__init__(stream, owner)
        self.channel = Channel(self, quick_ack=True)
        self.by_record = False
        """Take what is read one TLS record after the other, and count the peer's writes."""
        self.writes = 0
        """Which write of the peer's is being taken: a record of whole steps is not its end."""
        self._last_record = 0
        self._rest_timer: asyncio.TimerHandle | None = None
        self._is_server = is_server
        self._server_name = server_name

    async def connect(self, host: str, port: int) -> None:
        """Raises OSError; the deadline is the caller's."""
        await self._loop.create_connection(lambda: self.channel, host, port)

    async def adopt(self, sock: socket.socket) -> None:
        """Take over a connected, non-blocking socket. Raises OSError."""
        await self._loop.connect_accepted_socket(lambda: self.channel, sock)

    def _send(self, data: list[bytes]) -> None:
        self.channel.write(data[0] if len(data) == 1 else b"".join(data))

    def _end(self) -> None:
        self.channel.close()

    def _start_tls(self) -> None:
        assert self.tls_context is not None, "no TLS context for STARTTLS"
        self.write()
        context, self.tls_context = self.tls_context, None
        self.channel.start_tls(
            context, server=self._is_server, server_name=self._server_name or None
        )

    # What the channel calls.

    def connected(self) -> None: ...

    def tls_established(self) -> None:
        self.stream.tls_established(self._loop.time())
        self.pump()

    def data_received(self, data: bytes) -> None:
        if self.by_record:
            self._receive_by_record(data)
        else:
            self._receive(data)
        if self._rest_timer is None and self.stream.unfinished:
            self._await_rest()

    def _receive_by_record(self, data: bytes) -> None:
        start = 0
        for size in self.channel.record_sizes or (len(data),):
            if self._last_record % WRITE_STEP or not self._last_record:
                self.writes += 1
            self._last_record = size
            self._receive(data[start : start + size])
            start += size

    def _await_rest(self) -> None:
        """Watch over an element that is not complete yet: one timer for many reads."""
        if (number := self.stream.unfinished) and not self.is_paused and not self.ended:
            patience = self.stream.config.limits.stanza_timeout
            self._rest_timer = self._loop.call_later(patience, self._on_rest_due, number)

    def _on_rest_due(self, number: int) -> None:
        self._rest_timer = None
        self.stream.fail_unfinished(number)
        self.pump()
        self._await_rest()

    def _forget_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def pause_reading(self) -> None:
        self._forget_rest()  # the rest waits where we do not read
        super().pause_reading()

    def resume_reading(self) -> None:
        super().resume_reading()
        self._await_rest()

    def eof_received(self) -> None:
        self.stream.receive_eof()
        self.pump()
        self.channel.close()

    def write_paused(self) -> None:
        self.owner.on_write_paused(self)

    def write_resumed(self) -> None:
        self.owner.on_write_resumed(self)

    def closed(self, reason: str | None) -> None:
        self._forget_rest()
        self._lost(reason or "connection closed")
