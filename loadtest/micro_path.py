"""The worker's whole path on one leg's bytes to the other's, for `loadtest.micro`.

Everything between the two connections is what a worker runs: channel, TLS engine, frames, parser,
stream, source, ledger, hop. Only the sockets are missing: bytes are handed to the channel and
taken from it, the loop turns once per read. Both hops have stream management on; the
previous one asks and the next one acknowledges after every `ACKNOWLEDGED` stanzas.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import uvloop
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from coordinator.accounts import ACKNOWLEDGED as ACKNOWLEDGED_COUNT
from coordinator.accounts import Account
from coordinator.authority import Authority
from coordinator.config import Config, Limits
from coordinator.routes import DomainPair
from workers.gateway.certificates import parse_pair
from workers.gateway.channel import Channel
from workers.gateway.flow import JournalPort
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.local_source import LocalSource
from workers.gateway.negotiation import NoOwner
from workers.gateway.remote_source import RemoteSource
from workers.gateway.router import Router
from workers.gateway.session import Session, SessionOwner
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import client_context, server_context
from workers.gateway.tls_engine import TLSEngine
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_connect import ConnectedWebSocket
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp import elements, sasl
from workers.xmpp.events import StreamOpened
from workers.xmpp.framing import StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

ACKNOWLEDGED = 64
SENDER, TARGET = "capulet.example", "montague.example"
URL = "wss://gw.example/xmpp-s2s"
# Counted as always, but nobody rests.
_CONFIG = Config(limits=Limits(bytes_per_second=0, stanzas_per_second=0))


def stanzas(count: int) -> list[bytes]:
    """Chat messages as servers send them, 300 bytes each on a WebSocket."""
    return [
        (
            f"<message xmlns='jabber:server' from='juliet@capulet.example/balcony'"
            f" to='romeo@montague.example/orchard' id='m{number:07}' type='chat' xml:lang='en'>"
            f"<body>Art thou not Romeo, and a Montague? {'x' * 28}</body>"
            f"<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        ).encode()
        for number in range(count)
    ]


class _Socket:
    family = socket.AF_UNIX  # no TCP options are set on it


class Wire(asyncio.Transport):
    """The connection below a channel, and the peer's TLS at its other end, if any."""

    def __init__(self, channel: Channel, peer: TLSEngine | None) -> None:
        super().__init__()
        self.channel = channel
        self._peer = peer
        self.written: list[bytes] = []
        self._early = b""
        self._may_read = asyncio.Event()
        self._may_read.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": _Socket, "peername": ("127.0.0.1", 0)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def abort(self) -> None:
        self.channel.connection_lost(None)

    def sealed(self, data: bytes) -> bytes:
        """What the peer puts on the wire for `data`, in order."""
        if self._peer is None:
            return data
        self._peer.send(data)
        return self._peer.data_to_send()

    async def take(self) -> bytes:
        """What the peer reads: all that was written so far."""
        for _ in range(4):
            await asyncio.sleep(0)
        written, self.written = b"".join(self.written), []
        early, self._early = self._early, b""
        return early + (written if self._peer is None else self._peer.receive(written))

    def arrive(self, data: bytes) -> None:
        """The loop has read `data`, at most 32 KiB, and hands it to the channel."""
        self.channel.get_buffer(-1)[: len(data)] = data
        self.channel.buffer_updated(len(data))

    async def say(self, data: bytes) -> bytes:
        """The peer sends `data`; returns what it reads then."""
        self.arrive(self.sealed(data))
        return await self.take()

    async def start(self, peer_speaks_first: bool) -> None:
        """Connect, and finish the peer's side of the TLS handshake."""
        peer = self._peer
        self.channel.connection_made(self)
        if peer is None:
            return
        if peer_speaks_first:
            peer.handshake()
        while not (peer.established and self.channel.has_tls):
            if hello := peer.data_to_send():
                self.channel.data_received(hello)
            await self._may_read.wait()  # a handshake takes its turn
            written, self.written = b"".join(self.written), []
            self._early += peer.receive(written)  # what came right behind the handshake
        if hello := peer.data_to_send():
            self.channel.data_received(hello)


