"""A session: one stream and the connection below it.

The session moves bytes between the two, runs the stream's timer and hands events to the part that
owns it (a source or a hop). The two kinds of connection differ only in how bytes are packed.
"""

import asyncio
import logging
import math
import secrets
import socket
import time
from typing import Any, Protocol

from cryptography import x509
from websockets.datastructures import Headers

from workers.gateway import beats
from workers.gateway.beats import Beat
from workers.gateway.channel import Channel, after_read
from workers.gateway.tls_engine import TLSContext
from workers.gateway.websocket import WebSocket
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    Event,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
    TlsStarting,
)
from workers.xmpp.names import names_now
from workers.xmpp.stream import ServerStream, State

log = logging.getLogger(__name__)

# After both sides have closed their streams, how long the connection may take to end.
CLOSE_TIMEOUT = 5.0
# LuaSocket, hence Prosody, writes in steps of so many bytes; others in whole TLS records, which are
# twice as large.
WRITE_STEP = 8192
# Of these a session itself needs to know nothing.
_OWNERS_ALONE = frozenset({StanzasReceived, Acknowledged})


class SessionOwner(Protocol):
    """What a session tells the part it works for. None of these may raise."""

    def on_event(self, session: "Session", event: Event) -> None:
        """Something happened on the stream; whatever it queues is written afterwards."""

    def on_write_paused(self, session: "Session") -> None: ...

    def on_write_resumed(self, session: "Session") -> None: ...

    def on_pong(self, session: "Session", payload: bytes) -> None: ...

    def on_closed(self, session: "Session", reason: str) -> None:
        """Exactly once: nothing more will come or go."""


class _Nobody:
    """Owns what has ended."""

    def on_event(self, session: "Session", event: Event) -> None: ...

    def on_write_paused(self, session: "Session") -> None: ...

    def on_write_resumed(self, session: "Session") -> None: ...

    def on_pong(self, session: "Session", payload: bytes) -> None: ...

    def on_closed(self, session: "Session", reason: str) -> None: ...


_NOBODY = _Nobody()


