"""Passing DNS queries on to the servers above us, unchanged but for the id."""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from coordinator.address import Address, InvalidAddress, parse_address
from workers.gateway import dnsmessage
from workers.gateway.dnsmessage import Question

log = logging.getLogger(__name__)

# Seconds: libunbound took answers ready after 1.3 s and gave up at 1.6 s, so the second server
# must be asked before that.
_ATTEMPT_SECONDS = 1.0
_TOTAL_SECONDS = 4.0
_ROUNDS = 2
_MAX_IN_FLIGHT = 1024
_DNS_PORT = 53


class ForwardFailed(Exception):
    """No server above us answered; the message says why."""


class Forwarder:
    """Asks the upstream servers, in turn. Every query has a random id and a socket of its own.

    The socket's port is random, too: answers cannot be guessed by others (RFC 5452).
    """

    def __init__(self, upstreams: Sequence[str], *, own: Address | None = None) -> None:
        """`upstreams` are addresses, with port or without; `own` is left out: a loop."""
        addresses = [upstream_address(text) for text in upstreams]
        self._upstreams = [address for address in addresses if address != own]
        self.in_flight = 0
        if not self._upstreams:
            log.warning("steering knows no DNS server to forward to; set local.upstream_dns")

    def close(self) -> None:
        """Take no further questions."""
        self._upstreams = []

    async def ask(self, query: bytes, question: Question) -> bytes:
        """Forward by UDP; returns the answer under the query's own id. Raises `ForwardFailed`."""
        with _Slot(self), _Race(query, question) as race:
            async with _deadline():
                for upstream in self._upstreams * _ROUNDS:
                    answer = await race.ask(upstream)
                    if answer is not None:
                        return answer
        raise ForwardFailed("no DNS server above us answered")

    async def ask_tcp(self, query: bytes, question: Question) -> bytes:
        """Forward by TCP; returns the answer under the query's own id. Raises `ForwardFailed`."""
        with _Slot(self):
            async with _deadline():
                for upstream in self._upstreams:
                    try:
                        return await _ask_over_tcp(upstream, query, question)
                    except (OSError, EOFError) as exc:
                        log.debug("DNS server %s: %s", upstream, exc)
        raise ForwardFailed("no DNS server above us answered by TCP")


@contextlib.asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TOTAL_SECONDS):
            yield
    except TimeoutError:
        raise ForwardFailed(
            f"no DNS server above us answered within {_TOTAL_SECONDS:g} s"
        ) from None


class _Slot:
    """Bounds the questions under way, and with them the sockets."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def __enter__(self) -> None:
        if self._forwarder.in_flight >= _MAX_IN_FLIGHT:
            raise ForwardFailed("too many DNS questions under way")
        self._forwarder.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self._forwarder.in_flight -= 1


class _Race:
    """One question at several servers: a slow one may still answer while the next is asked."""

    def __init__(self, query: bytes, question: Question) -> None:
        self._loop = asyncio.get_running_loop()
        self._query = query
        self._question = question
        self._answer: asyncio.Future[bytes] = self._loop.create_future()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "_Race":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._answer.cancel()

    async def ask(self, upstream: Address) -> bytes | None:
        """Ask one more server; None when nobody has answered a second later."""
        family = socket.AF_INET6 if ":" in upstream.host else socket.AF_INET
        refused: asyncio.Future[None] = self._loop.create_future()
        id = secrets.randbelow(0x10000)
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sockets.append(sock)
            sock.connect(upstream)
            sock.send(dnsmessage.with_id(self._query, id))
        except OSError as exc:
            log.debug("DNS server %s: %s", upstream, exc)
            return None
        self._loop.add_reader(sock, self._on_readable, sock, id, refused)
        futures: set[asyncio.Future[Any]] = {self._answer, refused}
        await asyncio.wait(futures, timeout=_ATTEMPT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else None

    def _on_readable(self, sock: socket.socket, id: int, refused: asyncio.Future[None]) -> None:
        try:
            packet = sock.recv(65535)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # ICMP says that nobody listens there
            self._loop.remove_reader(sock)
            if not refused.done():
                refused.set_result(None)
            return
        # Anything else at this port is noise or a forgery: keep waiting for the real answer.
        if dnsmessage.is_reply_to(packet, id, self._question.section) and not self._answer.done():
            self._answer.set_result(dnsmessage.with_id(packet, self._question.id))


async def _ask_over_tcp(upstream: Address, query: bytes, question: Question) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(size)
    finally:
        writer.close()
    if not dnsmessage.is_reply_to(answer, question.id, question.section):
        raise OSError("the answer is to another question")
    return answer


def upstream_address(text: str) -> Address:
    """Read `ip`, `ip:port` or `[ip]:port`. Raises `InvalidAddress`."""
    try:
        return Address(str(ipaddress.ip_address(text.strip("[]"))), _DNS_PORT)
    except ValueError:
        address = parse_address(text)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise InvalidAddress(f"{text!r}: a DNS server is named by its IP address") from None
    return address


def system_resolvers(path: str = "/etc/resolv.conf") -> list[str]:
    """The servers that resolv.conf names; 127.0.0.1 when there is none (resolv.conf(5))."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    words = (line.split() for line in lines)
    found = [entry[1] for entry in words if len(entry) > 1 and entry[0] == "nameserver"]
    return [server for server in found if "%" not in server] or ["127.0.0.1"]
