"""The small DNS server that the local server resolves through (design.md §2).

It answers at once, never after a lookup of its own: for a domain that fedgate may carry, the SRV
record leads to the local port; all other queries are forwarded unchanged.
"""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.address import Address, parse_address
from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from workers.gateway import dnsmessage
from workers.gateway.clients import Clients
from workers.gateway.dnsmessage import NotAQuestion, Question
from workers.gateway.forwarder import Forwarder, ForwardFailed, system_resolvers

log = logging.getLogger(__name__)

# Seconds: short, so that a domain found to be native is asked natively soon.
SRV_TTL = 5
_SERVICE = "_xmpp-server._tcp."
_DIRECT_TLS_SERVICE = "_xmpps-server._tcp."
_IDLE_SECONDS = 10.0
_MAX_CONNECTIONS = 256
_FREE_PORT_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a domain's s2s is steered here, and why (for `fedgate check` and the log)."""

    steered: bool
    reason: str


class Steering:
    """Answers the local server's DNS queries. One per worker; all may share the sockets."""

    def __init__(self, config: Config, is_native: Callable[[str], bool]) -> None:
        """`is_native(domain)` must answer at once: whether the domain is known to have no wss.

        Raises `InvalidAddress` or `InvalidDomain` for addresses that are none.
        """
        self._config = config
        self._is_native = is_native
        listen = parse_address(config.local.dns) if config.local.dns else None
        self._listen = listen
        upstreams = config.local.upstream_dns or system_resolvers()
        self._forwarder = Forwarder(upstreams, own=listen)
        self._clients = Clients(config)
        local_port = parse_address(config.local.listen).port
        self._srv = dnsmessage.srv_record(
            local_port, normalise_domain(config.local.advertise), SRV_TTL
        )
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._queries: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def start(
        self, udp: socket.socket | None = None, tcp: socket.socket | None = None
    ) -> None:
        """Serve on the given bound (and, for TCP, listening) sockets, else bind `local.dns`.

        Raises OSError when an address cannot be bound.
        """
        listen = self._listen or Address("127.0.0.1", 0)
        if udp is None and tcp is None:
            udp, tcp = _bind_both(listen)
        udp = udp or _bind(listen, socket.SOCK_DGRAM)
        tcp = tcp or _bind(listen, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._tcp = await asyncio.start_server(self._on_connection, sock=tcp)

    async def close(self) -> None:
        """Stop serving; queries under way get no answer."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        tasks = [*self._connections, *self._queries]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._forwarder.close()

    @property
    def address(self) -> Address:
        """Where UDP is served."""
        assert self._udp is not None
        return Address(*self._udp.get_extra_info("sockname")[:2])

    def decide(self, domain: str) -> Decision:
        """Whether s2s to this (normalised) domain is steered to the local port."""
        if domain in self._config.gateway.domains:
            return Decision(False, "a domain of this gateway")
        remote = self._config.remote.get(domain)
        if remote is not None and (remote.url or remote.block):
            return Decision(True, f'[remote."{domain}"] is configured')
        if remote is None and self._config.local.carry == "listed":
            return Decision(False, 'local.carry is "listed" and the domain is not under [remote]')
        if self._is_native(domain):
            return Decision(False, "known to have no WebSocket endpoint")
        return Decision(True, "may have a WebSocket endpoint; the local listener finds out")

    def answer(self, query: bytes) -> bytes | Question | None:
        """Decide on a packet: the answer, the question if it is to be forwarded, None: silence."""
        try:
            question = dnsmessage.read_question(query)
        except NotAQuestion as exc:
            self.counts["refused" if exc.reply else "ignored"] += 1
            return exc.reply
        if question.type in (dnsmessage.TYPE_AXFR, dnsmessage.TYPE_IXFR):
            self.counts["refused"] += 1
            return dnsmessage.reply(question, dnsmessage.REFUSED)
        return self._steer(question) or question

    def _refusal(self, query: bytes) -> bytes | None:
        """Never longer than the question: whoever forged its sender gains nothing."""
        self.counts["strangers"] += 1
        try:
            return dnsmessage.reply(dnsmessage.read_question(query), dnsmessage.REFUSED)
        except NotAQuestion:
            return None

    def _steer(self, question: Question) -> bytes | None:
        if question.class_ != dnsmessage.CLASS_IN:
            return None
        if question.type not in (dnsmessage.TYPE_SRV, dnsmessage.TYPE_ANY):
            return None
        service, separator, rest = question.name.partition("._tcp.")
        service += separator
        if service not in (_SERVICE, _DIRECT_TLS_SERVICE):
            return None
        try:
            domain = normalise_domain(rest)
        except InvalidDomain:
            return None
        if not self.decide(domain).steered:
            return None
        self.counts["steered"] += 1
        if service == _SERVICE:
            return dnsmessage.reply(question, dnsmessage.NOERROR, (self._srv,))
        # The local listener peeks at a plaintext header: direct TLS must not be tried.
        return dnsmessage.reply(question, dnsmessage.NXDOMAIN)

    def on_datagram(self, query: bytes, client: tuple[str, int]) -> None:
        """Answer one UDP packet, now or when the upstream server has answered."""
        answer = self.answer(query) if self._clients.may_ask(client[0]) else self._refusal(query)
        if isinstance(answer, bytes):
            self._send(answer, client)
        elif answer is not None:
            task = asyncio.ensure_future(self._forward_datagram(query, answer, client))
            self._queries.add(task)
            task.add_done_callback(self._queries.discard)

    async def _forward_datagram(
        self, query: bytes, question: Question, client: tuple[str, int]
    ) -> None:
        self.counts["forwarded"] += 1
        try:
            self._send(await self._forwarder.ask(query, question), client)
        except ForwardFailed as exc:
            self._send(self._failed(question, exc), client)

    async def _forward_tcp(self, query: bytes, question: Question) -> bytes:
        self.counts["forwarded"] += 1
        try:
            return await self._forwarder.ask_tcp(query, question)
        except ForwardFailed as exc:
            return self._failed(question, exc)

    def _send(self, packet: bytes, client: tuple[str, int]) -> None:
        if self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(packet, client)

    def _failed(self, question: Question, exc: ForwardFailed) -> bytes:
        self.counts["failed"] += 1
        log.debug("DNS question for %s failed: %s", question.name, exc)
        return dnsmessage.reply(question, dnsmessage.SERVFAIL)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            client = writer.get_extra_info("peername")
            is_known = client is not None and self._clients.may_ask(client[0])
            if is_known and len(self._connections) <= _MAX_CONNECTIONS:
                await self._serve_connection(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            pass  # the client went away, was silent too long, or we are closing
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                size = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(size)
            answer = self.answer(query)
            if isinstance(answer, Question):
                answer = await self._forward_tcp(query, answer)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(_IDLE_SECONDS):
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, steering: Steering) -> None:
        self._steering = steering

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._steering.on_datagram(data, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("DNS socket: %s", exc)  # a client that closed its port too early


def _bind_both(listen: Address) -> tuple[socket.socket, socket.socket]:
    """One port for UDP and TCP; any free one (port 0) may turn out to be free for one only."""
    attempts = 1 if listen.port else _FREE_PORT_ATTEMPTS
    while True:
        udp = _bind(listen, socket.SOCK_DGRAM)
        try:
            port = udp.getsockname()[1]
            return udp, _bind(Address(listen.host, port), socket.SOCK_STREAM)
        except OSError:
            udp.close()
            attempts -= 1
            if not attempts:
                raise


def _bind(listen: Address, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if listen.port:
            # Workers without inherited sockets share the port. Not for any free one: that could
            # be one that another process shares.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(tuple(listen))
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock
