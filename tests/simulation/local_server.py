"""The local servers, as attach.md found them: Prosody and ejabberd.

Prosody: XEP-0198 on its streams; sends what users send after `<success/>` at once, then, with the
features, what was queued before and `<enable/>` in one write, and forgets all of that; later it
keeps the last 500 unacknowledged in a ring and sends them again on
a new stream, requests too. ejabberd: no XEP-0198, sends nothing again; answers a ping on its own
stream towards the asker's domain; bounces for a while after a failed connection.
"""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from coordinator.routes import DomainPair
from tests.simulation import stanzas
from tests.simulation.network import DATA, EOF, RESET, End, Network, Parcel
from tests.simulation.stanzas import Reader, Token
from tests.simulation.world import Process

HELLO = b"\x16HELLO"
RING = 500
RETRY_DELAY = 1.0

_FEATURES = "<stream:features>%s</stream:features>"
_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
_MECHANISMS = (
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
    "</mechanisms>"
)
_SM = "<sm xmlns='urn:xmpp:sm:3'/>"
_ENABLE = b"<enable xmlns='urn:xmpp:sm:3'/>"
_FOOTER = b"</stream:stream>"


def _header(sender: str, target: str, id: str = "") -> bytes:
    named = f" id='{id}'" if id else ""
    return (
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server'"
        " xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams'"
        f"{named} from='{sender}' to='{target}' version='1.0'>"
    ).encode()


