"""A session: one stream and the connection below it.

The session moves bytes between the two, runs the stream's timer and hands events to the part that
owns it (a source or a hop). The two kinds of connection differ only in how bytes are packed.
"""

import asyncio
import logging
import math
import time
from typing import Any, Protocol

from cryptography import x509

from workers.gateway.after_read import after_read
from workers.gateway.channel import Channel
from workers.gateway.tls_engine import TLSContext
from workers.xmpp.events import (
    Acknowledged,
    Event,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
    TlsStarting,
)
from workers.xmpp.stream import ServerStream, State

log = logging.getLogger(__name__)

# After both sides have closed their streams, how long the connection may take to end.
CLOSE_TIMEOUT = 5.0
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
