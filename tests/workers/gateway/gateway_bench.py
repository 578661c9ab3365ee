"""One worker's data plane between a local server and a remote one; only the control is fake."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator import pins
from coordinator.accounts import Account, balance
from coordinator.authority import Authority, Leaf
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import (
    Certificates,
    Config,
    Gateway,
    Limits,
    Local,
    Pair,
    Remote,
    WebSocket,
)
from coordinator.config import Discovery as DiscoveryOptions
from coordinator.journal import Kind
from coordinator.routes import DomainPair, HandTo, Route, Serve, SpliceTo
from loadtest.stage.authority import TestAuthority
from tests.workers.gateway.session_bench import LOCAL, REMOTE, SECRET, FarServer, until
from tests.workers.gateway.stub_dns import StubDns
from workers.gateway.certificates import load_pair
from workers.gateway.discovery import Discovery
from workers.gateway.identity import TrustSources
from workers.gateway.judge import Judge
from workers.gateway.local_connector import LocalConnector
from workers.gateway.local_listener import LocalListener
from workers.gateway.local_trust import LocalTrust
from workers.gateway.negotiation import Negotiation
from workers.gateway.public_listener import PublicListener
from workers.gateway.publication import Publication
from workers.gateway.remote_connector import RemoteConnector
from workers.gateway.resolver import Resolver
from workers.gateway.router import Router
from workers.gateway.session import Session
from workers.gateway.siblings import Siblings
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import LeafContexts, OwnCertificates, client_context, server_context
from workers.gateway.websocket_connect import connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.events import Event, StanzasReceived, VerifyAnswered
from workers.xmpp.framing import StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.stream import StreamConfig

PAIR = DomainPair(LOCAL, REMOTE)


class FakeControl(ControlPlane):
    """Routes in a dict, leaves from the real authority, no Redis and no coordinator."""

    def __init__(self, authority: Authority, worker_id: str = "gw/w1.1") -> None:
        self.worker_id = worker_id
        self.authority = authority
        self.routes: dict[DomainPair, Route] = {}
        self.released: list[DomainPair] = []
        self.verified: list[DomainPair] = []
        self.asked: list[tuple[DomainPair, int, bool]] = []
        self.places: dict[DomainPair, SpliceTo] = {}
        """Where streams go, whatever the routes say; forgotten when the worker is doubted."""
        self._draining = False
        self.workers = [worker_id]
        self.passed_on: list[tuple[str, Kind, DomainPair, bytes]] = []
        self.is_away = False

    def known_workers(self) -> list[str]:
        return self.workers

    async def pass_on(self, worker: str, kind: Kind, pair: DomainPair, data: bytes) -> bool:
        self.passed_on.append((worker, kind, pair, data))
        return not self.is_away

    async def leaf(self, domain: str, purpose: str = "route") -> Leaf:
        if self.is_away:
            raise ControlPlaneUnavailable("the coordinator is away")
        return self.authority.issue(domain)

    @property
    def owned(self) -> dict[DomainPair, Route]:
        return {pair: r for pair, r in self.routes.items() if r.owner == self.worker_id}

    async def place(
        self, pair: DomainPair, *, passed: int = 0, from_gateway: bool = False
    ) -> Serve | HandTo | SpliceTo:
        self.asked.append((pair, passed, from_gateway))
        if pair in self.places:
            return self.places[pair]
        route = await self.acquire(pair)
        return Serve(route) if route.owner == self.worker_id else HandTo(route.owner)

    async def acquire(self, pair: DomainPair, *, if_free: bool = False) -> Route:
        return self.routes.setdefault(pair, Route(self.worker_id, 1))

    async def verify(self, pair: DomainPair) -> None:
        self.verified.append(pair)

    async def release(self, pair: DomainPair) -> None:
        self.released.append(pair)
        self.routes.pop(pair, None)

    def doubt(self, worker: str) -> None:
        self.workers = [name for name in self.workers if name != worker]
        self.places = {pair: p for pair, p in self.places.items() if p.worker != worker}
        self.routes = {pair: r for pair, r in self.routes.items() if r.owner != worker}

    def note_draining(self, worker: str) -> None:
        self.workers = [name for name in self.workers if name != worker]

    def live_workers(self) -> list[str]:
        return self.workers

    @property
    def draining(self) -> bool:
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining


class Peer:
    """Initiates: the local server towards us, or a remote one. Writes down what it is told."""

    def __init__(self) -> None:
        self.session: Session
        self.events: list[Event] = []
        self.ended: list[str] = []

    def acknowledged(self) -> int:
        return self.session.stream.sent.acknowledged

    def answers(self) -> list[str]:
        return [event.outcome for event in self.events if isinstance(event, VerifyAnswered)]

    def stanzas(self) -> list[Any]:
        runs = [event.stanzas for event in self.events if isinstance(event, StanzasReceived)]
        return [stanza for run in runs for stanza in run]

    def send(self, *stanzas: Any) -> None:
        self.session.stream.send_stanzas(list(stanzas))
        self.session.stream.request_ack()
        self.session.write()

    def on_event(self, session: Session, event: Event) -> None:
        self.events.append(event)

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self.ended.append(reason)


class GatewayScene:
    """`local` and `remote` receive; `open_local` and `open_remote` make their outgoing streams."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public_ca = TestAuthority(directory / "public-ca")
        self.remote = FarServer(REMOTE)
        self.local = FarServer(LOCAL)
        self.remote_pair = load_pair(*self._files(REMOTE))
        self.own_files = self._files(LOCAL)
        local_files = self.public_ca.issue("server.local", self_signed=True)
        self.local_pair = load_pair(local_files.certificate, local_files.key)
        self.peers: list[Peer] = []

    def _files(self, *names: str) -> tuple[Path, Path]:
        issued = self.public_ca.issue(*names)
        return issued.certificate, issued.key

    async def start(
        self,
        *,
        remote: dict[str, Any] | None = None,
        websocket: dict[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        await self.remote.serve_websocket(server_context(self.remote_pair))
        self.local.tls = server_context(self.local_pair)
        await self.local.serve_tcp()
        self.dns = await StubDns.start()
        state_dir = self.directory / "state"
        state_dir.mkdir()
        pins.save(str(state_dir), {LOCAL: [pins.key_digest(self.local_pair.chain[0])]})
        own = Pair(certificate=str(self.own_files[0]), key=str(self.own_files[1]))
        self.config = Config(
            gateway=Gateway(domains=(LOCAL,), name="gw", state_dir=str(state_dir)),
            certificates=Certificates(pairs=(own,), trust=str(self.public_ca.bundle)),
            websocket=WebSocket(**{"listen": ("127.0.0.1:0",), **(websocket or {})}),
            local=Local(server=f"127.0.0.1:{self.local.port}"),
            remote={REMOTE: replace(Remote(url=self.remote.url), **(remote or {}))},
            discovery=DiscoveryOptions(allow_networks=("127.0.0.0/8",), timeout=1),
            limits=Limits(**{"connect_timeout": 5.0, "resend_timeout": 0.3, **limits}),
        )
        self._wire(Authority(state_dir, (LOCAL,)))
        await self.siblings.start()
        self.local_port, self.local_socket = _listening()
        self.listener.start([self.local_socket])
        self.public_port, sock = _listening()
        self.public.start([sock])

    def _wire(self, authority: Authority) -> None:
        config = self.config
        self.control = FakeControl(authority)
        self.authorities = TrustSources(config)
        self.trust = LocalTrust(config, self.authorities)
        self.account = Account.create(self.directory / "ledger" / "w1.account")
        self.resolver = Resolver([self.dns.address], timeout=1)

        async def load(_domain: str) -> bytes | None:
            return None

        async def save(_domain: str, _payload: bytes, _seconds: float) -> None: ...

        self.discovery = Discovery(config, self.resolver, load, save)
        self.judge = Judge(self.authorities, self.discovery)
        certificates, contexts = OwnCertificates(config), LeafContexts()
        self.remote_connector = RemoteConnector(
            config, self.discovery, certificates, self.judge, SECRET
        )
        self.local_connector = LocalConnector(config, self.control, contexts, self.trust)
        self.router = Router(config, self.account, self.remote_connector, self.local_connector)
        self.siblings = Siblings(self.directory / "run", self.control.worker_id)
        self.public = PublicListener(
            config,
            self.router,
            certificates,
            self.judge,
            Publication(config, self.resolver),
            SECRET,
        )
        self.listener = LocalListener(
            config,
            self.router,
            self.discovery,
            self.resolver,
            self.control,
            self.siblings,
            contexts,
            self.trust,
        )
        self.public.join(self.control, self.siblings)
        self.public.on_way_back = self.discovery.note_way_back

    async def open_local(
        self, *, pair: DomainPair = PAIR, known: bool = True, manages: bool = True
    ) -> Peer:
        """A stream as the local server opens it; `known`: with the key that is pinned."""
        keys = self.local_pair if known else self.remote_pair
        config = StreamConfig(require_tls=True, dialback_secret=SECRET, use_management=manages)
        parser = StreamParser(config.limits)
        stream = InitiatingStream(
            config,
            StreamFraming(),
            parser.feed,
            parser,
            _now(),
            sender=pair.local,
            target=pair.remote,
        )
        peer = self._peer()
        negotiation = Negotiation(peer)
        session = TcpSession(stream, negotiation, is_server=False, server_name=pair.remote)
        session.tls_context = client_context(keys)
        peer.session = session
        await session.connect("127.0.0.1", self.local_port)
        stream.open()
        session.pump()
        await negotiation.finish(session, 10.0)
        return peer

    async def open_remote(
        self,
        *,
        sender: str = REMOTE,
        known: bool = True,
        resume: Suspended | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Peer:
        """A wss session as a remote server opens it; `known`: with a certificate.

        Without TLS, as a proxy before the gateway does; then `headers` tell of the certificate.
        """
        config = StreamConfig(**{"dialback_secret": SECRET, "use_external": known, **options})
        parser = MessageParser(config.limits)
        stream = InitiatingStream(
            config,
            WebSocketFraming(),
            parser.parse,
            parser,
            _now(),
            sender=sender,
            target=LOCAL,
            resume=resume,
        )
        peer = self._peer()
        negotiation = Negotiation(peer)
        session = WebSocketSession(stream, negotiation)
        is_secure = self.config.websocket.tls
        websocket = await connect(
            f"{'wss' if is_secure else 'ws'}://{LOCAL}{self.config.websocket.path}",
            session,
            address=("127.0.0.1", self.public_port),
            context=client_context(self.remote_pair if known else None) if is_secure else None,
            headers=headers,
        )
        session.attach(websocket)
        peer.session = session
        stream.open()
        session.pump()
        await negotiation.finish(session, 10.0)
        return peer

    def _peer(self) -> Peer:
        peer = Peer()
        self.peers.append(peer)
        return peer

    def check_ledger(self) -> None:
        for direction in self.account.snapshot().values():
            assert balance(direction) == 0, direction
        held = sum(origin.in_flight for origin in self.router.origins)
        assert held == sum(d["in_flight"] for d in self.account.snapshot().values())

    def ledger(self, direction: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.account.snapshot()[direction]
        return shown

    async def close(self) -> None:
        self.check_ledger()
        self.listener.stop()
        self.public.stop()
        await self.router.drain(0)
        await self.listener.close()
        for peer in self.peers:
            if hasattr(peer, "session") and not peer.session.ended:
                peer.session.abort("the scene ends")
        await until(lambda: all(source.is_lost for source in self.public.sources))
        for source in list(self.public.sources):
            source.close()
        await until(lambda: not self.public.sources and not self.listener.sources)
        await self.local.close()
        await self.remote.close()
        await self.siblings.close()
        await self.judge.close()
        await self.discovery.close()
        self.dns.close()
        self.check_ledger()


def _listening() -> tuple[int, socket.socket]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock.getsockname()[1], sock


def _now() -> float:
    return asyncio.get_running_loop().time()
