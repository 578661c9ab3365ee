"""A WebSocket on a channel after the opening handshake: messages, ping, close (RFC 6455).

How they open: `websocket_handshake.py`; how they read: `frame_reader.py`.
"""

import asyncio
from typing import Protocol

from cryptography import x509
from websockets.datastructures import Headers
from websockets.protocol import Protocol as SansIOProtocol
from websockets.protocol import State

from workers.gateway.allowance import Allowance
from workers.gateway.channel import Channel
from workers.gateway.frame_reader import UNTOUCHED, FrameReader
from workers.gateway.frames import (
    PING_FIN,
    PONG_FIN,
    control_frame,
    text_frames,
)

# RFC 6455 leaves it open; xmpp-proxy never answers Close, so this is what its sessions take to end.
CLOSE_TIMEOUT = 2.0
SUBPROTOCOL = "xmpp"


class WebSocketOwner(Protocol):
    """What a WebSocket tells whoever uses it. None of these may raise."""

    def websocket_opened(self, headers: Headers) -> None:
        """The handshake is done: the headers of the peer's request or response."""

    def messages_received(self, messages: list[bytes]) -> None:
        """All text messages of one read, in order. Their UTF-8 is not checked yet."""

    def pong_received(self, payload: bytes) -> None: ...

    def write_paused(self) -> None:
        """Stop sending; see `Channel`."""

    def write_resumed(self) -> None: ...

    def websocket_closed(self, code: int, reason: str) -> None:
        """Exactly once after `websocket_opened`: no message comes, none can be sent any more.

        The code is the peer's; ours when we failed the connection (1002, 1003, 1007, 1009);
        1006 when the connection ended without a Close frame.
        """


