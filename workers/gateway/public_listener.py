"""The public wss listener of a worker: every accepted WebSocket becomes a `RemoteSource`."""

import asyncio
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from coordinator.client import ControlPlane
from coordinator.config import Config
from coordinator.routes import DomainPair
from workers.gateway import hostmeta
from workers.gateway.acceptor import Acceptor
from workers.gateway.addresses import Networks
from workers.gateway.admission import Admission, Entry
from workers.gateway.channel import Channel
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.judge import Judge
from workers.gateway.publication import Publication
from workers.gateway.refusals import Refusals
from workers.gateway.remote_source import RemoteSource
from workers.gateway.resumption import Resumptions
from workers.gateway.router import Router
from workers.gateway.siblings import Siblings
from workers.gateway.tls import OwnCertificates
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.framing import WEBSOCKET_FRAMING
from workers.xmpp.parser import MessageParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)

MAX_ERRORS = 50
"""Remembered ends of sessions for `/api/errors`."""


class PublicListener:
    """Serves the WebSocket endpoint and the host-meta documents on the given sockets."""

    def __init__(
        self,
        config: Config,
        router: Router,
        certificates: OwnCertificates,
        judge: Judge,
        publication: Publication,
        dialback_secret: bytes,
    ) -> None:
        self.config = config
        self.router = router
        self.judge = judge
        self.on_way_back: Callable[[str, int], None] = lambda domain, change: None
        """Told of each session of a domain that begins (1) or ends (-1) to go both ways."""
        self.sources: set[RemoteSource] = set()
        self.authenticated = 0
        """How many of them have proved a domain."""
        self.errors: deque[dict[str, Any]] = deque(maxlen=MAX_ERRORS)
        self.resumptions = Resumptions()
        clock = asyncio.get_running_loop().time
        self.refusals = Refusals(clock)
        self.admission = Admission(
            lambda: config.limits, self.refusals, clock, proxies=config.websocket.trusted_proxies
        )
        self._by_domain: dict[str, set[RemoteSource]] = {}
        """Sources that are authenticated, by the domain that opened them."""
        self._control: ControlPlane | None = None
        self._releases: set[asyncio.Task[None]] = set()
        self._stream_config = StreamConfig(
            limits=config.limits,
            dialback_secret=dialback_secret,
            hosts=frozenset(config.gateway.domains),
            use_bidi=config.websocket.bidi,
            resumption_seconds=config.websocket.resume,
        )
        self.proxies = TrustedProxies(
            config.websocket.trusted_proxies, config.websocket.client_certificate_header
        )
        self._endpoint = Endpoint(
            path=config.websocket.path,
            new_owner=self._new_session,
            context=certificates.context_for(config.gateway.domains[0])
            if config.websocket.tls
            else None,
            proxies=self.proxies,
            origin=_origin(hostmeta.public_url(config)),
            # Above the limit of the parser, so that a stream error can name what was wrong
            # (protocol A21); raised when the peer is authenticated.
            max_message=2 * config.limits.preauth_bytes,
            http_responder=publication,
            allow_unmasked=Networks(config.websocket.allow_unmasked).__contains__,
        )
        self._acceptor = Acceptor(self.admission, self._new_channel)

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on sockets that listen; other workers may accept on the same."""
        self._acceptor.start(sockets)

    def _new_channel(self, entry: Entry) -> Channel:
        return AcceptedWebSocket(self._endpoint, entry).channel

    def reload(self) -> None:
        """Apply the limits that are in force now: rates at once, others to what comes from now."""
        limits = self.config.limits
        self.router.allowances.reload()
        self.admission.reload()
        self._stream_config = replace(self._stream_config, limits=limits)
        self._endpoint.max_message = 2 * limits.preauth_bytes

    def join(self, control: ControlPlane, siblings: Siblings) -> None:
        """Share sessions with the other workers: their way back, and lost ones.

        Call when others have set `siblings.on_message`.
        """
        self._control = control
        self.resumptions.join(control, siblings)

    async def acquire(self, pair: DomainPair) -> bool:
        """Own a pair whose session a remote has opened, unless another worker does.

        If so, use it before the next await, or `release` it. A draining worker begins nothing new,
        not even for a pair that it still has.
        """
        if self._control is None or self._control.draining:
            return False
        route = await self._control.acquire(pair, if_free=True)
        return route.owner == self._control.worker_id

    def release(self, pair: DomainPair) -> None:
        """Give back what was acquired and is not used."""
        if self._control is not None:
            task = asyncio.create_task(self._control.release(pair))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    def stop(self) -> None:
        """Accept nothing more."""
        self._endpoint.accepting = False
        self._acceptor.stop()

    def describe(self) -> list[dict[str, Any]]:
        return [source.describe() for source in self.sources if source.pairs]

    def source_authenticated(self, source: RemoteSource, domain: str) -> None:
        """The source has proved its first domain."""
        self._by_domain.setdefault(domain, set()).add(source)
        self.authenticated += 1

    def has_too_many(self, domain: str) -> bool:
        """The domain has all sessions that it may open; those that are lost do not count."""
        sources = self._by_domain.get(domain, ())
        alive = sum(not source.is_lost for source in sources)
        return alive >= self.config.limits.sessions_per_domain

    def forget(self, source: RemoteSource) -> None:
        """The source has ended, or another goes on with its session."""
        self.sources.discard(source)
        domain = source.session.stream.sender
        sources = self._by_domain.get(domain)
        if sources is not None and source in sources:
            sources.remove(source)
            self.authenticated -= 1
            if not sources:
                del self._by_domain[domain]

    def way_back_opened(self, source: RemoteSource) -> None:
        """The source's session is used in the other direction, too, until the source ends."""
        self.on_way_back(source.session.stream.sender, 1)

    def source_ended(self, source: RemoteSource, reason: str) -> None:
        self.forget(source)
        if source.way_back is not None:
            self.on_way_back(source.session.stream.sender, -1)
        if not source.pairs:
            stream = source.session.stream
            self.errors.append(
                {
                    "at": source.session.opened_at,
                    "domain": stream.sender,
                    "direction": "inbound",
                    "reason": reason[:256],
                }
            )

    def _new_session(self, websocket: AcceptedWebSocket) -> WebSocketSession:
        limits = self.config.limits
        parser = MessageParser(limits)
        source = RemoteSource(self)
        stream = ReceivingStream(
            self._stream_config,
            WEBSOCKET_FRAMING,
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            new_id=new_stream_id,
            new_resumption_id=source.new_resumption_id,
        )
        session = WebSocketSession(stream, source, ping_interval=limits.ping_interval)
        session.attach(websocket)
        source.attach(session)
        websocket.request = None  # 2.3 KiB that nobody needs any more
        self.sources.add(source)
        session.start_timer()
        return session


def _origin(url: str) -> str:
    return f"https://{urlsplit(url).netloc}"


def new_stream_id() -> str:
    """RFC 6120 §4.7.3: unique and unpredictable; dialback keys depend on it."""
    return f"s-{secrets.token_hex(12)}"
