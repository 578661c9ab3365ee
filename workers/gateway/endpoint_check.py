"""One wss endpoint tried step by step, for `fedgate check`: TCP up to an authenticated stream."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from lxml import etree
from OpenSSL import SSL

from coordinator.config import Config
from workers.gateway.channel import Channel
from workers.gateway.hostmeta import Target
from workers.gateway.identity import CertificateRejected
from workers.gateway.judge import Judge, Proof
from workers.gateway.rejection import usage_text
from workers.gateway.remote_connector import origin_of
from workers.gateway.session import Session
from workers.gateway.tls import client_context
from workers.gateway.websocket_connect import WebSocketFailed, connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp import namespaces
from workers.xmpp.elements import Features, parse_features
from workers.xmpp.events import (
    Authenticated,
    AuthenticationFailed,
    Event,
    StreamClosed,
    StreamEstablished,
)
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import Element, MessageParser
from workers.xmpp.stream import StreamConfig

_PING = b"fedgate check"
_PING_SECONDS = 5.0


class StepFailed(Exception):
    """A step was not passed: what was seen, and what the operator may do about it."""

    def __init__(self, step: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason
        self.hint = hint


class EndpointCheck:
    """Tries one target; `say(step, text)` tells each step that was passed."""

    def __init__(
        self,
        config: Config,
        target: Target,
        *,
        local: str,
        remote: str,
        context: SSL.Context | None,
        judge: Judge,
        pins: frozenset[str] = frozenset(),
        secret: bytes,
        say: Callable[..., None],
    ) -> None:
        self._config = config
        self._target = target
        self._local = local
        self._remote = remote
        self._context = context
        self._judge = judge
        self._pins = pins
        self._secret = secret
        self._say = say
        self._failure: StepFailed | None = None
        self._refused: list[x509.Certificate] = []
        self._saw_tls = False

    async def run(self, addresses: list[str]) -> None:
        """Raises `StepFailed` at the first step that is not passed."""
        address = await self._check_tcp(addresses)
        watcher = _Watcher()
        try:
            session = await self._check_handshakes(watcher, address)
        except StepFailed as exc:
            if not await self._judge.is_published(self._refused, self._remote):
                raise
            self._say("posh", f"{exc.reason}; but {self._remote} publishes this certificate")
            session = await self._check_handshakes(watcher, address)
        try:
            await self._check_stream(session, watcher)
            await self._check_ping(session, watcher)
        finally:
            session.close()
            await watcher.wait_closed()

    async def _check_tcp(self, addresses: list[str]) -> tuple[str, int]:
        reasons = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                started = time.monotonic()
                try:
                    async with asyncio.timeout(self._config.limits.connect_timeout / 2):
                        loop = asyncio.get_running_loop()
                        await loop.sock_connect(sock, (address, self._target.port))
                except (OSError, TimeoutError) as exc:
                    reason = os.strerror(exc.errno) if exc.errno else "no answer"
                    reasons.append(f"{address} port {self._target.port}: {reason}")
                    continue
            self._say("tcp", f"{address} port {self._target.port}, {_since(started)}")
            return address, self._target.port
        raise StepFailed(
            "tcp",
            "; ".join(reasons),
            f"is the remote gateway running, and port {self._target.port} open towards us?",
        )

    async def _check_handshakes(
        self, watcher: "_Watcher", address: tuple[str, int]
    ) -> WebSocketSession:
        session = self._new_session(watcher)
        started = time.monotonic()
        try:
            websocket = await connect(
                self._target.url,
                session,
                address=address,
                context=self._context or client_context(None),
                server_name=self._target.sni or None,
                verify=self._verify,
                headers={"Origin": origin_of(self._target)},
                max_message=2 * self._config.limits.stanza_bytes,
                timeout=self._config.limits.connect_timeout,
            )
        except WebSocketFailed as exc:
            if self._failure is not None:
                raise self._failure from None
            raise self._explain(str(exc)) from None
        session.attach(websocket)
        self._say("websocket", f"upgraded with subprotocol xmpp, {_since(started)}")
        return session

    def _explain(self, reason: str) -> StepFailed:
        if self._saw_tls:
            return StepFailed(
                "websocket",
                reason,
                "the URL must lead to an XEP-0468 endpoint; check its path and any proxy before it",
            )
        return StepFailed(
            "tls", reason, "does the port speak TLS 1.2 or later? A proxy may ask for another SNI"
        )

    def _verify(self, channel: Channel) -> None:
        """Called between the TLS handshake and the upgrade."""
        self._saw_tls = True
        self._say("tls", channel.tls_summary())
        chain = channel.peer_chain()
        # XEP-0156 §2.2: for the domain, or for the host that the domain delegated to.
        hosts = {name for name in (self._target.host, self._target.sni) if name}
        try:
            proof = self._judge.judge(chain, self._remote, hosts=hosts, pins=self._pins)
        except CertificateRejected as exc:
            hint = "the remote operator must renew or complete it; or set trust for this domain"
            self._refused = chain
            self._failure = StepFailed("certificate", exc.reason, hint)
            raise WebSocketFailed(exc.reason) from None
        self._say("certificate", _describe(proof, chain[0]))

    def _new_session(self, watcher: "_Watcher") -> WebSocketSession:
        limits = self._config.limits
        policy = self._config.remote_for(self._remote)
        parser = MessageParser(limits)

        def parse(messages: list[bytes]) -> list[Element]:
            items = parser.parse(messages)
            watcher.look_at(items)
            return items

        config = StreamConfig(
            limits=limits,
            dialback_secret=self._secret,
            use_external="external" in policy.auth and self._context is not None,
            use_dialback=policy.dialback,
        )
        now = asyncio.get_running_loop().time()
        stream = InitiatingStream(
            config, WebSocketFraming(), parse, parser, now, sender=self._local, target=self._remote
        )
        return WebSocketSession(stream, watcher, ping_interval=limits.ping_interval)

    async def _check_stream(self, session: WebSocketSession, watcher: "_Watcher") -> None:
        started = time.monotonic()
        session.start_timer()
        assert isinstance(session.stream, InitiatingStream)
        session.stream.open()
        session.pump()
        try:
            async with asyncio.timeout(self._config.limits.connect_timeout):
                await watcher.done
        except TimeoutError:
            watcher.reason = f"no answer within {self._config.limits.connect_timeout:g} s"
        if watcher.features is None:
            reason = watcher.reason or "the stream was closed before its features"
            raise StepFailed("features", reason, f"does the endpoint serve {self._remote}?")
        self._say("features", _describe_features(watcher.features))
        if not watcher.authenticated_by:
            raise StepFailed("authentication", watcher.reason, self._authentication_hint())
        self._say(
            "authentication",
            f"as {self._local} by {watcher.authenticated_by}, {_since(started)}",
        )

    def _authentication_hint(self) -> str:
        if self._context is None:
            return (
                f"no certificate covers {self._local}: add it to certificates; dialback needs "
                "our own wss endpoint reachable from there"
            )
        return (
            f"the remote must trust our certificate for {self._local}; for dialback it must reach "
            "our own wss endpoint, and the gateway must be running"
        )

    async def _check_ping(self, session: WebSocketSession, watcher: "_Watcher") -> None:
        started = time.monotonic()
        session.ping(_PING)
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await watcher.pong
        except TimeoutError:
            raise StepFailed(
                "ping",
                f"no Pong within {_PING_SECONDS:g} s",
                "the endpoint answers but keeps no connection open; look for a proxy's timeout",
            ) from None
        self._say("ping", f"Pong after {_since(started)}")


class _Watcher:
    """Owns the session and remembers what the steps are judged by."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.pong: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self.features: Features | None = None
        self.authenticated_by = ""
        self.reason = ""

    async def wait_closed(self) -> None:
        """Until the connection has ended; a session bounds that itself."""
        await self._closed

    def look_at(self, items: list[Element]) -> None:
        for item in items:
            # The second features, after authentication, no longer name the mechanisms.
            if isinstance(item, etree._Element) and self.features is None:
                if item.tag == namespaces.FEATURES:
                    self.features = parse_features(item)

    def on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, Authenticated):
            self.authenticated_by = event.by
        elif isinstance(event, AuthenticationFailed):
            self.reason = event.reason
        elif isinstance(event, StreamEstablished):
            _settle(self.done)
        elif isinstance(event, StreamClosed):
            self.reason = self.reason or session.reason
            _settle(self.done)

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None:
        if payload == _PING:
            _settle(self.pong)

    def on_closed(self, session: Session, reason: str) -> None:
        self.reason = self.reason or reason
        for future in (self.done, self._closed):
            _settle(future)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _since(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.1f} ms"


def _describe(proof: Proof, leaf: x509.Certificate) -> str:
    until = datetime.fromtimestamp(proof.not_after, UTC)
    good_for = f"for {proof.names}" if proof.names is not None else f"good by {proof.by}"
    return f"{good_for}; until {until:%Y-%m-%d}; usage {_usage(leaf)}"


def _usage(leaf: x509.Certificate) -> str:
    try:
        usage: Any = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return "not restricted"
    return usage_text(usage)


def _describe_features(features: Features) -> str:
    offered = sorted(features.mechanisms)
    offered += ["dialback"] if features.dialback else []
    offered += ["stream management"] if features.management else []
    offered += ["bidi"] if features.bidi else []
    limit = f"; at most {features.max_bytes} bytes a stanza" if features.max_bytes else ""
    return f"{', '.join(offered) or 'none'}{limit}"
