"""Opening authenticated wss sessions to remote domains (XEP-0468), in the name of one of ours."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from coordinator.address import Address
from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.routes import DomainPair
from workers.gateway.channel import Channel
from workers.gateway.discovery import Discovered, Discovery, NoUsableAddress
from workers.gateway.failure import HopFailed
from workers.gateway.herd import Herd, key_for
from workers.gateway.hostmeta import InvalidHostMeta, Target, parse_url
from workers.gateway.identity import CertificateRejected, TrustProblem, TrustSources, verify_peer
from workers.gateway.negotiation import Negotiation, SeeOtherUri
from workers.gateway.session import SessionOwner, WebSocketSession
from workers.gateway.tls import OwnCertificates, client_context
from workers.gateway.websocket_handshake import WebSocketFailed, connect
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import MessageParser
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)

MAX_SEE_OTHER = 2
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
        authorities: TrustSources,
        dialback_secret: bytes,
    ) -> None:
        self._config = config
        self._discovery = discovery
        self._certificates = certificates
        self._authorities = authorities
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
        for target in found.targets:
            try:
                addresses = await self._addresses(found, target)
                async with self._turn(DomainPair(local, remote), addresses[0], urgent=queued):
                    session = await self._try_target(
                        found, target, addresses, local, owner, new_session
                    )
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
        self,
        found: Discovered,
        target: Target,
        addresses: list[str],
        local: str,
        owner: SessionOwner,
        new_session: NewSession,
    ) -> WebSocketSession:
        for _ in range(MAX_SEE_OTHER + 1):
            try:
                return await self._try_addresses(
                    found, target, addresses, local, owner, new_session
                )
            except SeeOtherUri as exc:
                try:
                    target = parse_url(exc.uri)  # wss only: RFC 7395 §3.6.1 forbids less
                except InvalidHostMeta as problem:
                    raise HopFailed(f"see-other-uri: {problem}", resolved=True) from None
                addresses = await self._addresses(found, target)
        raise HopFailed("see-other-uri leads round in circles", resolved=True)

    async def _try_addresses(
        self,
        found: Discovered,
        target: Target,
        addresses: list[str],
        local: str,
        owner: SessionOwner,
        new_session: NewSession,
    ) -> WebSocketSession:
        reason = "no address"
        for address in addresses:
            try:
                return await self._open(found, target, address, local, owner, new_session)
            except HopFailed as exc:
                reason = f"{address}: {exc.reason}"
        raise HopFailed(reason, resolved=True)

    async def _open(
        self,
        found: Discovered,
        target: Target,
        address: str,
        local: str,
        owner: SessionOwner,
        new_session: NewSession,
    ) -> WebSocketSession:
        limits = self._config.limits
        session = new_session()
        negotiation = Negotiation(owner)
        session.owner = negotiation
        try:
            websocket = await connect(
                target.url,
                session,
                address=(address, target.port),
                context=self._certificates.client_context_for(local) or _NO_CERTIFICATE,
                server_name=target.sni or None,
                verify=partial(self._verify, found, target),
                # COMPAT(xmpp-proxy): it sends Origin itself; some HTTPS fronts route by it.
                headers={"Origin": origin_of(target)},
                max_message=2 * limits.stanza_bytes,
                timeout=limits.connect_timeout,
            )
        except WebSocketFailed as exc:
            raise HopFailed(str(exc), resolved=True) from None
        session.attach(websocket)
        assert isinstance(session.stream, InitiatingStream)
        session.stream.open()
        session.pump()
        await negotiation.finish(session, limits.connect_timeout)
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
            use_dialback="dialback" in policy.auth,
            use_bidi=self._config.websocket.bidi,
            resumption_seconds=self._config.websocket.resume,
            verify_only=verify_only,
        )
        stream = InitiatingStream(
            config,
            WebSocketFraming(),
            parser.parse,
            parser,
            _now(),
            sender=local,
            target=remote,
            resume=resume,
        )
        return WebSocketSession(stream, owner, ping_interval=limits.ping_interval)

    def _verify(self, found: Discovered, target: Target, channel: Channel) -> None:
        """XEP-0156 §2.2: the certificate must be for the domain or the host it was sent to."""
        hosts = {name for name in (target.host, target.sni) if name and _is_domain(name)}
        try:
            verify_peer(
                channel.peer_chain(),
                self._authorities.for_domain(found.domain),
                time.time(),
                domain=found.domain,
                delegated_hosts=hosts,
            )
        except CertificateRejected as exc:
            raise WebSocketFailed(f"certificate: {exc.reason}") from None
        except TrustProblem as exc:
            raise WebSocketFailed(str(exc)) from None


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