class FarStream:
    """One end of a TCP stream at a local server."""

    def __init__(self, server: "LocalServer", end: End, pair: DomainPair) -> None:
        self.server = server
        self.end = end
        self.pair = pair
        self.reader = Reader()
        self.is_over = False
        self.is_secure = False
        self.is_authenticated = False
        end.receiver = self

    def received(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            if self.is_over:
                return
            if parcel.kind is DATA:
                self._on_bytes(parcel.payload)
            else:
                if parcel.kind is EOF:
                    self.end.finish()
                self.over()

    def _on_bytes(self, data: bytes) -> None:
        if data.startswith(HELLO):
            self.is_secure = True
            self.on_secure()
            data = data[len(HELLO) :]
        for token in self.reader.feed(data):
            if self.is_over:
                return
            self.on_token(token)

    def on_secure(self) -> None: ...

    def on_token(self, token: Token) -> None:
        raise NotImplementedError

    def over(self) -> None:
        """The connection is gone, or the stream closed."""
        if not self.is_over:
            self.is_over = True
            self.end.drop_unread("the local server closed the stream")
            self.on_over()

    def on_over(self) -> None: ...


class OutStream(FarStream):
    """The local server's stream for one domain pair towards the gateway."""

    def __init__(self, server: "LocalServer", end: End, pair: DomainPair) -> None:
        super().__init__(server, end, pair)
        self.is_up = False
        self.is_open = False
        """Prosody: between `<success/>` and the features, what comes new is sent at once."""
        self.early: list[str] = []
        self.is_counting = False
        self.total = 0
        self.acknowledged = 0
        self.ring: deque[tuple[str, bytes]] = deque()
        end.send(_header(pair.local, pair.remote))

    def on_secure(self) -> None:
        self.reader = Reader()
        self.end.send(_header(self.pair.local, self.pair.remote))

    def on_token(self, token: Token) -> None:
        if token.name == "stream:features":
            if b"<starttls" in token.data:
                self.end.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            elif b"EXTERNAL" in token.data:
                self.end.send(
                    b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
                )
            else:
                self._up(b"urn:xmpp:sm:3" in token.data)
        elif token.name == "proceed":
            self.end.send(HELLO)
        elif token.name == "success":
            self.reader = Reader()
            self.end.send(_header(self.pair.local, self.pair.remote))
            self.is_open = self.server.is_prosody
        elif token.name == "a":
            self._on_ack(int(token.attributes["h"]))
        elif token.name == "r":
            self.end.send(b"<a xmlns='urn:xmpp:sm:3' h='0'/>")
        elif token.name in ("/stream:stream", "stream:error"):
            self.end.send(_FOOTER)
            self.end.finish()
            self.over()

    def _up(self, may_count: bool) -> None:
        self.is_up = True
        waiting = self.server.take_queue(self.pair)
        if self.early and not any(stanzas.is_marked(data) for _, data in waiting):
            # Nothing tells which was queued before.
            self.server.checker.unordered.update(self.early, [id for id, _ in waiting])
        # Requests sent again bear no mark: before the first mark they look as if sent just now.
        unmarked = itertools.takewhile(lambda item: not stanzas.is_marked(item[1]), waiting)
        self.server.checker.unordered.update(id for id, _ in unmarked)
        may_count = may_count and self.server.is_prosody
        if waiting or may_count:
            self._write(waiting, _ENABLE if may_count else b"")
        self.is_counting = may_count

    def send(self, items: list[tuple[str, bytes]]) -> None:
        if not self.is_up:
            for item in items:  # as its users send them: each is a write
                self._write([item])
                self.early.append(item[0])
            return
        self._write(items)
        if self.is_counting:
            self.total += len(items)
            self.ring.extend(items)
            while len(self.ring) > RING:
                id, _ = self.ring.popleft()
                self.server.on_overwritten(id)
            self.end.send(b"<r xmlns='urn:xmpp:sm:3'/>")

    def _write(self, items: list[tuple[str, bytes]], last: bytes = b"") -> None:
        ids = tuple(id for id, _ in items)
        self.server.on_written(ids, self.is_counting, self.end.wire.number)
        data = b"".join(data for _, data in items) + last
        self.end.send(data, () if self.is_counting else ids)

    def _on_ack(self, h: int) -> None:
        if h > self.total or h < self.acknowledged:
            self.server.on_protocol_error(f"h={h} of {self.total}, was {self.acknowledged}")
            return
        for _ in range(h - self.acknowledged):
            if len(self.ring) > self.total - h:
                self.server.on_acknowledged(self.ring.popleft()[0])
        self.acknowledged = h

    def on_over(self) -> None:
        self.server.out_over(self)


class InStream(FarStream):
    """A stream that the gateway opened to the local server."""

    def __init__(self, server: "LocalServer", end: End) -> None:
        super().__init__(server, end, DomainPair("", ""))
        self.is_counting = False
        self.handled = 0

    def on_token(self, token: Token) -> None:
        name = token.name
        if name in ("message", "presence", "iq"):
            self.handled += self.is_counting
            self.server.on_stanza(self.pair, token)
        elif name == "r":
            self.end.send(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self.handled)
        elif name == "stream:stream":
            self._on_header(token)
        elif name == "starttls":
            self.end.send(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            self.reader = Reader()
        elif name == "auth":
            self.is_authenticated = True
            self.end.send(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
            self.reader = Reader()
        elif name == "enable":
            self.is_counting = True
            self.end.send(b"<enabled xmlns='urn:xmpp:sm:3'/>")
        elif name in ("/stream:stream", "stream:error"):
            if self.is_counting:
                self.end.send(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self.handled)
            self.end.send(_FOOTER)
            self.end.finish()
            self.over()

    def on_secure(self) -> None:
        self.end.send(HELLO)

    def _on_header(self, token: Token) -> None:
        self.pair = DomainPair(token.attributes["to"], token.attributes["from"])
        offered = _SM if self.server.is_prosody else ""
        if not self.is_secure:
            offered = _STARTTLS
        elif not self.is_authenticated:
            offered = _MECHANISMS
        answer = _header(self.pair.local, self.pair.remote, f"in{self.end.wire.number}")
        self.end.send(answer + (_FEATURES % offered).encode())

    def on_over(self) -> None:
        self.server.in_streams.discard(self)


class LocalServer:
    """One Prosody or ejabberd and its users. `connect(pair)` opens a connection to a gateway."""

    def __init__(
        self,
        network: Network,
        process: Process,
        domain: str,
        *,
        is_prosody: bool,
        connect: Callable[[DomainPair], End | None],
    ) -> None:
        self.network = network
        self.process = process
        self.domain = domain
        self.is_prosody = is_prosody
        self.is_up = True
        self.in_streams: set[InStream] = set()
        self.checker: Any = None
        self._connect = connect
        self._queues: dict[DomainPair, list[tuple[str, bytes]]] = {}
        self._out: dict[DomainPair, OutStream] = {}
        self._bounce_until: dict[DomainPair, float] = {}

    # What users do.

    def user_sends(self, pair: DomainPair, items: list[tuple[str, bytes]]) -> None:
        if not self.is_up:
            self.checker.never_sent([id for id, _ in items])
            return
        self._send(pair, items)

    def _send(self, pair: DomainPair, items: list[tuple[str, bytes]]) -> None:
        stream = self._out.get(pair)
        if stream is not None and (stream.is_up or stream.is_open):
            stream.send(items)
            return
        if self.process.world.now < self._bounce_until.get(pair, 0.0):
            self._bounce(items)
            return
        self._queues.setdefault(pair, []).extend(items)
        if stream is None:
            self._open(pair)

    def _open(self, pair: DomainPair) -> None:
        end = self._connect(pair)
        if end is None:
            self._failed(pair)
        else:
            self._out[pair] = OutStream(self, end, pair)

    def _failed(self, pair: DomainPair) -> None:
        self._bounce(self.take_queue(pair))
        if not self.is_prosody:
            self._bounce_until[pair] = self.process.world.now + RETRY_DELAY

    def _bounce(self, items: list[tuple[str, bytes]]) -> None:
        for id, _ in items:
            self.checker.bounced(id, "by the local server")

    def take_queue(self, pair: DomainPair) -> list[tuple[str, bytes]]:
        return self._queues.pop(pair, [])

    def out_over(self, stream: OutStream) -> None:
        pair = stream.pair
        if self._out.get(pair) is stream:
            del self._out[pair]
        if not self.is_up:
            return
        if not stream.is_up:
            self._failed(pair)
            return
        again = [(id, stanzas.delayed(data, self.domain)) for id, data in stream.ring]
        if again:
            self.checker.note(f"{self.domain} sends {len(again)} again")
            self._queues[pair] = again + self._queues.get(pair, [])
        if self._queues.get(pair):
            self._open(pair)

    # What its streams tell.

    def on_written(self, ids: tuple[str, ...], is_counting: bool, stream: int) -> None:
        self.checker.written(ids, can_resend=is_counting, stream=stream)

    def on_acknowledged(self, id: str) -> None:
        self.checker.acknowledged_to_origin(id)

    def on_overwritten(self, id: str) -> None:
        self.checker.excuse(id, "overwritten in Prosody's ring")

    def on_protocol_error(self, text: str) -> None:
        self.process.world.fail(f"{self.domain}: {text}")

    def on_stanza(self, pair: DomainPair, token: Token) -> None:
        id, type = token.attributes.get("id", ""), token.attributes.get("type")
        if token.name == "iq" and type == "get" and b"urn:xmpp:ping" in token.data:
            answer = f"<iq from='{pair.local}' to='{pair.remote}' id='{id}' type='result'/>"
            self._send(pair, [("", answer.encode())])
        else:
            self.checker.arrived(id, token, at=self.domain)

    # Faults.

    def accept(self, end: End) -> None:
        self.in_streams.add(InStream(self, end))

    def stop(self, *, in_order: bool) -> None:
        """Shut down, or crash; what it had in memory is gone with it."""
        self.is_up = False
        for pair in list(self._queues):
            for id, _ in self.take_queue(pair):
                self.checker.excuse(id, "the local server stopped with it")
        for stream in [*self._out.values(), *self.in_streams]:
            if isinstance(stream, OutStream):
                for id, _ in stream.ring:
                    self.checker.excuse(id, "the local server stopped with it")
            if in_order:
                stream.end.send(_FOOTER)
                stream.end.finish()
            else:
                stream.end.abort()
            stream.over()
        self._out.clear()

    def start(self) -> None:
        self.is_up = True


__all__ = ["DATA", "EOF", "RESET", "LocalServer"]
