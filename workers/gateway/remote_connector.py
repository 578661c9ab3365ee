"""Opening authenticated wss sessions to remote domains (XEP-0468), in the name of one of ours."""

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from cryptography import x509

from coordinator.address import Address
from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.routes import DomainPair
from workers.gateway import expiry
from workers.gateway.channel import Channel
from workers.gateway.discovery import Discovered, Discovery, NoUsableAddress
from workers.gateway.failure import HopFailed
from workers.gateway.herd import Herd, key_for
from workers.gateway.hostmeta import InvalidHostMeta, Target, parse_url
from workers.gateway.identity import CertificateRejected
from workers.gateway.judge import Judge
from workers.gateway.negotiation import Negotiation, SeeOtherUri
from workers.gateway.racing import STAGGER, NotConnected, connect_any
from workers.gateway.session import SessionOwner
from workers.gateway.tls import OwnCertificates, client_context
from workers.gateway.websocket_connect import WebSocketFailed, connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.framing import WEBSOCKET_FRAMING
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import MessageParser
from workers.xmpp.state import State
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)

MAX_SEE_OTHER = 2
MAX_ADDRESSES = 8  # of one target are tried
MIN_ATTEMPT = 2.0  # seconds for one, however many targets and addresses there are
_NO_CERTIFICATE = client_context(None)

NewSession = Callable[[], WebSocketSession]
"""Makes the session, not connected yet, for one attempt."""


