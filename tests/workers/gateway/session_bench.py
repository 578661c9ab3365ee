"""A far end to talk to: our own receiving stream on loopback, by TCP or WebSocket."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from coordinator.config import Limits
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.negotiation import Negotiation
from workers.gateway.session import Session, SessionOwner
from workers.gateway.tcp_session import TcpSession
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_connect import connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.events import (
    DialbackKeyReceived,
    Event,
    StanzasReceived,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.framing import StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import StreamConfig

LOCAL, REMOTE = "capulet.example", "montague.example"
SECRET = b"a secret"
PATH = "/xmpp-s2s"


def message(id: str, *, sender: str = LOCAL, target: str = REMOTE, body: str = "hi") -> Stanza:
    data = (
        f"<message xmlns='jabber:server' from='a@{sender}' to='b@{target}' id='{id}'>"
        f"<body>{body}</body></message>"
    )
    return _stanza("message", data, sender, target, id, None)


def request(id: str, *, sender: str = LOCAL, target: str = REMOTE) -> Stanza:
    data = (
        f"<iq xmlns='jabber:server' from='a@{sender}' to='b@{target}' id='{id}' type='get'>"
        "<query xmlns='urn:example'/></iq>"
    )
    return _stanza("iq", data, sender, target, id, "get")


def _stanza(name: str, data: str, sender: str, target: str, id: str, type: str | None) -> Stanza:
    return Stanza(name, data.encode(), f"a@{sender}", f"b@{target}", id, type, sender, target)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds; fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (whatever it is, no part would set an event)
            await asyncio.sleep(0)


def on_quiet_loop(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test fails if the loop saw an exception that nobody handled."""

    @functools.wraps(test)
    async def watched(*args: Any, **fixtures: Any) -> None:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, seen: unhandled.append(seen))
        async with asyncio.timeout(30):
            await test(*args, **fixtures)
        assert not unhandled

    return watched


class FarServer:
    """Receives as `domain`; the attributes say how it treats its peers and what it got."""

    def __init__(self, domain: str = REMOTE, *, limits: Limits | None = None) -> None:
        self.domain = domain
        self.external = True
        """Offer EXTERNAL (and so XEP-0198), whatever the certificate; else dialback alone."""
        self.outcome = "valid"
        self.verdict = "valid"
        """On dialback keys that it is asked about; "" for no answer."""
        self.management = True
        self.stream_options: dict[str, Any] = {}
        """More of `StreamConfig`."""
        self.new_resumption_id: Callable[[], str] | None = None
        self.tls: SSL.Context | None = None
        """On TCP: what STARTTLS is offered with."""
        self.leads_to = ""
        """On a WebSocket: send whoever comes there (see-other-uri)."""
        self.handles = True
        """Acknowledge what comes."""
        self.on_stanzas: Callable[[Session, list[Stanza]], None] = lambda session, stanzas: None
        self.sessions: list[Session] = []
        self.got: list[Stanza] = []
        self.chains: list[Any] = []
        self.ended: list[str] = []
        self.limits = limits or Limits()
        self.port = 0
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}{PATH}"

    def ids(self) -> list[str | None]:
        return [stanza.id for stanza in self.got]

    async def serve_tcp(self) -> "FarServer":
        await self._listen(lambda: self._new_tcp_session().channel)
        return self

    async def serve_websocket(self, context: SSL.Context | None = None) -> "FarServer":
        endpoint = Endpoint(
            path=PATH,
            new_owner=self._new_web_session,
            context=context,
            proxies=TrustedProxies(("127.0.0.1/32",)),
        )
        await self._listen(lambda: AcceptedWebSocket(endpoint).channel)
        return self

    async def close(self) -> None:
        self._server.close()
        for session in self.sessions:
            if not session.ended:
                session.abort("the far end stops")
        await until(lambda: all(session.ended for session in self.sessions))

    def connector(self, **options: Any) -> Callable[[SessionOwner], Any]:
        """What a hop takes as `connect`."""
        return functools.partial(self.connect, **options)

    async def connect(
        self, owner: SessionOwner, *, websocket: bool = False, timeout: float = 5.0, **options: Any
    ) -> Session:
        """Open a session from LOCAL to this server, as connectors do."""
        config = StreamConfig(dialback_secret=SECRET, **options)
        negotiation = Negotiation(owner)
        now = asyncio.get_running_loop().time()
        names = {"sender": LOCAL, "target": self.domain}
        session: Session
        if websocket:
            messages = MessageParser(config.limits)
            stream = InitiatingStream(
                config, WebSocketFraming(), messages.parse, messages, now, **names
            )
            web = WebSocketSession(stream, negotiation)
            address = ("127.0.0.1", self.port)
            web.attach(await connect(f"ws://127.0.0.1{PATH}", web, address=address, context=None))
            session = web
        else:
            chunks = StreamParser(config.limits)
            stream = InitiatingStream(config, StreamFraming(), chunks.feed, chunks, now, **names)
            tcp = TcpSession(stream, negotiation, is_server=False)
            await tcp.connect("127.0.0.1", self.port)
            session = tcp
        stream.open()
        session.pump()
        await negotiation.finish(session, timeout)
        return session

    async def _listen(self, factory: Callable[[], Any]) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(factory, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _config(self) -> StreamConfig:
        return StreamConfig(
            limits=self.limits,
            hosts=frozenset({self.domain}),
            use_management=self.management,
            offer_tls=self.tls is not None,
            **self.stream_options,
        )

    def _new_tcp_session(self) -> TcpSession:
        parser = StreamParser(self.limits)
        now = asyncio.get_running_loop().time()
        stream = ReceivingStream(
            self._config(), StreamFraming(), parser.feed, parser, now, new_id=lambda: "an-id"
        )
        session = TcpSession(stream, self, is_server=True)
        session.tls_context = self.tls
        self.sessions.append(session)
        return session

    def _new_web_session(self, websocket: AcceptedWebSocket) -> WebSocketSession:
        parser = MessageParser(self.limits)
        now = asyncio.get_running_loop().time()
        stream = ReceivingStream(
            self._config(),
            WebSocketFraming(),
            parser.parse,
            parser,
            now,
            new_id=lambda: "an-id",
            new_resumption_id=self.new_resumption_id,
        )
        session = WebSocketSession(stream, self)
        session.attach(websocket)
        self.sessions.append(session)
        return session

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        stream = session.stream
        assert isinstance(stream, ReceivingStream)
        if isinstance(event, StreamOpened):
            self.chains.append(session.peer_chain())
            if self.leads_to:
                session.close(self.leads_to)
                return
            stream.offer(external=self.external, dialback=True)
        elif isinstance(event, DialbackKeyReceived):
            stream.answer_dialback(sender=event.sender, target=event.target, outcome=self.outcome)
        elif isinstance(event, VerifyRequested) and self.verdict:
            stream.answer_verify(
                sender=event.sender, target=event.target, id=event.id, outcome=self.verdict
            )
        elif isinstance(event, StanzasReceived):
            self.got += event.stanzas
            self.on_stanzas(session, event.stanzas)
            if self.handles:
                session.mark_handled(len(event.stanzas))

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self.ended.append(reason)
