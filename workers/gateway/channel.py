"""One TCP connection, with TLS that may be switched on at any moment, on uvloop or asyncio.

    channel = Channel(owner)
    await adopt_channel(channel, sock)              or   await loop.create_connection(…)
    owner.connected() → … → owner.closed(reason)    exactly once each

What is written while a read is taken is collected and leaves at its end, as one run of TLS records
in one transport.write; what is written at other times leaves at the next turn of the loop.
"""

import asyncio
import contextlib
import socket
from functools import partial
from typing import Any, Protocol, cast

from cryptography import x509

from workers.gateway.after_read import after_read, begin_read, end_read
from workers.gateway.held_reading import BY_HANDSHAKE, BY_TURN, HeldReading
from workers.gateway.linger import Linger
from workers.gateway.tls_engine import TLSContext, TLSEngine, TLSFailed
from workers.gateway.turns import Turns

HIGH_WATER = 262144
LOW_WATER = 65536
# Most bytes that one connection reads in one turn of the loop: some 100 stanzas, 1 ms. The others
# have their turns between.
READ_SIZE = 32768
# The same in company, where it is others who wait: one full TLS record. Alone 5 to 8 % faster.
SHARED_READ_SIZE = 16384
# More bytes than this wait only for a peer that makes us answer and does not read the answers:
# whoever sends stanzas stops at `HIGH_WATER`, after at most a `sending.PIECE`.
MAX_UNREAD = 4194304
UNREAD = "the peer does not read what it asks for"

# One for all channels: what is read is used up before the loop reads anything else.
_buffer = memoryview(bytearray(READ_SIZE))
_shared_buffer = _buffer[:SHARED_READ_SIZE]


class ChannelOwner(Protocol):
    """What a channel tells whoever uses it. None of these may raise."""

    def connected(self) -> None:
        """The connection is up: `channel.peername` is known, writing is allowed."""

    def tls_established(self) -> None:
        """The handshake asked for by `start_tls` is complete: `peer_chain` is known."""

    def data_received(self, data: bytes) -> None:
        """Everything that one read brought, decrypted."""

    def eof_received(self) -> None:
        """The peer will send no more. Writing still works; the owner must `close` in the end."""

    def write_paused(self) -> None:
        """More than `HIGH_WATER` bytes wait for the peer: stop writing."""

    def write_resumed(self) -> None:
        """Fewer than `LOW_WATER` bytes wait: write again."""

    def closed(self, reason: str | None) -> None:
        """The connection is gone; the reason is None when both sides ended it in order."""