class RemoteConnector:
    """Tries every target and address of a domain until one gives an authenticated stream."""

    def __init__(
        self,
        config: Config,
        discovery: Discovery,
        certificates: OwnCertificates,
        judge: Judge,
        dialback_secret: bytes,
    ) -> None:
        self._config = config
        self._discovery = discovery
        self._certificates = certificates
        self._judge = judge
        self._secret = dialback_secret
        self.herd = Herd(config.limits.connects)
        self.held_back: set[DomainPair] = set()
        """Those whose session waits for its turn: nothing is known of the remote yet."""

    async def connect(
        self,
        local: str,
        remote: str,
        owner: SessionOwner,
        *,
        verify_only: bool = False,
        asker: str = "",
        resume: Suspended | None = None,
        queued: bool = False,
    ) -> WebSocketSession:
        """Open a session from `local` to `remote` (XEP-0487 §3.2). Raises `HopFailed`.

        With `verify_only` the stream is not authenticated: it may only carry `send_verify`.
        `resume`: the lost stream to go on with, if the remote agrees (`stream.resumed`).
        `asker`: the address of a peer that has proved nothing and named the domain. `queued`:
        stanzas wait for the session, so it goes before others when many connect.
        """
        found = await self._discovery.find(remote, asker=asker)
        if found.blocked:
            raise HopFailed(found.reason, resolved=True)
        if not found.targets:
            raise HopFailed(found.reason, resolved=False)
        reasons = []
        new_session = partial(
            self._new_session, local, remote, owner, verify_only=verify_only, resume=resume
        )
        wanted = _Wanted(found, local, owner, new_session, asker)
        for target in found.targets:
            try:
                addresses = await self._addresses(found, target)
                async with self._turn(DomainPair(local, remote), addresses[0], urgent=queued):
                    session = await self._try_target(wanted, target, addresses)
            except HopFailed as exc:
                reasons.append(f"{target.url}: {exc.reason}")
                continue
            if not verify_only:
                self._discovery.mark_working(remote)
            return session
        raise HopFailed("; ".join(reasons)[:1000], resolved=True)

    @asynccontextmanager
    async def _turn(self, pair: DomainPair, address: str, *, urgent: bool) -> AsyncIterator[None]:
        self.held_back.add(pair)
        try:
            async with self.herd.turn(key_for(pair.remote, address), urgent=urgent):
                self.held_back.discard(pair)
                yield
        finally:
            self.held_back.discard(pair)

    async def _addresses(self, found: Discovered, target: Target) -> list[str]:
        try:
            return await self._discovery.addresses(found, target)
        except NoUsableAddress as exc:
            raise HopFailed(exc.reason, resolved=False) from None

    async def _try_target(
        self, wanted: "_Wanted", target: Target, addresses: list[str]
    ) -> WebSocketSession:
        for _ in range(MAX_SEE_OTHER + 1):
            try:
                return await self._try_addresses(wanted, target, addresses)
            except SeeOtherUri as exc:
                try:
                    target = parse_url(exc.uri)  # wss only: RFC 7395 §3.6.1 forbids less
                except InvalidHostMeta as problem:
                    raise HopFailed(f"see-other-uri: {problem}", resolved=True) from None
                addresses = await self._addresses(wanted.found, target)
        raise HopFailed("see-other-uri leads round in circles", resolved=True)

    async def _try_addresses(
        self, wanted: "_Wanted", target: Target, addresses: list[str]
    ) -> WebSocketSession:
        """One that accepts and then is no good must not take the time of all others."""
        left = addresses[:MAX_ADDRESSES]
        attempts = len(wanted.found.targets) * len(left)
        seconds = max(self._config.limits.connect_timeout / attempts, MIN_ATTEMPT)
        reasons = []
        while left:
            try:
                address, sock = await connect_any(
                    left, target.port, timeout=seconds + STAGGER * len(left)
                )
            except NotConnected as exc:
                where = f"{' and '.join(left)} port {target.port}"
                reasons.append(f"cannot connect to {where}: {exc.reason}")
                break
            left.remove(address)
            try:
                return await self._open(wanted, target, address, sock, seconds)
            except HopFailed as exc:
                reasons.append(f"{address}: {exc.reason}")
        raise HopFailed("; ".join(reasons), resolved=True)

    async def _open(
        self, wanted: "_Wanted", target: Target, address: str, sock: socket.socket, seconds: float
    ) -> WebSocketSession:
        negotiation = Negotiation(wanted.owner)
        try:
            session = await self._upgrade(wanted, target, sock, seconds, negotiation)
        except _CertificateRefused as exc:
            domain, asker = wanted.found.domain, wanted.asker
            if not await self._judge.is_published(exc.chain, domain, asker=asker):
                raise
            again = (address, target.port)
            session = await self._upgrade(wanted, target, again, seconds, negotiation)
        assert isinstance(session.stream, InitiatingStream)
        if session.stream.state is State.START:  # else it has said its last word already
            session.stream.open()
            session.pump()
        await negotiation.finish(session, seconds)
        return session

    async def _upgrade(
        self,
        wanted: "_Wanted",
        target: Target,
        where: socket.socket | tuple[str, int],
        seconds: float,
        negotiation: Negotiation,
    ) -> WebSocketSession:
        """TLS and the WebSocket handshake. Raises `_CertificateRefused` and other `HopFailed`."""
        session = wanted.new_session()
        session.owner = negotiation
        verdict = _Verdict(self._judge, wanted.found, target)
        try:
            websocket = await connect(
                target.url,
                session,
                address=where,
                context=self._certificates.client_context_for(wanted.local) or _NO_CERTIFICATE,
                server_name=target.sni or None,
                verify=verdict.verify,
                # COMPAT(xmpp-proxy): it sends Origin itself; some HTTPS fronts route by it.
                headers={"Origin": origin_of(target)},
                max_message=2 * self._config.limits.stanza_bytes,
                timeout=seconds,
            )
        except WebSocketFailed as exc:
            if verdict.refused:
                raise _CertificateRefused(str(exc), verdict.refused) from None
            raise HopFailed(str(exc), resolved=True) from None
        session.attach(websocket)
        expiry.end_by(session, verdict.not_after)
        return session

    def _new_session(
        self,
        local: str,
        remote: str,
        owner: SessionOwner,
        *,
        verify_only: bool,
        resume: Suspended | None,
    ) -> WebSocketSession:
        limits = self._config.limits
        policy = self._config.remote_for(remote)
        parser = MessageParser(limits)
        config = StreamConfig(
            limits=limits,
            dialback_secret=self._secret,
            use_external="external" in policy.auth
            and self._certificates.client_context_for(local) is not None,
            use_dialback=policy.dialback,
            use_bidi=self._config.websocket.bidi,
            resumption_seconds=self._config.websocket.resume,
            verify_only=verify_only,
        )
        stream = InitiatingStream(
            config,
            WEBSOCKET_FRAMING,
            parser.parse,
            parser,
            _now(),
            sender=local,
            target=remote,
            resume=resume,
        )
        return WebSocketSession(stream, owner, ping_interval=limits.ping_interval)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One call of `connect`."""

    found: Discovered
    local: str
    owner: SessionOwner
    new_session: NewSession
    asker: str


class _CertificateRefused(HopFailed):
    """The server's certificate does not prove the domain, as far as is known."""

    def __init__(self, reason: str, chain: list[x509.Certificate]) -> None:
        super().__init__(reason, resolved=True)
        self.chain = chain


class _Verdict:
    """What becomes of one server's certificate, judged between TLS and the upgrade."""

    def __init__(self, judge: Judge, found: Discovered, target: Target) -> None:
        self.refused: list[x509.Certificate] = []
        self.not_after = math.inf
        self._judge = judge
        self._found = found
        self._target = target

    def verify(self, channel: Channel) -> None:
        """XEP-0156 §2.2: it must be for the domain or the host it was sent to."""
        hosts = {name for name in (self._target.host, self._target.sni) if _is_domain(name)}
        found, chain = self._found, channel.peer_chain()
        try:
            proof = self._judge.judge(chain, found.domain, hosts=hosts, pins=found.fresh_pins)
        except CertificateRejected as exc:
            self.refused = chain
            raise WebSocketFailed(f"certificate: {exc.reason}") from None
        self.not_after = proof.not_after


def origin_of(target: Target) -> str:
    """What we send as Origin: the target's own, which listeners compare with Host."""
    return f"https://{Address(target.host, target.port)}".removesuffix(":443")


def _is_domain(name: str) -> bool:
    try:
        return normalise_domain(name) == name and not name.replace(".", "").isdigit()
    except InvalidDomain:
        return False


def _now() -> float:
    return asyncio.get_running_loop().time()
