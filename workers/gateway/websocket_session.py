"""A session on a WebSocket (XEP-0468), and how it is kept alive."""

import asyncio
import secrets
import time
from typing import Any

from cryptography import x509
from websockets.datastructures import Headers

from workers.gateway import beats
from workers.gateway.beats import Beat
from workers.gateway.session import Session, SessionOwner
from workers.gateway.websocket import WebSocket
from workers.xmpp.errors import StreamCondition
from workers.xmpp.names import names_now
from workers.xmpp.stream import ServerStream, State


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
