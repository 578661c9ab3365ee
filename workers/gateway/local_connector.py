"""Opening s2s streams to the local server in the name of a remote domain (attach.md C)."""

import asyncio
import logging
from typing import Protocol

from coordinator.address import parse_address
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import Config
from workers.gateway.failure import HopFailed
from workers.gateway.local_trust import LocalTrust
from workers.gateway.negotiation import Negotiation
from workers.gateway.session import Session, SessionOwner
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import LeafContexts
from workers.xmpp.errors import StreamCondition
from workers.xmpp.framing import StreamFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import StreamParser
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)


# Streams that only ask about keys are opened in this name (RFC 2606 §2: nobody's). Prosody wants a
# good certificate of them, too, and strangers must not have one made for any domain they name.
# Neither Prosody nor ejabberd compares the name with the addresses of the question.
VERIFIER = "verify.fedgate.invalid"


class ToLocalServer(Protocol):
    """What opens sessions to the local server, of either attachment."""

    async def connect(
        self, local: str, remote: str, owner: SessionOwner, *, verify_only: bool = False
    ) -> Session: ...


class LocalServerSession(TcpSession):
    """Refuses to go on with a process that poses as the local server."""

    def __init__(self, stream: InitiatingStream, owner: SessionOwner, trust: LocalTrust) -> None:
        super().__init__(stream, owner, is_server=False, server_name=stream.target)
        self._trust = trust

    def tls_established(self) -> None:
        reason = self._trust.why_not(self.stream.target, self.peer_chain())
        if reason:
            log.warning(
                "%s is not the server of %s: %s; run `fedgate attach` if its key was changed",
                self.channel.peername,
                self.stream.target,
                reason,
            )
            self.stream.tls_established(self._loop.time())
            self.stream.fail(StreamCondition.NOT_AUTHORIZED, "not the key of the local server")
            self.reason = f"the local server is not recognised: {reason}"
            self.pump()
            return
        super().tls_established()


class LocalConnector:
    """STARTTLS and EXTERNAL with a minted certificate, as both stock servers accept it."""

    def __init__(
        self, config: Config, control: ControlPlane, contexts: LeafContexts, trust: LocalTrust
    ) -> None:
        self._config = config
        self._control = control
        self._contexts = contexts
        self._trust = trust

    async def connect(
        self, local: str, remote: str, owner: SessionOwner, *, verify_only: bool = False
    ) -> TcpSession:
        """Open a stream from `remote` to our `local` domain. Raises `HopFailed`.

        With `verify_only` the stream is nobody's and may only carry `send_verify`.
        """
        if verify_only:
            remote = VERIFIER
        limits = self._config.limits
        try:
            leaf = await self._control.leaf(remote, "session")
        except ControlPlaneUnavailable as exc:
            raise HopFailed(str(exc), resolved=True) from None
        parser = StreamParser(limits)
        config = StreamConfig(
            limits=limits, require_tls=True, use_dialback=False, verify_only=verify_only
        )
        loop = asyncio.get_running_loop()
        stream = InitiatingStream(
            config, StreamFraming(), parser.feed, parser, loop.time(), sender=remote, target=local
        )
        negotiation = Negotiation(owner)
        session = LocalServerSession(stream, negotiation, self._trust)
        session.tls_context = self._contexts.client(remote, leaf.certificate_pem, leaf.key_pem)
        address = parse_address(self._config.local.server_for(local)).reachable()
        try:
            async with asyncio.timeout(limits.connect_timeout):
                await session.connect(address.host, address.port)
        except asyncio.CancelledError:
            session.channel.abort()
            raise
        except (OSError, TimeoutError) as exc:
            session.channel.abort()
            raise HopFailed(
                f"the local server at {address} does not answer: {exc or 'timeout'}", resolved=True
            ) from None
        stream.open()
        session.pump()
        await negotiation.finish(session, limits.connect_timeout)
        return session
