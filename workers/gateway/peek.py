"""Reading a stream header without taking it: the socket can still be handed on untouched."""

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass
from typing import Any

from lxml import etree

from workers.xmpp.incremental import elements
from workers.xmpp.jid import InvalidJid, domain_of
from workers.xmpp.namespaces import STREAM_HEADER
from workers.xmpp.reader import pull_parser

# Seconds until we look again at a socket that claims news and has none.
_RECHECK_INTERVAL = 0.1
_TLS_HANDSHAKE = 0x16
_TCP_ESTABLISHED = 1
# White space, and the byte order mark that UTF-8 allows.
_BEFORE_MARKUP = b" \t\r\n\xef\xbb\xbf"
# A document type could declare entities; XMPP has neither it nor comments (RFC 6120 §11.1).
_MARKUP_BEFORE = re.compile(rb"(?:<\?xml[^>]*\?>\s*)?<!")


class PeekFailed(Exception):
    """No usable stream header came. `reason` is one line for the log; nothing was consumed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Peeked:
    """The domain pair that the header names, both normalised."""

    sender: str
    recipient: str


async def peek_header(sock: socket.socket, *, timeout: float = 10.0, limit: int = 8192) -> Peeked:
    """Wait for the plaintext stream header on `sock` and leave every byte of it in the kernel.

    `timeout` is in seconds for the whole header, `limit` in bytes. The socket must be non-blocking
    and without a transport; afterwards it may get one here, or be passed to another process. It is
    never closed. Raises `PeekFailed`.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _peek(sock, limit)
    except TimeoutError:
        raise PeekFailed(f"no stream header within {timeout:g} s") from None
    except OSError as exc:
        raise PeekFailed(f"connection lost before the stream header: {exc.strerror}") from None
    finally:
        _wake_at(sock, 1)


async def _peek(sock: socket.socket, limit: int) -> Peeked:
    seen = 0
    while True:
        await wait_readable(sock)
        try:
            data = sock.recv(limit, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if len(data) > seen:
            peeked = find_header(data)
            if peeked is not None:
                return peeked
            if len(data) >= limit:
                raise PeekFailed(f"no stream header in the first {limit} bytes")
            seen = len(data)
            # The peeked bytes keep the socket readable: without a higher mark this would spin.
            _wake_at(sock, seen + 1)
        elif _is_ended(sock):
            raise PeekFailed("connection closed before the stream header")
        else:
            await asyncio.sleep(_RECHECK_INTERVAL)


def find_header(data: bytes) -> Peeked | None:
    """Return the domain pair of the stream header that `data` begins with, None if incomplete.

    Raises `PeekFailed` when `data` cannot become a server's stream header.
    """
    if data[:1] == bytes([_TLS_HANDSHAKE]):
        raise PeekFailed("TLS instead of a plaintext stream header: direct TLS is not served here")
    begin = data.lstrip(_BEFORE_MARKUP)
    if begin[:1] not in (b"", b"<"):
        raise PeekFailed("not a stream header: text instead of XML")
    if _MARKUP_BEFORE.match(begin):
        raise PeekFailed("not a stream header: a declaration or a comment stands before it")
    parser = pull_parser(("start",))
    start = 0
    while start < len(data):  # not a byte beyond the header: the stream's own parser judges those
        end = data.find(b">", start) + 1 or len(data)
        try:
            parser.feed(data[start:end])
        except etree.XMLSyntaxError as exc:
            raise PeekFailed(f"not a stream header: {exc.msg}") from None
        # All of them: what is left of the events would keep the parser, 10 KiB, in a circle.
        for header in elements(parser):
            return _read_header(header)
        start = end
    return None


def _read_header(header: Any) -> Peeked:
    if header.tag != STREAM_HEADER:
        raise PeekFailed(f"{str(header.tag)[:80]} instead of a stream header")
    return Peeked(_domain(header, "from"), _domain(header, "to"))


def _domain(header: Any, attribute: str) -> str:
    value = header.get(attribute)
    if value is None:
        raise PeekFailed(f"the stream header has no {attribute!r}")
    try:
        return domain_of(value)
    except InvalidJid as exc:
        raise PeekFailed(
            f"the stream header's {attribute!r} is no domain: {str(exc)[:120]}"
        ) from None


async def wait_readable(sock: socket.socket) -> None:
    """Return when `sock` has bytes or has ended. The deadline is the caller's."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _wake_at(sock: socket.socket, size: int) -> None:
    """Report the socket readable only when `size` bytes wait (or at its end)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _is_ended(sock: socket.socket) -> bool:
    # The first byte of struct tcp_info is the state: no longer established means the peer is done.
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_ESTABLISHED