class Channel(HeldReading):
    """One TCP connection with optional TLS; see the module's text. For one thread."""

    __slots__ = (
        "_eof",
        "_flush_scheduled",
        "_has_sent",
        "_idle_looks",
        "_is_choked",
        "_linger",
        "_pending",
        "_pending_bytes",
        "_quick_ack",
        "_quick_ack_socket",
        "_reason",
        "_tls",
        "_tls_told",
        "_unread",
        "has_company",
        "owner",
        "peername",
        "turns",
    )

    def __init__(self, owner: ChannelOwner | None = None, *, quick_ack: bool = False) -> None:
        super().__init__()
        self.owner = owner
        self.peername: Any = None
        self.turns: Turns | None = None
        """Those of the peer's TLS handshake, if it has to wait for them."""
        self.has_company = False
        """Others want to be read, too: take less at a time."""
        self._quick_ack = quick_ack
        self._quick_ack_socket: Any = None
        self._tls: TLSEngine | None = None
        self._tls_told = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._flush_scheduled = False
        self._has_sent = True
        self._idle_looks = 0
        self._is_choked = False
        self._unread = 0
        self._eof = False
        self._reason: str | None = None
        self._linger: Linger | None = None

    # What the owner calls.

    def write(self, data: bytes) -> None:
        """Send, as the module's text says. Dropped silently once the channel is closing.

        Waits for the handshake while one is under way.
        """
        if self._closing:
            return
        self._pending.append(data)
        self._pending_bytes += len(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            after_read(self._loop, self.flush)

    def flush(self) -> None:
        """Send now what was written, where the next step depends on it."""
        self._flush_scheduled = False
        transport = self._transport
        if not self._pending or transport is None or transport.is_closing():
            return
        tls = self._tls
        if tls is not None and not tls.established:
            return
        pending, self._pending = self._pending, []
        self._pending_bytes = 0
        self._idle_looks = 0
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        if tls is not None:
            try:
                tls.send(data)
            except TLSFailed as exc:
                self._fail(f"TLS: {exc}")
                return
            data = tls.data_to_send()
        if self._is_choked:
            self._unread += len(data)
            # What a resumed session sends again at once may be more, and is not for the asking.
            is_asked_for = self._unread > MAX_UNREAD - HIGH_WATER
            if is_asked_for and transport.get_write_buffer_size() > MAX_UNREAD:
                self.abort(UNREAD)
                return
        self._has_sent = True
        transport.write(data)

    def start_tls(
        self, context: TLSContext, *, server: bool, server_name: str | None = None
    ) -> None:
        """Switch TLS on: what was written before goes out in the clear, the rest encrypted.

        Bytes the peer sent in the clear behind its last plaintext message must not be used: the
        caller stops reading its message there. The handshake's deadline is the caller's.
        """
        assert self._tls is None, "TLS is on already"
        self.flush()
        self._tls = TLSEngine(context, server=server, server_name=server_name)
        try:
            self._tls.handshake()
        except TLSFailed as exc:
            self._fail(f"TLS handshake: {exc}")
            return
        self._write_tls()

    def close(self, reason: str | None = None) -> None:
        """Send what is waiting, close_notify, FIN; then read until the peer's FIN, so without RST.

        See `linger.py` for how long.
        """
        if self._closing:
            return
        self.flush()
        transport = self._transport
        if self._closing:  # the flush has failed
            return
        self._closing = True
        self._reason = reason
        if transport is None or transport.is_closing():
            return
        if self._tls is not None:
            self._tls.shutdown()
            self._write_tls()
        if self._eof:
            transport.close()  # what it holds is sent first, if the peer reads
        else:
            self._held = 0
            transport.resume_reading()
            if transport.can_write_eof():
                # asyncio says here that the peer has reset the connection; its end follows.
                with contextlib.suppress(OSError):
                    transport.write_eof()
        self._linger = Linger(self._loop, transport, self._on_stuck)

    def abort(self, reason: str | None = "aborted") -> None:
        """Cut the connection at once; what waits is lost."""
        self._closing = True
        self._pending.clear()
        self._pending_bytes = 0
        if self._reason is None:
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def shrink_if_idle(self) -> bool:
        """Hold less memory if nothing has come or gone since it was last asked; true once then."""
        self._idle_looks += 1
        if self._idle_looks != 2:
            return False
        if self._tls is not None:
            self._tls.shrink()
        return True

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._pending_bytes + waiting

    @property
    def is_closing(self) -> bool:
        """Nothing written from now on would be sent."""
        return self._closing

    @property
    def record_sizes(self) -> tuple[int, ...]:
        """Of the TLS records that the owner was given last as one, if they were several."""
        return self._tls.record_sizes if self._tls is not None else ()

    @property
    def has_tls(self) -> bool:
        """TLS is on and its handshake complete."""
        return self._tls is not None and self._tls.established

    def peer_chain(self) -> list[x509.Certificate]:
        """The peer's certificates as presented, unverified, leaf first; may be empty."""
        return self._tls.peer_chain() if self._tls is not None else []

    def tls_summary(self) -> str:
        """`TLSv1.3 TLS_AES_256_GCM_SHA384`, or '' without TLS."""
        return self._tls.summary() if self._tls is not None else ""

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self.peername = transport.get_extra_info("peername")
        if self._closing:  # closed while it was still connecting
            self._transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # uvloop does this by itself; asyncio not for accepted sockets.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._quick_ack:
                self._quick_ack_socket = sock
        if self.owner is not None:
            self.owner.connected()
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared_buffer if self.has_company else _buffer

    def buffer_updated(self, nbytes: int) -> None:
        size = SHARED_READ_SIZE if self.has_company else READ_SIZE
        if nbytes == size and not self._closing:
            # There is more, and the loop would read it at once: the others first.
            self._hold(BY_TURN)
            self._loop.call_soon(self._let_go, BY_TURN)
        begin_read()
        has_sent, self._has_sent = self._has_sent, False
        try:
            data = bytes(_buffer[:nbytes])
            if self.turns is None:
                self.data_received(data)
            else:
                self.take(data)
        finally:
            end_read(self._loop)
        sock = self._quick_ack_socket
        if has_sent and not self._has_sent and sock is not None and not self._closing:
            # Both stock servers leave Nagle's algorithm on: with our acknowledgement delayed, each
            # answer they write would wait 40 ms. The kernel forgets it when we send. What we sent
            # in this read has acknowledged it: that saves two system calls and a segment.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def take(self, data: bytes) -> None:
        """Take what was read, a stranger's handshake when it has its turn."""
        tls = self._tls
        if self.turns is not None and tls is not None and not tls.established:
            self._hold(BY_HANDSHAKE)
            self.turns.wait(partial(self._shake_hands, data))
        else:
            self.data_received(data)

    def _shake_hands(self, data: bytes) -> None:
        self.data_received(data)
        self._let_go(BY_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        """Take what was read, now."""
        if self._closing:
            return
        self._idle_looks = 0
        tls = self._tls
        if tls is not None:
            try:
                data = tls.receive(data)
            except TLSFailed as exc:
                self._fail(f"TLS: {exc}" if tls.established else f"TLS handshake: {exc}")
                return
            if tls.outgoing:
                self._write_tls()
            if tls.established and not self._tls_told:
                self._tls_told = True
                self._tell_established()
        if data and self.owner is not None and not self._closing:
            self.owner.data_received(data)
        if tls is not None and tls.peer_closed:
            self._end_of_input()

    def eof_received(self) -> bool:
        if self._closing:
            self._eof = True
            return False
        if self._tls is not None and not self._tls.established:
            self._reason = "the peer ended the connection during the TLS handshake"
            self._closing = True
            self._eof = True
            if self._transport is not None:
                self._transport.close()
                self._linger = Linger(self._loop, self._transport, self._on_stuck)
            return True
        self._end_of_input()
        self._eof = True
        return True

    def pause_writing(self) -> None:
        self._is_choked = True
        self._unread = 0
        if self.owner is not None and not self._closing:
            self.owner.write_paused()

    def resume_writing(self) -> None:
        self._is_choked = False
        if self.owner is not None and not self._closing:
            self.owner.write_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        linger, self._linger = self._linger, None
        if linger is not None:
            linger.stop()
        self._closing = True
        self._held = 0  # what waits for its turn behind a rest would wait for ever
        # The session may wait to be resumed, or to be collected: not with 30 KiB of OpenSSL.
        self._transport = self._quick_ack_socket = self._tls = None
        owner, self.owner = self.owner, None
        if self._reason is None and exc is not None:
            self._reason = f"connection lost: {exc}"
        if owner is not None:
            owner.closed(self._reason)

    # Inside.

    def _tell_established(self) -> None:
        if self.owner is not None:
            self.owner.tls_established()
        self.flush()

    def _write_tls(self) -> None:
        if self._tls is not None and self._transport is not None:
            data = self._tls.data_to_send()
            if data and not self._transport.is_closing():
                self._has_sent = True
                self._transport.write(data)

    def _end_of_input(self) -> None:
        if not self._eof and not self._closing:
            self._eof = True
            if self.owner is not None:
                self.owner.eof_received()

    def _on_stuck(self) -> None:
        self._reason = self._reason or "the peer stopped reading"

    def _fail(self, reason: str) -> None:
        """TLS is beyond repair: its alert goes out, then the connection ends."""
        self._write_tls()
        self._tls = None
        self._pending.clear()
        self._pending_bytes = 0
        self.close(reason)


async def adopt_channel(channel: Channel, sock: socket.socket) -> None:
    """Put a channel that has an owner on a connected socket.

    `owner.connected` has been called when this returns. Raises `OSError`, with the socket closed.
    """
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: channel, sock)
    except OSError:
        sock.close()
        raise
