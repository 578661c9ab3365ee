"""The sink as a local server: s2s over TCP with STARTTLS, EXTERNAL and XEP-0198.

Towards a gateway it is what a Prosody with `smacks_s2s_resend` is: streams that the gateway opens
bring stanzas, and streams of its own to the gateway's local port take the answers away.
"""

import asyncio
import secrets

from OpenSSL import SSL

from loadtest.load.link import Link
from loadtest.sink.behaviour import Behaviour
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import Negotiation
from workers.gateway.session import Session
from workers.gateway.tcp_session import TcpSession
from workers.xmpp.events import (
    DialbackKeyReceived,
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamOpened,
)
from workers.xmpp.framing import StreamFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import StreamConfig

_TIMEOUT = 15.0


class Sink:
    """Serves one domain; `start` first, `stop` last."""

    def __init__(
        self,
        domain: str,
        behaviour: Behaviour,
        *,
        server: SSL.Context,
        client: SSL.Context,
        gateway: tuple[str, int],
    ) -> None:
        """`gateway`: where streams for all remote domains go, its local port."""
        self.domain = domain
        self.behaviour = behaviour
        self.lost: dict[str, int] = {}
        """Streams of ours that ended or were refused, by reason."""
        self._server_context = server
        self._client_context = client
        self._gateway = gateway
        self._config = StreamConfig(offer_tls=True, hosts=frozenset((domain,)))
        self._links: dict[str, Link] = {}
        self._server: asyncio.Server | None = None
        self._streams: set[Session] = set()

    async def start(self, address: tuple[str, int]) -> None:
        """Raises `OSError` if the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, *address)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in self._links.values():
            link.close()
        for session in list(self._streams):
            session.close()
        for link in self._links.values():
            await link.wait_closed()

    @property
    def streams(self) -> tuple[int, int]:
        """How many there are: from the gateway, and to it."""
        return len(self._streams), sum(link.is_open for link in self._links.values())

    def take(self, stanzas: list[Stanza]) -> None:
        """Answer what has arrived."""
        for stanza in stanzas:
            for answer in self.behaviour.answer(stanza):
                self.send(answer)

    def send(self, stanza: Stanza) -> None:
        """On a stream of ours to its target."""
        self._link(stanza.target_domain).send(stanza)

    def cut(self) -> None:
        """All streams of ours are lost in one moment."""
        for link in self._links.values():
            link.cut()

    # What the links call.

    def link_opened(self, link: Link, seconds: float, how: str) -> None: ...

    def link_refused(self, link: Link, reason: str) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + 1

    def link_lost(self, link: Link, reason: str) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + 1

    def stanzas_received(self, link: Link, stanzas: list[Stanza]) -> None:
        raise AssertionError("no stanzas come on a stream of ours: it goes one way")

    def stanzas_returned(self, link: Link, stanzas: list[Stanza]) -> None: ...

    # Inside.

    def _link(self, domain: str) -> Link:
        link = self._links.get(domain)
        if link is None:

            async def open(link: Link, _resume: Suspended | None) -> Session:
                return await self._open(domain, link)

            link = self._links[domain] = Link(open, self, resends=True)
        link.start()
        return link

    async def _open(self, domain: str, link: Link) -> Session:
        loop = asyncio.get_running_loop()
        parser = StreamParser(self._config.limits)
        stream = InitiatingStream(
            StreamConfig(require_tls=True, use_dialback=False),
            StreamFraming(),
            parser.feed,
            parser,
            loop.time(),
            sender=self.domain,
            target=domain,
        )
        negotiation = Negotiation(link)
        session = TcpSession(stream, negotiation, is_server=False, server_name=domain)
        session.tls_context = self._client_context
        try:
            await session.connect(*self._gateway)
        except OSError as exc:
            raise HopFailed(str(exc), resolved=True) from None
        stream.open()
        session.pump()
        await negotiation.finish(session, _TIMEOUT)
        return session

    def _accept(self) -> asyncio.BaseProtocol:
        parser = StreamParser(self._config.limits)
        stream = ReceivingStream(
            self._config,
            StreamFraming(),
            parser.feed,
            parser,
            asyncio.get_running_loop().time(),
            new_id=lambda: secrets.token_hex(8),
        )
        session = TcpSession(stream, _Accepted(self), is_server=True)
        session.tls_context = self._server_context
        session.start_timer()
        self._streams.add(session)
        return session.channel

    def forget(self, session: Session) -> None:
        self._streams.discard(session)


class _Accepted:
    """A stream that the gateway opened for a remote domain."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def on_event(self, session: Session, event: Event) -> None:
        stream = session.stream
        assert isinstance(stream, ReceivingStream)
        kind = type(event)
        if kind is StanzasReceived:
            stanzas = event.stanzas  # type: ignore[union-attr]
            session.mark_handled(len(stanzas))
            self._sink.take(stanzas)
        elif kind is StanzaRefused:
            session.mark_handled(1)
        elif kind is StreamOpened:
            # Whoever has a certificate: the load test trusts the gateway it measures.
            stream.offer(external=bool(session.peer_chain()), dialback=False)
        elif isinstance(event, DialbackKeyReceived):
            stream.answer_dialback(sender=event.sender, target=event.target, outcome="invalid")

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self._sink.forget(session)
