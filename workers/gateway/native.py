"""Ordinary s2s for domains without WebSocket: find the server, connect, pass the bytes through."""

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import cast

from coordinator.address import Address
from workers.gateway.addresses import (
    AddressPolicy,
    AddressRefused,
    is_ip_address,
    is_of_this_machine,
)
from workers.gateway.peek import wait_readable
from workers.gateway.racing import NotConnected, connect_any
from workers.gateway.resolver import ResolveFailed, Resolver, ServiceNotOffered

log = logging.getLogger(__name__)

SERVICE = "_xmpp-server._tcp"
DEFAULT_PORT = 5269
# A domain with more addresses than this is not tried to the end.
_MAX_ATTEMPTS = 16
_MIN_ATTEMPT_SECONDS = 1.0
# Bytes of the local server's first words: a stream header is all it sends before an answer.
_MAX_SAID = 65536
# Seconds a closing side may take to send what it has.
_CLOSE_TIMEOUT = 5.0
# Seconds a half-closed splice may be silent.
_HALF_CLOSE_TIMEOUT = 60.0


class NativeFailed(Exception):
    """No connection. `resolved` tells remote-server-timeout (True) from remote-server-not-found."""

    def __init__(self, *, resolved: bool, reason: str) -> None:
        super().__init__(reason)
        self.resolved = resolved
        self.reason = reason


async def connect_native(
    domain: str,
    resolver: Resolver,
    policy: AddressPolicy,
    *,
    own: Sequence[Address] = (),
    timeout: float = 10.0,
) -> socket.socket:
    """Connect to a domain's native s2s port (RFC 6120 §3.2): SRV targets in turn, else port 5269.

    `own` are addresses we listen on ourselves, never connected to; `timeout` is in seconds for
    everything. Returns a connected, non-blocking socket without a transport. Raises `NativeFailed`.
    """
    search = _Search(resolver, policy, tuple(own), asyncio.get_running_loop().time() + timeout)
    try:
        async with asyncio.timeout(timeout):
            return await search.connect(domain)
    except TimeoutError:
        raise search.failure(f"no connection within {timeout:g} s") from None


class _Search:
    """One attempt to reach a domain: what was resolved, and why each address failed."""

    def __init__(
        self, resolver: Resolver, policy: AddressPolicy, own: tuple[Address, ...], deadline: float
    ) -> None:
        self._resolver = resolver
        self._policy = policy
        self._own = own
        self._deadline = deadline
        self._resolved = False
        self._reasons: list[str] = []

    async def connect(self, domain: str) -> socket.socket:
        targets = await self._find_targets(domain)
        attempts = 0
        for index, (host, port) in enumerate(targets):
            found = [Address(text, port) for text in await self._find_addresses(host)]
            permitted = [address for address in found if self._is_permitted(address)]
            permitted = permitted[: _MAX_ATTEMPTS - attempts]
            attempts += len(permitted)
            sock = await self._try(permitted, self._share(len(targets) - index))
            if sock is not None:
                return sock
        raise self.failure("its name has no address")

    def _share(self, targets_left: int) -> float:
        remaining = self._deadline - asyncio.get_running_loop().time()
        return max(remaining / targets_left, _MIN_ATTEMPT_SECONDS)

    def failure(self, fallback: str) -> NativeFailed:
        reason = "; ".join(self._reasons[-4:]) or fallback
        return NativeFailed(resolved=self._resolved, reason=reason)

    async def _find_targets(self, domain: str) -> list[tuple[str, int]]:
        if is_ip_address(domain):
            return [(domain, DEFAULT_PORT)]
        try:
            records = await self._resolver.srv(SERVICE, domain)
        except ServiceNotOffered:
            raise self.failure("the domain says that it has no s2s service (SRV '.')") from None
        except ResolveFailed as exc:
            # RFC 6120 §3.2.1: without an SRV answer the domain's own address is the fallback.
            self._reasons.append(f"SRV: {exc.reason}")
            records = []
        return [(record.host, record.port) for record in records] or [(domain, DEFAULT_PORT)]

    async def _find_addresses(self, host: str) -> list[str]:
        try:
            addresses = await self._resolver.addresses(host)
        except ResolveFailed as exc:
            self._reasons.append(f"{host}: {exc.reason}")
            return []
        self._resolved = self._resolved or bool(addresses)
        return addresses

    def _is_permitted(self, address: Address) -> bool:
        if is_own(address, self._own):
            self._reasons.append(f"{address} is this gateway itself")
            return False
        try:
            self._policy.check(address.host)
        except AddressRefused as exc:
            self._reasons.append(f"{address}: {exc.reason}")
            return False
        return True

    async def _try(self, addresses: list[Address], seconds: float) -> socket.socket | None:
        if not addresses:
            return None
        hosts = [address.host for address in addresses]
        try:
            return (await connect_any(hosts, addresses[0].port, timeout=seconds))[1]
        except NotConnected as exc:
            self._reasons.append(f"{', '.join(map(str, addresses))}: {exc.reason}")
            return None


