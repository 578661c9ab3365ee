"""Where the endpoint under test reaches the remote domains: dialback, and answers without bidi.

For every domain alike: it presents a wildcard certificate of the zone, serves the host-meta
document, answers for keys made with the authority's secret, and takes stanzas.
"""

import asyncio
import json
import secrets
from collections.abc import Callable

from OpenSSL import SSL
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loadtest.stage.website import HOST_META, S2S_WEBSOCKET
from workers.gateway.session import Session
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.dialback import is_our_key
from workers.xmpp.events import (
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.parser import MessageParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import StreamConfig

PATH = "/xmpp-s2s"

Take = Callable[["InboundSession", list[Stanza]], None]


class InboundSession:
    """A session that was opened to us; `opened` may go both ways if `bidi` was offered."""

    def __init__(self, listener: "WssListener") -> None:
        self.session: WebSocketSession
        self._listener = listener

    def on_event(self, session: Session, event: Event) -> None:
        kind = type(event)
        if kind is StanzasReceived:
            stanzas = event.stanzas  # type: ignore[union-attr]
            session.mark_handled(len(stanzas))
            self._listener.take(self, stanzas)
        elif kind is StanzaRefused:
            session.mark_handled(1)
        elif kind is StreamOpened:
            stream = session.stream
            assert isinstance(stream, ReceivingStream)
            # Whoever has a certificate at all: the load test trusts the endpoint it measures.
            stream.offer(external=bool(session.peer_chain()), dialback=True)
        elif isinstance(event, VerifyRequested):
            self._answer_verify(session, event)

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self._listener.sessions.discard(self)

    def _answer_verify(self, session: Session, event: VerifyRequested) -> None:
        # The question names the receiving server as sender and the one that made it as target.
        is_ours = is_our_key(
            event.key,
            self._listener.secret,
            receiving=event.sender,
            originating=event.target,
            stream_id=event.id,
        )
        stream = session.stream
        assert isinstance(stream, ReceivingStream)
        stream.answer_verify(
            sender=event.sender,
            target=event.target,
            id=event.id,
            outcome="valid" if is_ours else "invalid",
        )


class WssListener:
    """Accepts sessions for all domains that `hosts` names at the moment."""

    def __init__(
        self,
        context: SSL.Context,
        secret: bytes,
        hosts: Callable[[], frozenset[str]],
        take: Take,
        *,
        bidi: bool = False,
    ) -> None:
        self.secret = secret
        self.take = take
        self.sessions: set[InboundSession] = set()
        self._hosts = hosts
        self._bidi = bidi
        self._server: asyncio.Server | None = None
        self._endpoint = Endpoint(
            path=PATH, new_owner=self._new_session, context=context, http_responder=_host_meta
        )

    async def start(self, address: tuple[str, int]) -> int:
        """Returns the port. Raises `OSError` if others have the address and do not share it."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: AcceptedWebSocket(self._endpoint).channel, *address, reuse_port=True
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for each in list(self.sessions):
            each.session.close()

    def _new_session(self, websocket: AcceptedWebSocket) -> WebSocketSession:
        config = StreamConfig(hosts=self._hosts(), use_bidi=self._bidi)
        parser = MessageParser(config.limits)
        inbound = InboundSession(self)
        stream = ReceivingStream(
            config,
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            new_id=lambda: secrets.token_hex(8),
        )
        inbound.session = WebSocketSession(stream, inbound, ping_interval=50.0)
        inbound.session.attach(websocket)
        inbound.session.start_timer()
        self.sessions.add(inbound)
        return inbound.session


def _host_meta(request: Request) -> Response | None:
    """Every domain is here; the addresses are left to DNS."""
    if request.path.partition("?")[0] != HOST_META:
        return None
    link = {"rel": S2S_WEBSOCKET, "href": f"wss://{request.headers['Host']}{PATH}"}
    body = json.dumps({"links": [link]}).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
    return Response(200, "OK", headers, body)
