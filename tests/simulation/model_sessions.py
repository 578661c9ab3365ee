"""Below a worker's sessions: TLS without secrets, and WebSockets that carry whole messages."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from coordinator.config import Config
from coordinator.routes import DomainPair
from tests.simulation import sockets
from tests.simulation.network import DATA, RESET, End, Parcel
from workers.gateway.failure import HopFailed
from workers.gateway.judge import Proof
from workers.gateway.negotiation import Negotiation
from workers.gateway.public_listener import new_stream_id
from workers.gateway.refusals import Refusals
from workers.gateway.remote_source import RemoteSource
from workers.gateway.router import Router
from workers.gateway.session import SessionOwner
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

HELLO = b"\x16HELLO"


class ModelTLS:
    """Two hellos, then everything in the clear."""

    def __init__(self, context: Any, *, server: bool, server_name: str | None = None) -> None:
        self.established = False
        self.peer_closed = False
        self.record_sizes: tuple[int, ...] = ()
        self._is_server = server
        self.outgoing: list[bytes] = []
        self._incoming = b""
        self._has_greeted = False

    def handshake(self) -> bool:
        if not self._is_server and not self._has_greeted:
            self._has_greeted = True
            self.outgoing.append(HELLO)
        return self.established

    def receive(self, data: bytes) -> bytes:
        if self.established:
            self.record_sizes = tuple(sockets.records) if len(sockets.records) > 1 else ()
            return data
        self._incoming += data
        if not self._incoming.startswith(HELLO):
            return b""
        self.established = True
        if self._is_server:
            self.outgoing.append(HELLO)
        rest, self._incoming = self._incoming[len(HELLO) :], b""
        return rest

    def send(self, data: bytes) -> None:
        self.outgoing.append(data)

    def data_to_send(self) -> bytes:
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        return data

    def shutdown(self) -> None: ...

    def peer_chain(self) -> list[Any]:
        return []

    def summary(self) -> str:
        return "model"


class ModelWebSocket:
    """An open WebSocket below a session; also the channel that the session sees."""

    is_resting = False  # rates are not modelled

    def __init__(self, end: End) -> None:
        self.end = end
        self.channel = self
        self.peername = ("192.0.2.1", end.wire.number)
        self.session: Any = None
        self.meter: Any = None
        self._is_closing = False
        self._is_over = False
        end.on_input = None

    def use(self, session: WebSocketSession) -> None:
        self.session = session
        session.attach(self)  # type: ignore[arg-type]
        self.end.receiver = self

    # What the session calls.

    def send_messages(self, messages: list[bytes]) -> None:
        if not self._is_closing:
            self.end.send(("messages", messages))

    def restart_clock(self) -> None: ...

    def ping(self, payload: bytes) -> None:
        if not self._is_closing:
            self.end.send(("ping", payload))

    def close(self, code: int = 1000) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.end.send(("close", code))
            self.end.set_reading(True)
            self.end.process.call_later(2.0, self._over, 1006, "no answer")

    def abort(self, reason: str | None = "") -> None:
        self._is_closing = True
        self.end.abort()
        self.end.process.call_soon(self._over, 1006, reason or "")

    def pause_reading(self) -> None:
        self.end.set_reading(False)

    def resume_reading(self) -> None:
        self.end.set_reading(True)

    @property
    def buffered(self) -> int:
        return 0

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    def peer_chain(self) -> list[Any]:
        return []

    def tls_summary(self) -> str:
        return "model"

    # What the network calls.

    def received(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            if self._is_over:
                return
            if parcel.kind is not DATA:
                self._over(1006, "connection lost" if parcel.kind is RESET else "no closing frame")
                return
            kind, payload = parcel.payload
            if kind == "messages":
                self.end.wire.network.on_read(self.end, parcel.ids)
                self.session.messages_received(payload)
            elif kind == "ping":
                self.end.send(("pong", payload))
            elif kind == "pong":
                self.session.pong_received(payload)
            else:
                if not self._is_closing:
                    self._is_closing = True
                    self.end.send(("close", 1000))
                self._over(1000, "")

    def _over(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._is_over = self._is_closing = True
            self.end.drop_unread("the reader closed the connection")
            self.end.finish()
            self.session.websocket_closed(code, reason)


class ModelRemoteConnector:
    """Opens sessions to remote servers; `open_to(remote)` gives a connection, or None."""

    def __init__(
        self, config: Config, open_to: Callable[[str], End | None], latency: float
    ) -> None:
        self._config = config
        self._open_to = open_to
        self._latency = latency
        self.held_back: set[DomainPair] = set()

    async def connect(
        self, local: str, remote: str, owner: SessionOwner, **options: Any
    ) -> WebSocketSession:
        await asyncio.sleep(2 * self._latency)
        end = self._open_to(remote)
        if end is None:
            raise HopFailed("connection refused", resolved=True)
        limits = self._config.limits
        parser = MessageParser(limits)
        stream = InitiatingStream(
            StreamConfig(limits=limits, dialback_secret=b"secret"),
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            sender=local,
            target=remote,
        )
        negotiation = Negotiation(owner)
        session = WebSocketSession(stream, negotiation, ping_interval=limits.ping_interval)
        ModelWebSocket(end).use(session)
        stream.open()
        session.pump()
        await negotiation.finish(session, limits.connect_timeout)
        return session


class ModelRemoteSource(RemoteSource):
    """Believes in every certificate."""

    _asker = "192.0.2.1"  # nobody stands between

    async def _prove(self, domain: str) -> tuple[Proof, str]:
        return Proof("PKIX", math.inf), ""


class ModelPublicListener:
    """Takes sessions as the WebSocket endpoint hands them over."""

    def __init__(self, config: Config, router: Router) -> None:
        self.config = config
        self.router = router
        self.sources: set[Any] = set()
        self.errors: list[Any] = []
        self.is_accepting = True
        self.refusals = Refusals(asyncio.get_running_loop().time)

    def stop(self) -> None:
        self.is_accepting = False

    def describe(self) -> list[Any]:
        return []

    def has_too_many(self, domain: str) -> bool:
        return False

    def source_authenticated(self, source: Any, domain: str) -> None: ...

    def way_back_opened(self, source: Any) -> None: ...

    def source_ended(self, source: Any, reason: str) -> None:
        self.sources.discard(source)

    def accept(self, end: End) -> None:
        if not self.is_accepting:
            end.abort()
            return
        limits = self.config.limits
        parser = MessageParser(limits)
        stream = ReceivingStream(
            StreamConfig(limits=limits, hosts=frozenset(self.config.gateway.domains)),
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            new_id=new_stream_id,
        )
        source = ModelRemoteSource(self)  # type: ignore[arg-type]
        session = WebSocketSession(stream, source, ping_interval=limits.ping_interval)
        source.attach(session)
        self.sources.add(source)
        ModelWebSocket(end).use(session)
        end.wake()
        session.start_timer()