async def greet(local: socket.socket, remote: socket.socket, *, timeout: float = 10.0) -> None:
    """Pass on what the local server has said and wait for the first bytes of the answer.

    A server that accepts and stays silent would cost the local server its whole patience (Prosody:
    over a minute). Raises `NativeFailed`; then nothing was taken from `local`, and `remote` is of
    no use any more. `timeout` is in seconds.
    """
    loop = asyncio.get_running_loop()
    said = local.recv(_MAX_SAID, socket.MSG_PEEK)
    try:
        async with asyncio.timeout(timeout):
            await loop.sock_sendall(remote, said)
            await wait_readable(remote)
            answered = remote.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        raise NativeFailed(resolved=True, reason=f"no answer within {timeout:g} s") from None
    except OSError as exc:
        raise NativeFailed(resolved=True, reason=f"connection lost: {exc.strerror}") from None
    if not answered:
        raise NativeFailed(resolved=True, reason="the server hung up without an answer")
    local.recv(len(said))


def is_own(address: Address, own: Sequence[Address]) -> bool:
    """Whether connecting to `address` would reach one of the listening addresses in `own`."""
    ip = ipaddress.ip_address(address.host)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    for listening in own:
        if listening.port != address.port:
            continue
        if listening.is_wildcard and is_of_this_machine(str(ip)):
            return True
        if listening.host == str(ip) or (listening.host == "localhost" and ip.is_loopback):
            return True
    return False


async def splice(local: socket.socket, remote: socket.socket) -> "Splice":
    """Pass bytes both ways from now on; returns at once with both sockets owned by the splice.

    Both must be connected, non-blocking and without a transport. Raises OSError when one of them
    already broke; both are closed then.
    """
    pair = Splice()
    loop = asyncio.get_running_loop()
    try:
        for sock, side in ((local, pair.local), (remote, pair.remote)):
            _keep_alive(sock)
            await loop.connect_accepted_socket(lambda side=side: side, sock)  # type: ignore[misc]
    except OSError:
        pair.abort()
        local.close()
        remote.close()
        raise
    pair.local.start()
    pair.remote.start()
    return pair


def _keep_alive(sock: socket.socket) -> None:
    # A native stream may be silent for hours; only probes tell silence from a vanished machine.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Splice:
    """Two connections passing each other's bytes: half-close kept, the slower one sets the pace.

    When one side breaks, the other gets what was already read, then FIN, and is cut after 5 s.
    """

    def __init__(self) -> None:
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deadline: asyncio.TimerHandle | None = None
        self.opened_at = time.time()
        self.local = _Side(self)
        self.remote = _Side(self)
        self.local.other, self.remote.other = self.remote, self.local

    @property
    def bytes_out(self) -> int:
        """Bytes read from the local side so far."""
        return self.local.bytes_read

    @property
    def bytes_in(self) -> int:
        """Bytes read from the remote side so far."""
        return self.remote.bytes_read

    async def wait_closed(self) -> None:
        """Return when both connections are closed. Cancelling the wait does not close them."""
        await asyncio.shield(self._closed)

    def close(self) -> None:
        """Send what is buffered, then FIN on both sides; cut after 5 s what did not get through."""
        for side in (self.local, self.remote):
            if side.transport is not None:
                side.transport.close()
        self._arm(_CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Cut both connections at once."""
        for side in (self.local, self.remote):
            if side.transport is not None:
                side.transport.abort()

    def half_closed(self) -> None:
        """One side has ended: end both when the other has, too, or stays silent from now on."""
        if self.local.ended and self.remote.ended:
            self.close()
        else:
            self._expect_progress(-1)

    def side_lost(self) -> None:
        """One connection is gone for good: the other follows."""
        if not (self.local.lost and self.remote.lost):
            self.close()
            return
        self._disarm()
        if not self._closed.done():
            self._closed.set_result(None)

    def _expect_progress(self, before: int) -> None:
        now = self.bytes_in + self.bytes_out
        if now == before:
            self.close()
        else:
            self._arm(_HALF_CLOSE_TIMEOUT, self._expect_progress, now)

    def _arm(self, seconds: float, callback: Callable[..., None], *args: int) -> None:
        self._disarm()
        if not (self.local.lost and self.remote.lost):
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, callback, *args)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Side(asyncio.Protocol):
    """One of the two connections of a splice."""

    __slots__ = ("_early", "_splice", "bytes_read", "ended", "lost", "other", "transport")

    other: "_Side"

    def __init__(self, splice: Splice) -> None:
        self._splice = splice
        # Bytes that arrived before the other connection had its transport; None once started.
        self._early: list[bytes] | None = []
        self.transport: asyncio.Transport | None = None
        self.bytes_read = 0
        self.ended = False
        self.lost = False

    def start(self) -> None:
        """Both transports exist: pass on what came early."""
        assert self.transport is not None and self.other.transport is not None
        early, self._early = self._early or [], None
        if early:
            self._pass_on(b"".join(early))
            self.set_reading(True)
        if self.ended:
            self._end_other()
        if self.lost:
            self._splice.side_lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's: nothing to check at run time.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.bytes_read += len(data)
        if self._early is None:
            self._pass_on(data)
        else:
            assert self.transport is not None
            self._early.append(data)
            self.transport.pause_reading()

    def _pass_on(self, data: bytes) -> None:
        transport = self.other.transport
        # One that broke in this turn of the loop refuses writes before it tells that it is lost.
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self._early is None:
            self._end_other()
        return True  # keep our own direction open

    def _end_other(self) -> None:
        transport = self.other.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof()
        self._splice.half_closed()

    def set_reading(self, wanted: bool) -> None:
        """Read on, or let TCP hold the sender back."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def pause_writing(self) -> None:
        self.other.set_reading(False)

    def resume_writing(self) -> None:
        self.other.set_reading(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._early is None:
            self._splice.side_lost()
