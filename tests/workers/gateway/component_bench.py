"""A server that takes components, on loopback, and one worker's data plane attached to it."""

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

from lxml import etree

from coordinator.accounts import Account, balance
from coordinator.config import Config, Gateway, Limits, Local, Remote
from coordinator.routes import DomainPair, Route
from tests.workers.gateway.gateway_bench import FakeControl
from tests.workers.gateway.session_bench import LOCAL, REMOTE, FarServer, message, until
from workers.gateway.component import ComponentAttachment, ComponentConnector
from workers.gateway.component_link import ComponentLink
from workers.gateway.failure import HopFailed
from workers.gateway.router import Router
from workers.xmpp.component import ComponentParser
from workers.xmpp.content import renamed
from workers.xmpp.parsed import StreamFooter, StreamHeader
from workers.xmpp.stanza import Stanza

ROOMS = f"rooms.{LOCAL}"
PAIR, ROOMS_PAIR = DomainPair(LOCAL, REMOTE), DomainPair(ROOMS, REMOTE)
SECRET = "s3cret"

_HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "
    "xmlns:stream='http://etherx.jabber.org/streams' from='{}' id='an-id'>"
)
_ERROR = (
    "<stream:error><{} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
)


class ComponentServer:
    """Accepts components named in `names`; the attributes say how it treats them."""

    def __init__(self) -> None:
        self.names = {REMOTE}
        self.refusal = ""
        """A stream error condition instead of the handshake's answer."""
        self.answers = True
        """Answer pings, in order; else keep them."""
        self.is_alive = True
        self.asked_alive = 0
        self.got: list[Stanza] = []
        self.pings: list[Stanza] = []
        self.proofs: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.footers = 0
        self.attempts = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def ids(self) -> list[str | None]:
        return [stanza.id for stanza in self.got]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a crash: every connection is cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, *stanzas: Stanza) -> None:
        """As from local users, in the stream's own namespace."""
        for stanza in stanzas:
            data = renamed(stanza.data, stanza.name, b"jabber:server", b"jabber:component:accept")
            self.writers[-1].write(data)

    def answer(self, ping: Stanza) -> None:
        addresses = f"from='{ping.recipient}' to='{ping.sender}'"
        self.writers[-1].write(f"<iq {addresses} id='{ping.id}' type='result'/>".encode())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.attempts += 1
        parser = ComponentParser(Limits())
        parser.authenticated = True
        try:
            while data := await reader.read(65536):
                for item in parser.feed(data):
                    self._take(item, writer)
        except OSError:
            pass
        finally:
            writer.close()

    def _take(self, item: Any, writer: asyncio.StreamWriter) -> None:
        if isinstance(item, StreamHeader):
            known = item.recipient in self.names
            writer.write(_HEADER.format(item.recipient).encode())
            if not known:
                writer.write(_ERROR.format("host-unknown").encode())
        elif isinstance(item, etree._Element):
            self.proofs.append(item.text or "")
            if self.refusal:
                writer.write(_ERROR.format(self.refusal).encode())
            else:
                self.writers.append(writer)
                writer.write(b"<handshake/>")
        elif isinstance(item, StreamFooter):
            self.footers += 1
            writer.write(b"</stream:stream>")
            writer.close()
        elif isinstance(item, Stanza) and (item.id or "").startswith("fedgate-alive-"):
            self.asked_alive += 1
            if self.is_alive:
                self.answer(item)
        elif isinstance(item, Stanza) and (item.id or "").startswith("fedgate-barrier-"):
            self.pings.append(item)
            if self.answers:
                self.answer(item)
        elif isinstance(item, Stanza):
            self.got.append(item)


class FarConnector:
    """The way to `far` instead of discovery and TLS; `failure` when it cannot be reached."""

    def __init__(self, far: FarServer) -> None:
        self.far = far
        self.failure = ""
        self.attempts = 0

    async def connect(self, local: str, remote: str, owner: Any, **options: Any) -> Any:
        self.attempts += 1
        if self.failure:
            raise HopFailed(self.failure, resolved=True)
        return await self.far.connect(owner, websocket=True)


class ComponentScene:
    """`server` is the local one, `far` the remote; `attachment` is what is tested."""

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.server = ComponentServer()
        self.far = FarServer(REMOTE)
        self.remote = FarConnector(self.far)
        self.control = FakeControl(None)  # type: ignore[arg-type]
        self.account = Account.create(directory / "ledger" / "w1.account")
        self.errors: deque[dict[str, Any]] = deque()
        self._limits = Limits(**{"connect_timeout": 0.5, "resend_timeout": 0.3, **limits})

    async def start(self, *, connected: bool = True) -> None:
        await self.far.serve_websocket()
        if not self.server.port:
            await self.server.start()
        self.config = Config(
            gateway=Gateway(domains=(LOCAL, ROOMS)),
            local=Local(attach="component", secret=SECRET, server=f"127.0.0.1:{self.server.port}"),
            remote={REMOTE: Remote()},
            limits=self._limits,
        )
        self.connector = ComponentConnector(self.config)
        self.router = Router(
            self.config,
            self.account,
            self.remote,  # type: ignore[arg-type]
            self.connector,
        )
        self.attachment = ComponentAttachment(
            self.config, self.router, self.control, self.connector, self.errors
        )
        self.attachment.start([])
        if connected:
            await until(lambda: self.attachment.sources)

    @property
    def link(self) -> ComponentLink:
        (link,) = self.connector.links.values()
        return link

    def from_remote(self, *ids: str, local: str = LOCAL) -> None:
        """Stanzas that a remote server sent to local users."""
        self.from_remote_stanzas(*(message(id, sender=REMOTE, target=local) for id in ids))

    def from_remote_stanzas(self, *stanzas: Stanza) -> None:
        origin = self.router.new_origin("in", lambda count: None)
        for stanza in stanzas:
            pair = DomainPair(stanza.target_domain, stanza.sender_domain)
            self.router.to_local(pair).send(origin.accept([stanza]))

    def ledger(self, direction: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.account.snapshot()[direction]
        return shown

    def lose_route(self, owner: str) -> None:
        route = Route(owner, 2)
        self.control.routes[PAIR] = route
        self.control.on_route_lost(PAIR, route)

    async def close(self) -> None:
        self.attachment.stop()
        await self.router.drain(0)
        await self.attachment.close()
        await self.server.stop()
        await self.far.close()
        for direction in self.account.snapshot().values():
            assert balance(direction) == 0, direction
