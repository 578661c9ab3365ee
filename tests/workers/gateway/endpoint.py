"""A remote gateway's public side, small but real: wss, certificate, receiving stream."""

import asyncio
import socket
from pathlib import Path

from coordinator.config import Limits
from workers.gateway.certificates import load_pair
from workers.gateway.tls import server_context
from workers.gateway.websocket_accept import Endpoint, serve
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.events import DialbackKeyReceived, StreamOpened
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.parser import MessageParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig


class RemoteEndpoint:
    """Serves `domain` at a free loopback port; the attributes say how it treats its peers."""

    def __init__(self, domain, pair, *, external=True, outcome="valid"):
        self.domain = domain
        self.external = external
        self.outcome = outcome
        self.keys = []
        self.chains = []
        self._endpoint = Endpoint(
            path="/xmpp-s2s",
            new_owner=self._new_session,
            context=server_context(load_pair(*pair)),
        )

    async def start(self):
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self.url = f"wss://127.0.0.1:{self.port}/xmpp-s2s"
        self._server = await serve(self._endpoint, sock)
        return self

    async def stop(self):
        self._server.close()
        await self._server.wait_closed()

    def _new_session(self, websocket):
        parser = MessageParser(Limits())
        stream = ReceivingStream(
            StreamConfig(hosts=frozenset({self.domain})),
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            new_id=lambda: "stream-id",
        )
        session = WebSocketSession(stream, self)
        session.attach(websocket)
        return session

    def on_event(self, session, event):
        if isinstance(event, StreamOpened):
            self.chains.append(session.peer_chain())
            session.stream.offer(external=self.external, dialback=True)
        elif isinstance(event, DialbackKeyReceived):
            self.keys.append(event.key)
            session.stream.answer_dialback(
                sender=event.sender, target=event.target, outcome=self.outcome
            )

    def on_write_paused(self, session): ...

    def on_write_resumed(self, session): ...

    def on_pong(self, session, payload): ...

    def on_closed(self, session, reason): ...


def pair_of(key_pair) -> tuple[Path, Path]:
    """The two paths of a key pair issued by the stage's authority."""
    return key_pair.certificate, key_pair.key