class Session:
    """One stream on one connection; `TcpSession` and `WebSocketSession` are the two kinds."""

    __slots__ = (
        "__weakref__",
        "_ack_scheduled",
        "_close_timer",
        "_closed_future",
        "_loop",
        "_timer",
        "channel",
        "ended",
        "is_paused",
        "opened_at",
        "owner",
        "proved_until",
        "reason",
        "stream",
        "tls_context",
    )

    def __init__(self, stream: ServerStream, owner: SessionOwner) -> None:
        self.stream = stream
        self.owner = owner
        self.opened_at = time.time()
        self.proved_until = math.inf
        """When the certificate lapses that proves the peer (POSIX time), see `expiry`."""
        self.channel: Channel
        self.tls_context: TLSContext | None = None
        """Set before the stream may ask for STARTTLS."""
        self.reason = ""
        self.ended = False
        self.is_paused = False
        self._loop = asyncio.get_running_loop()
        self._closed_future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ack_scheduled = False
        self._close_timer: asyncio.TimerHandle | None = None

    # What owners call.

    def write(self) -> None:
        """Send what the stream has queued; the channel joins all writes of a read."""
        stream = self.stream
        if stream.outgoing:
            self._send(stream.data_to_send())

    def pump(self) -> None:
        """Hand out events until none is left, write, and end the connection with the stream."""
        stream = self.stream
        while stream.events:
            for event in stream.events_received():
                if type(event) in _OWNERS_ALONE:  # the common case
                    self.owner.on_event(self, event)
                else:
                    self._dispatch(event)
        if stream.outgoing:
            self._send(stream.data_to_send())
        if stream.state is State.CLOSED:
            self._end()
        elif stream.state is State.CLOSING and self._close_timer is None and not self.ended:
            self._close_timer = self._loop.call_later(CLOSE_TIMEOUT, self._on_close_timeout)

    def mark_handled(self, count: int) -> None:
        """Count stanzas as handled and tell the peer once for all of a read (XEP-0198)."""
        stream = self.stream
        stream.mark_handled(count)
        if not self._ack_scheduled and (stream.received.enabled or stream.state is State.SETTLING):
            self._ack_scheduled = True
            after_read(self._loop, self._send_ack)

    def close(self, see_other_uri: str | None = None) -> None:
        """Close the stream in order; the connection follows when the peer has closed too."""
        self.stream.close(see_other_uri)
        self.pump()

    @property
    def closed_future(self) -> asyncio.Future[None]:
        """Done when the session has ended. Few ask for it: 0.2 KiB."""
        if self._closed_future is None:
            self._closed_future = self._loop.create_future()
            if self.ended:
                self._closed_future.set_result(None)
        return self._closed_future

    def pause_reading(self) -> None:
        """Let TCP hold the peer back."""
        self.is_paused = True
        self.channel.pause_reading()

    def resume_reading(self) -> None:
        self.is_paused = False
        self.channel.resume_reading()

    @property
    def is_reading(self) -> bool:
        """The peer's answers reach us: neither its owner nor its rate holds it back."""
        return not (self.is_paused or self.channel.is_resting)

    def shrink_if_idle(self) -> None:
        """Hold less memory if nothing has come or gone since it was last asked."""
        if self.channel.shrink_if_idle():
            self.stream.shrink()

    def start_timer(self) -> None:
        """Watch over the negotiation."""
        if (at := self.stream.timer_at()) is not None and not self.ended:
            self._timer = self._loop.call_at(at, self._on_timer)

    def peer_chain(self) -> list[x509.Certificate]:
        """The peer's certificates, unverified, leaf first."""
        return self.channel.peer_chain()

    def abort(self, reason: str) -> None:
        """Cut the connection at once."""
        self.reason = self.reason or reason
        self.channel.abort(reason)

    def describe(self) -> dict[str, Any]:
        """What `/api/sessions` shows of every session."""
        peer = self.channel.peername
        return {
            "peer": f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "",
            "tls": self.channel.tls_summary(),
            "since": self.opened_at,
            "state": self.stream.state.name.lower(),
        }

    # Inside.

    def _receive(self, data: bytes) -> None:
        self.stream.receive(data)
        self.pump()

    def _send(self, data: list[bytes]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _dispatch(self, event: Event) -> None:
        kind = type(event)
        if kind is TlsStarting:
            self._start_tls()
            return
        if kind is StreamEstablished and self._timer is not None:
            # Its time would come in half a minute, until when it holds 0.5 KiB.
            self._timer.cancel()
            self._timer = None
            self.start_timer()
        elif kind is StreamFailed:
            self._note_failure(event)  # type: ignore[arg-type]
        elif kind is StreamClosed and not self.reason:
            self.reason = "closed" if event.clean else "connection lost"  # type: ignore[union-attr]
        self.owner.on_event(self, event)

    def _note_failure(self, event: StreamFailed) -> None:
        if self.reason:
            return  # whoever ended the stream knew better
        who = "the peer" if event.by_peer else "we"
        text = f" ({event.text[:256]})" if event.text else ""
        self.reason = f"{who} ended the stream: {event.condition.value}{text}"

    def _note_end(self) -> None:
        if self._closed_future is not None:
            self._closed_future.set_result(None)

    def _start_tls(self) -> None:
        raise NotImplementedError

    def _send_ack(self) -> None:
        self._ack_scheduled = False
        if not self.ended:
            self.stream.send_ack()
            self.pump()  # the last acknowledgement may end a stream that the peer has closed

    def _on_timer(self) -> None:
        self._timer = None
        self.stream.handle_timer(self._loop.time())
        self.pump()
        self.start_timer()

    def _on_close_timeout(self) -> None:
        self.stream.receive_eof()
        self.pump()

    def _lost(self, reason: str) -> None:
        """The connection is gone, in order or not."""
        if self.ended:
            return
        self.stream.receive_eof()
        for event in self.stream.events_received():
            self._dispatch(event)
        self.ended = True
        for timer in (self._timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        if self.reason in ("", "connection lost"):
            self.reason = reason
        self._note_end()
        owner, self.owner = self.owner, _NOBODY  # else they would keep each other
        owner.on_closed(self, self.reason)


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


class WebSocketSession(Session):
    """A session on a WebSocket (XEP-0468), kept alive by pings (RFC 7395 §3.8)."""

    __slots__ = (
        "_beat",
        "_close_code",
        "_echoes",
        "_is_attached",
        "_ping_interval",
        "_unanswered",
        "_was_early",
        "websocket",
    )

    def __init__(
        self, stream: ServerStream, owner: SessionOwner, *, ping_interval: float = 25.0
    ) -> None:
        super().__init__(stream, owner)
        self.websocket: WebSocket
        self._ping_interval = ping_interval
        self._beat: Beat | None = None
        self._unanswered = 0
        self._is_attached = False
        self._was_early = False
        self._close_code = 1000
        self._echoes: dict[bytes, asyncio.Future[None]] | None = None
        """What `round_trip` waits for."""

    def attach(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.channel = websocket.channel
        websocket.message_timeout = self.stream.config.limits.stanza_timeout
        self._is_attached = True
        if self._was_early:
            # RFC 7395 §3.4: the client opens the stream.
            self.abort("the peer spoke before the stream was opened")

    def resume_reading(self) -> None:
        super().resume_reading()
        self.websocket.restart_clock()

    def ping(self, payload: bytes) -> None:
        """A Ping behind everything written so far; `on_pong` follows."""
        self.websocket.ping(payload)

    async def round_trip(self) -> float:
        """Seconds until a Ping is answered; the deadline is the caller's.

        Raises `ConnectionError`.
        """
        if self.ended:
            raise ConnectionError
        payload = b"fedgate-" + secrets.token_hex(8).encode()
        echo: asyncio.Future[None] = self._loop.create_future()
        echoes = self._echoes = self._echoes or {}
        echoes[payload] = echo
        started = time.perf_counter()  # uvloop's own clock counts milliseconds
        self.ping(payload)
        try:
            await echo
        finally:
            echoes.pop(payload, None)
        return time.perf_counter() - started

    def _send(self, data: list[bytes]) -> None:
        self.websocket.send_messages(data)

    def _end(self) -> None:
        # RFC 7395 §3.6: the stream is closed first, then the WebSocket.
        self.websocket.close(self._close_code)

    def _start_tls(self) -> None:
        raise AssertionError("a WebSocket never starts TLS inside (RFC 7395 §3.9)")

    def keep_alive(self) -> None:
        """In each `ping_interval`."""
        if not self._is_attached:
            return  # it has opened this moment, and others of its beat long ago
        # xmpp-proxy stops reading after a surprise and keeps the socket: only silence tells.
        if not self.is_reading:
            self._unanswered = 0  # its answers wait
        if self._unanswered >= 2:
            self.abort(f"no answer to pings for {2 * self._ping_interval:g} s")
            return
        self._unanswered += 1
        self.websocket.ping(b"k")

    def peer_chain(self) -> list[x509.Certificate]:
        return self.websocket.peer_chain()

    def describe(self) -> dict[str, Any]:
        shown = super().describe()
        if self.websocket.is_behind_proxy:
            shown["peer"] = f"{self.websocket.peer_address} via {shown['peer']}"
        return shown

    # What the WebSocket calls.

    def websocket_opened(self, headers: Headers) -> None:
        self._beat = beats.join(self, self._ping_interval)

    def messages_received(self, messages: list[bytes]) -> None:
        self._unanswered = 0
        if not self._is_attached:
            self._was_early = True
            return
        before = names_now()
        self.stream.receive(messages)
        if (brought := names_now() - before) > 0:
            self.note_names(brought)
        if self.stream.state is State.CLOSED and not all(map(_is_utf8, messages)):
            self._close_code = 1007  # RFC 6455 §8.1; the parser has refused it by then
        self.pump()

    def note_names(self, count: int = 0) -> None:
        """The peer has brought new names, which stay: whoever brings too many is sent away."""
        meter = self.websocket.meter
        if meter is not None and not meter.take_names(count, self._loop.time()):
            self.stream.fail(StreamCondition.POLICY_VIOLATION, "too many new XML names")

    def pong_received(self, payload: bytes) -> None:
        self._unanswered = 0
        if self._echoes and (echo := self._echoes.pop(payload, None)):
            if not echo.done():
                echo.set_result(None)
        elif payload != b"k":
            self.owner.on_pong(self, payload)

    def write_paused(self) -> None:
        self.owner.on_write_paused(self)

    def write_resumed(self) -> None:
        self.owner.on_write_resumed(self)

    def websocket_closed(self, code: int, reason: str) -> None:
        if self._beat is not None:
            self._beat.leave(self)
        for echo in (self._echoes or {}).values():
            if not echo.done():
                echo.set_exception(ConnectionError())
        text = f": {reason[:256]}" if reason else ""
        self._lost(f"WebSocket closed with {code}{text}")


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True