class Rig:
    """One worker's parts for one domain pair, in one direction, until the stream is up.

    Not `resendable`: the previous hop has no stream management, so a journal is written, if there
    is one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: bool,
        resendable: bool = True,
        journal: JournalPort | None = None,
    ) -> None:
        self.resendable = resendable
        self.account = Account.create(folder / "bench.account")
        leaf = Authority(folder).issue(TARGET)
        pair = parse_pair(leaf.certificate_pem, leaf.key_pem)
        self._server = server_context(pair) if tls else None
        self._client = client_context(pair) if tls else None
        self.next_session: Session
        connector = cast(Any, SimpleNamespace(connect=self._connect))
        self.router = Router(_CONFIG, self.account, connector, connector, journal)
        self.source_wire: Wire
        self.hop_wire: Wire

    async def _connect(
        self, local: str, remote: str, owner: SessionOwner, **_options: Any
    ) -> Session:
        self.next_session.owner = owner
        return self.next_session

    async def open_outbound(self) -> None:
        """Local server over TCP to us, we over WebSocket to the remote."""
        session = self._receiving(StreamParser, StreamFraming(), TcpSession)
        self.source_wire = await self._tcp(session, server=True)
        source = LocalSource(cast(Any, SimpleNamespace(router=self.router)), _PAIR)
        source.attach(cast(TcpSession, session))
        await _authenticate(self.source_wire, StreamFraming(), bytes, enable=self.resendable)
        session.owner = source
        hop = WebSocketSession(_initiating(MessageParser, WebSocketFraming()), NoOwner())
        self.hop_wire = await self._websocket_out(hop)
        await _welcome(self.hop_wire, hop, WebSocketFraming(), _unmasked)
        self.next_session = hop

    async def open_inbound(self) -> None:
        """The remote over WebSocket to us, we over TCP to the local server."""
        session = self._receiving(MessageParser, WebSocketFraming(), WebSocketSession)
        self.source_wire = await self._websocket_in(cast(WebSocketSession, session))
        source = RemoteSource(cast(Any, SimpleNamespace(router=self.router)))
        source.attach(cast(WebSocketSession, session))
        source.pairs[DomainPair(TARGET, SENDER)] = "external"
        source.session.websocket.meter = self.router.allowances.of(SENDER)
        await _authenticate(self.source_wire, WebSocketFraming(), masked, enable=self.resendable)
        session.owner = source
        hop = TcpSession(_initiating(StreamParser, StreamFraming()), NoOwner(), is_server=False)
        self.hop_wire = await self._tcp(hop, server=False)
        await _welcome(self.hop_wire, hop, StreamFraming(), bytes)
        self.next_session = hop

    def close(self) -> None:
        for _, hop in list(self.router.hops()):
            hop.cut()
        self.account.close()

    def _receiving(self, make_parser: Any, framing: Any, kind: Any) -> Session:
        limits = Limits()
        parser = make_parser(limits)
        parse = parser.feed if make_parser is StreamParser else parser.parse
        config = StreamConfig(limits=limits, hosts=frozenset((TARGET,)))
        stream = ReceivingStream(config, framing, parse, parser, 0.0, new_id=lambda: "s-1")

        def offer(_session: Session, event: object) -> None:
            if isinstance(event, StreamOpened):
                stream.offer(external=True, dialback=False)

        options = {"is_server": True} if kind is TcpSession else {"ping_interval": 3600.0}
        return cast(Session, kind(stream, NoOwner(offer), **options))

    async def _tcp(self, session: TcpSession | Session, *, server: bool) -> Wire:
        channel = session.channel
        context, other = self._server, self._client
        if not server:
            context, other = other, context
        wire = Wire(channel, TLSEngine(other, server=not server) if other else None)
        if context is not None:
            # Not by STARTTLS, which would add nothing but steps.
            owner, channel.owner = (
                channel.owner,
                SimpleNamespace(
                    connected=lambda: channel.start_tls(context, server=server),
                    tls_established=lambda: None,
                ),
            )
            await wire.start(peer_speaks_first=server)
            channel.owner = owner
        else:
            await wire.start(peer_speaks_first=server)
        return wire

    async def _websocket_out(self, session: WebSocketSession) -> Wire:
        context = self._client

        def start(channel: Channel) -> None:
            if context is not None:
                channel.start_tls(context, server=False)

        url = URL if context else URL.replace("wss", "ws")
        protocol = ClientProtocol(parse_uri(url), subprotocols=[Subprotocol("xmpp")])
        websocket = ConnectedWebSocket(
            protocol, session, start=start, verify=lambda _: None, headers={}
        )
        session.attach(websocket)
        peer = TLSEngine(self._server, server=True) if self._server else None
        wire = Wire(websocket.channel, peer)
        await wire.start(peer_speaks_first=False)
        server = ServerProtocol(subprotocols=[Subprotocol("xmpp")])
        server.receive_data(await wire.take())
        (request,) = server.events_received()
        server.send_response(server.accept(cast(Request, request)))
        await wire.say(b"".join(server.data_to_send()))
        return wire

    async def _websocket_in(self, session: WebSocketSession) -> Wire:
        endpoint = Endpoint(
            path="/xmpp-s2s",
            new_owner=lambda _: session,
            context=self._server,
            proxies=TrustedProxies(("127.0.0.1/32",)),
        )
        websocket = AcceptedWebSocket(endpoint)
        session.attach(websocket)
        wire = Wire(
            websocket.channel, TLSEngine(self._client, server=False) if self._client else None
        )
        await wire.start(peer_speaks_first=True)
        client = ClientProtocol(parse_uri(URL), subprotocols=[Subprotocol("xmpp")])
        client.send_request(client.connect())
        await wire.say(b"".join(client.data_to_send()))
        return wire


_PAIR = DomainPair(SENDER, TARGET)


def _initiating(make_parser: Any, framing: Any) -> InitiatingStream:
    parser = make_parser(Limits())
    parse = parser.feed if make_parser is StreamParser else parser.parse
    return InitiatingStream(
        StreamConfig(), framing, parse, parser, 0.0, sender=SENDER, target=TARGET
    )


def masked(message: bytes) -> bytes:
    return Frame(Opcode.TEXT, message).serialize(mask=True)


def _unmasked(message: bytes) -> bytes:
    return Frame(Opcode.TEXT, message).serialize(mask=False)


async def _authenticate(
    wire: Wire, framing: Any, pack: Callable[[bytes], bytes], *, enable: bool
) -> None:
    """What a peer says to us before its first stanza."""
    auth = elements.auth(sasl.MECHANISM, sasl.initial_response(SENDER))
    header = framing.header(SENDER, TARGET, response=False)
    for message in (header, auth, header, *([elements.SM_ENABLE] if enable else ())):
        told = await wire.say(pack(message))
    if (elements.SM_ENABLED in told) != enable:
        raise AssertionError(told)


async def _welcome(
    wire: Wire, session: Session, framing: Any, pack: Callable[[bytes], bytes]
) -> None:
    """What a peer answers us before our first stanza."""
    cast(InitiatingStream, session.stream).open()
    session.pump()
    header = framing.header(TARGET, SENDER, "s-2", response=True)
    for message in (
        header,
        framing.features([elements.mechanisms(sasl.MECHANISM)]),
        elements.SUCCESS,
        header,
        framing.features([elements.SM_FEATURE]),
        elements.SM_ENABLED,
    ):
        await wire.say(pack(message))
    if not session.stream.sent.enabled:
        raise AssertionError(session.stream.state)


Read = tuple[Wire, bytes]


def path_reads(rig: Rig, batches: list[list[bytes]], *, inbound: bool, sent: int) -> list[Read]:
    """The reads of one repeat in order, sealed: batches, questions and acknowledgements."""
    pack, answer = (masked, bytes) if inbound else (bytes, _unmasked)
    reads = []
    unasked = 0
    for batch in batches:
        data = b"".join(map(pack, batch))
        sent += len(batch)
        unasked += len(batch)
        ask = unasked >= ACKNOWLEDGED
        if ask:
            unasked = 0
            data += pack(elements.SM_REQUEST) if rig.resendable else b""
        reads.append((rig.source_wire, rig.source_wire.sealed(data)))
        if ask:
            acknowledgement = answer(elements.sm_answer(sent))
            reads.append((rig.hop_wire, rig.hop_wire.sealed(acknowledgement)))
    if unasked:
        reads.append((rig.hop_wire, rig.hop_wire.sealed(answer(elements.sm_answer(sent)))))
    return reads


async def run_repeat(
    rig: Rig, batch: list[bytes], *, inbound: bool, rounds: int, sent: int
) -> float:
    """CPU microseconds per stanza for `rounds` batches; `sent` have gone through before."""
    reads = path_reads(rig, [batch] * rounds, inbound=inbound, sent=sent)
    before = time.process_time_ns()
    for wire, data in reads:
        wire.arrive(data)
        await asyncio.sleep(0)
    spent = (time.process_time_ns() - before) / 1000 / (rounds * len(batch))
    out = await rig.hop_wire.take()
    await rig.source_wire.take()
    counters = rig.account.inbound if inbound else rig.account.outbound
    sent += rounds * len(batch)
    # Masked bytes cannot be searched: their number tells.
    if len(out) < rounds * sum(map(len, batch)) or counters[ACKNOWLEDGED_COUNT] != sent:
        raise AssertionError(f"{counters[ACKNOWLEDGED_COUNT]} of {sent} went through")
    return spent


def from_local_server(batch: list[bytes]) -> list[bytes]:
    """The stanzas as they are inside a stream of the local server."""
    return [data.replace(b" xmlns='jabber:server'", b"") for data in batch]


async def _samples(
    batch: list[bytes], *, inbound: bool, tls: bool, count: int, repeats: int
) -> list[float]:
    samples = []
    with TemporaryDirectory() as folder:
        rig = Rig(Path(folder), tls=tls)
        await (rig.open_inbound() if inbound else rig.open_outbound())
        if not inbound:
            batch = from_local_server(batch)
        sent = 0
        for repeat in range(repeats + 1):  # the first one warms up
            rounds = max(1, count // len(batch)) if repeat else 1
            samples.append(await run_repeat(rig, batch, inbound=inbound, rounds=rounds, sent=sent))
            sent += rounds * len(batch)
        rig.close()
        await asyncio.sleep(0)
    return samples[1:]


def measure_path(
    batch: list[bytes], *, inbound: bool, tls: bool, count: int, repeats: int
) -> list[float]:
    """CPU microseconds per stanza of each repeat, `count` stanzas long, from leg to leg."""
    return uvloop.run(_samples(batch, inbound=inbound, tls=tls, count=count, repeats=repeats))
