"""How a generator opens streams and accepts them: `workers.xmpp` on both kinds of connection.

It proves its own domain by certificate (SASL EXTERNAL) and believes whatever it is told: judging
is the work of what is measured.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from loadtest.bench.link import Link, TcpLink, WebSocketLink
from loadtest.stage.addresses import WEBSOCKET_PORT
from workers.gateway.certificates import load_pair
from workers.gateway.negotiation import Negotiation, NoOwner
from workers.gateway.session import Session
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import client_context, server_context
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_connect import connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.events import Event, ManagementEnabled, StreamEstablished, StreamOpened
from workers.xmpp.framing import Framing, StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig


class Domains(frozenset[str]):
    """Domains, and whole zones of them: `*.peers.example`."""

    def __contains__(self, domain: object) -> bool:
        zone = f"*.{str(domain).partition('.')[2]}"
        return frozenset.__contains__(self, domain) or frozenset.__contains__(self, zone)


TIMEOUT = 30.0
# The worker's pings are answered, our own would only cost.
_PING_INTERVAL = 36_000.0
PATH = "/xmpp-s2s"


@dataclass(slots=True, kw_only=True)
class Identity:
    """A certificate and the contexts of both roles; `domains` are those it accepts streams for."""

    certificate: Path
    key: Path
    domains: frozenset[str] = Domains()
    manages: bool = True
    """XEP-0198 is offered and asked for; without it nothing can be sent again."""
    tls: bool = True
    """Streams on TCP begin with STARTTLS."""
    client: SSL.Context = field(init=False)
    server: SSL.Context = field(init=False)

    def __post_init__(self) -> None:
        pair = load_pair(self.certificate, self.key)
        self.client, self.server = client_context(pair), server_context(pair)


class Accepting:
    """Accepts streams on TCP and WebSockets; `on_link` is told of each that is established."""

    def __init__(self, identity: Identity, on_link: Callable[[Link], None]) -> None:
        self._identity = identity
        self._on_link = on_link
        self._servers: list[asyncio.Server] = []

    async def listen_tcp(self, address: str, port: int) -> None:
        """s2s with STARTTLS, as a local server listens."""
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(lambda: self._tcp_session().channel, address, port)
        )

    async def listen_wss(self, address: str, port: int = WEBSOCKET_PORT) -> None:
        """XEP-0468, as a remote server listens."""
        endpoint = Endpoint(
            path=PATH, new_owner=self._websocket_session, context=self._identity.server
        )
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(lambda: AcceptedWebSocket(endpoint).channel, address, port)
        )

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def _tcp_session(self) -> TcpSession:
        config = self._config(offer_tls=self._identity.tls)
        parser = StreamParser(config.limits)
        stream = _receiving(config, StreamFraming(), parser.feed, parser)
        session = TcpSession(stream, NoOwner(self._on_event), is_server=True)
        session.tls_context = self._identity.server
        return session

    def _websocket_session(self, websocket: AcceptedWebSocket) -> WebSocketSession:
        config = self._config()
        parser = MessageParser(config.limits)
        stream = _receiving(config, WebSocketFraming(), parser.parse, parser)
        session = WebSocketSession(stream, NoOwner(self._on_event), ping_interval=_PING_INTERVAL)
        session.attach(websocket)
        return session

    def _config(self, *, offer_tls: bool = False) -> StreamConfig:
        identity = self._identity
        return StreamConfig(
            hosts=identity.domains, offer_tls=offer_tls, use_management=identity.manages
        )

    def _on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, StreamOpened):
            assert isinstance(session.stream, ReceivingStream)
            session.stream.offer(external=True, dialback=False)
        elif isinstance(event, StreamEstablished) and not self._identity.manages:
            self._hand_over(session)
        elif isinstance(event, ManagementEnabled):
            self._hand_over(session)

    def _hand_over(self, session: Session) -> None:
        # Behind what the stream still has to write.
        asyncio.get_running_loop().call_soon(lambda: self._on_link(new_link(session)))


def new_link(session: Session) -> Link:
    """Take over an established session."""
    if isinstance(session, TcpSession):
        return TcpLink(session)
    assert isinstance(session, WebSocketSession)
    return WebSocketLink(session)


async def connect_tcp(
    identity: Identity, address: tuple[str, int], sender: str, target: str
) -> Link:
    """Open a stream as a local server does. Raises `HopFailed`, `OSError`."""
    config = StreamConfig(
        require_tls=identity.tls, use_dialback=False, use_management=identity.manages
    )
    parser = StreamParser(config.limits)
    stream = _initiating(config, StreamFraming(), parser.feed, parser, sender, target)
    negotiation = Negotiation(NoOwner())
    session = TcpSession(stream, negotiation, is_server=False, server_name=target)
    session.tls_context = identity.client
    await session.connect(*address)
    return await _negotiated(session, negotiation)


async def connect_wss(
    identity: Identity, address: tuple[str, int], host: str, sender: str, target: str
) -> Link:
    """Open a session as a remote server does. Raises `HopFailed`, `WebSocketFailed`."""
    config = StreamConfig(use_dialback=False, use_management=identity.manages)
    parser = MessageParser(config.limits)
    stream = _initiating(config, WebSocketFraming(), parser.parse, parser, sender, target)
    negotiation = Negotiation(NoOwner())
    session = WebSocketSession(stream, negotiation, ping_interval=_PING_INTERVAL)
    websocket = await connect(
        f"wss://{host}:{address[1]}{PATH}",
        session,
        address=address,
        context=identity.client,
        timeout=TIMEOUT,
    )
    session.attach(websocket)
    return await _negotiated(session, negotiation)


async def _negotiated(session: Session, negotiation: Negotiation) -> Link:
    assert isinstance(session.stream, InitiatingStream)
    session.stream.open()
    session.pump()
    await negotiation.finish(session, TIMEOUT)
    return new_link(session)


def _initiating(
    config: StreamConfig, framing: Framing, parse: Any, parser: Any, sender: str, target: str
) -> InitiatingStream:
    now = asyncio.get_running_loop().time()
    return InitiatingStream(config, framing, parse, parser, now, sender=sender, target=target)


def _receiving(config: StreamConfig, framing: Framing, parse: Any, parser: Any) -> ReceivingStream:
    now = asyncio.get_running_loop().time()
    return ReceivingStream(config, framing, parse, parser, now, new_id=lambda: secrets.token_hex(8))