class WebSocket(FrameReader):
    """One WebSocket connection, either role. Owner of its channel."""

    # With more than 30 attributes an instance's dictionary takes 1.6 KiB.
    __slots__ = (
        "_began_at",
        "_close_timer",
        "_head",
        "_held_pong",
        "_loop",
        "_open",
        "_paused",
        "_told_closed",
        "channel",
        "message_timeout",
        "meter",
        "owner",
    )

    def __init__(self, protocol: SansIOProtocol, *, allow_unmasked: bool = False) -> None:
        super().__init__(protocol, allow_unmasked=allow_unmasked)
        self.owner: WebSocketOwner | None = None
        self.channel = Channel(self)
        self._loop = asyncio.get_running_loop()
        # Of the HTTP message that opens, as far as it has come; None when it is complete.
        self._head: bytearray | None = None
        self._open = False
        self._told_closed = False
        self._paused = False
        self.meter: Allowance | None = None
        """Counts what is read, in bytes and frames of any kind, once the peer is known."""
        self.message_timeout = float("inf")
        """Seconds after which a message that began must be complete."""
        # Since when a message has been incomplete.
        self._began_at = 0.0
        self._held_pong = b""
        self._close_timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Messages can be sent."""
        return self._open and self._protocol.state is State.OPEN and not self.channel.is_closing

    @property
    def peer_address(self) -> str:
        """The IP address of the peer, also behind trusted proxies; "" on a unix socket."""
        peer = self.channel.peername
        return peer[0] if isinstance(peer, tuple) else ""

    @property
    def is_behind_proxy(self) -> bool:
        """The peer's address is what a trusted proxy has told."""
        return False

    def peer_chain(self) -> list[x509.Certificate]:
        """The peer's certificates, unverified, leaf first; may be empty."""
        return self.channel.peer_chain()

    def send_messages(self, messages: list[bytes]) -> bool:
        """Send each as one unfragmented text message; false, and nothing sent, when not open.

        They leave with all else written in this turn of the loop. Stop while `write_paused`.
        """
        channel = self.channel
        if not self._open or self._protocol.state is not State.OPEN or channel.is_closing:
            return False
        channel.write(text_frames(messages, mask=self._masks))
        return True

    def ping(self, payload: bytes) -> bool:
        """Send a Ping (≤ 125 bytes) behind all messages sent so far; false when not open."""
        if not self.is_open:
            return False
        self.channel.write(control_frame(PING_FIN, payload, mask=self._masks))
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; messages may still arrive until the peer's Close.

        After `CLOSE_TIMEOUT` seconds without an answer the connection ends as 1006. Idempotent.
        """
        if not self.is_open:
            if self._protocol.state is State.CONNECTING:
                self.channel.close()
            return
        encoded = reason.encode("utf-8")[:123].decode("utf-8", "ignore")
        self._own_protocol().send_close(code, encoded)
        self._write_protocol()
        self._expect_close()

    def abort(self, reason: str = "aborted") -> None:
        """Cut the connection at once; the owner hears 1006."""
        self._tell_closed(1006, reason)
        self.channel.abort(reason)

    def _begin(self) -> None:
        """The handshake is done, and what knows of it needed no more."""
        self._open = True
        self._protocol.parser.close()  # whose frame holds the protocol: they are freed at once
        self._protocol = UNTOUCHED

    # What the channel calls.

    def connected(self) -> None: ...

    def tls_established(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._take_head(data)
            return
        if self._deaf:
            return
        size = len(data)
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._needed:
                self._on_progress(size, 0)
                if self._deaf:
                    self._on_last_frame()
                return
            data = bytes(buffer)
            buffer.clear()
        self._take(data, size)

    def _take_head(self, data: bytes) -> None:
        """The roles' own: how a WebSocket opens."""
        raise NotImplementedError

    def _put_off(self) -> None:
        self.channel.pass_turn(self._go_on)

    def _go_on(self) -> None:
        """Our next turn: cut what was left."""
        if self._buffer and not (self._deaf or self.channel.is_closing):
            data = bytes(self._buffer)
            self._buffer.clear()
            self._take(data, 0)

    def _cut_all(self) -> None:
        """The end has come in the same read (close_notify): there is no next turn."""
        left = -1
        while self._buffer and len(self._buffer) != left:
            left = len(self._buffer)
            self._go_on()

    def _take(self, data: bytes, size: int) -> None:
        """Cut what is there; `size` of it is new."""
        messages = self._cut(data)
        self._on_progress(size, len(messages))
        if messages and self.owner is not None and not self._told_closed:
            self.owner.messages_received(messages)
        if self._deaf:
            self._on_last_frame()

    def restart_clock(self) -> None:
        """It was not the peer who let an incomplete message wait."""
        if self._began_at:
            self._began_at = self._loop.time()

    def _on_slow(self, reason: str) -> None:
        """The connection is about to be failed for it."""

    def _on_progress(self, size: int, messages: int) -> None:
        """Something was read: is the peer within its share and its time?"""
        now = self._loop.time()
        if not (self._buffer or self._message or self._through):
            self._began_at = 0.0
        elif messages or not self._began_at:
            self._began_at = now
        elif now - self._began_at > self.message_timeout:
            reason = f"a message took more than {self.message_timeout:g} s"
            self._on_slow(reason)
            self._own_protocol().fail(1008, reason)
            self._write_protocol()
            self._deaf = True
        if self.meter is not None:
            self.channel.has_company = not self.meter.is_alone(now)
            rest = self.meter.take(size, messages + self._uncommon, now)
            if rest:
                self.channel.rest(rest)
                self._began_at = self._began_at and self._began_at + rest
        self._uncommon = 0

    def eof_received(self) -> None:
        self._cut_all()
        self._own_protocol().receive_eof()
        self._write_protocol()
        self._tell_closed(1006, "the peer ended the connection without a Close frame")
        self.channel.close()

    def write_paused(self) -> None:
        self._paused = True
        if self.owner is not None and not self._told_closed:
            self.owner.write_paused()

    def write_resumed(self) -> None:
        self._paused = False
        if self._held_pong:
            self.channel.write(self._held_pong)
            self._held_pong = b""
        if self.owner is not None and not self._told_closed:
            self.owner.write_resumed()

    def closed(self, reason: str | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._protocol is not UNTOUCHED:
            self._protocol.receive_eof()
            self._protocol.data_to_send()
            # It would keep itself alive by its generator, and by what that has raised.
            self._protocol.parser.close()
            self._protocol.parser_exc = None
        self._tell_closed(1006, reason or "the connection ended without a Close frame")
        if self.meter is not None:
            self.meter.remember()
        self._buffer.clear()
        self._message = None
        self.owner = None

    def _on_pong(self, payload: bytes, messages: list[bytes]) -> None:
        owner = self.owner
        if owner is None or self._told_closed:
            return
        if messages:  # what came before the Pong is told before it
            self._uncommon += len(messages)
            owner.messages_received(messages.copy())
            messages.clear()
        if not self._told_closed:
            owner.pong_received(payload)

    # Sending and ending.

    def _write_protocol(self) -> None:
        for data in self._protocol.data_to_send():
            if not data:
                self.channel.close()
            elif data[0] == PONG_FIN:
                self._write_pong(data)
            else:
                self.channel.write(data)

    def _write_pong(self, frame: bytes) -> None:
        if self._paused:
            # RFC 6455 §5.5.3: only the latest Ping needs an answer. A peer that pings and does not
            # read must not fill our memory.
            self._held_pong = frame
        else:
            self.channel.write(frame)

    def _on_last_frame(self) -> None:
        """The peer's Close has come, or a frame that ended the connection."""
        protocol = self._protocol
        close = protocol.close_rcvd or protocol.close_sent
        if close is None:
            raise AssertionError("a protocol that has failed has sent Close")
        self._tell_closed(close.code, close.reason)
        self._expect_close()

    def _expect_close(self) -> None:
        if self._close_timer is None and not self.channel.is_closing:
            self._close_timer = self._loop.call_later(CLOSE_TIMEOUT, self._on_close_timeout)

    def _on_close_timeout(self) -> None:
        self._tell_closed(1006, "the peer did not answer Close")
        self.channel.close()

    def _tell_closed(self, code: int, reason: str) -> None:
        if self._open and not self._told_closed:
            self._told_closed = True
            if self.owner is not None:
                self.owner.websocket_closed(code, reason)
