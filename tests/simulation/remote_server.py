"""A remote server that speaks XEP-0468: receives our sessions and opens its own.

With XEP-0198 it sends again what was not acknowledged, marked, and bounces requests of unknown fate
as we do; without, what it has sent is gone. `is_deaf`: it accepts and never answers (half-open).
"""

from typing import Any

from coordinator.routes import DomainPair
from tests.simulation import stanzas
from tests.simulation.network import DATA, End, Network, Parcel
from tests.simulation.stanzas import Reader, Token
from tests.simulation.world import Process

_NS = "urn:ietf:params:xml:ns:xmpp-framing-server"
_FEATURES = (
    "<stream:features xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>%s"
    "</stream:features>"
)
_MECHANISMS = (
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
    "</mechanisms>"
)
_SM = "<sm xmlns='urn:xmpp:sm:3'/>"


class FarSession:
    """One end of a WebSocket at the remote server."""

    def __init__(self, server: "RemoteServer", end: End) -> None:
        self.server = server
        self.end = end
        self.is_over = False
        self.handled = 0
        self.is_counting = False
        end.receiver = self

    def received(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            if self.is_over:
                return
            if parcel.kind is not DATA:
                self.end.finish()
                self.over()
                return
            kind, payload = parcel.payload
            if kind == "messages":
                for message in payload:
                    for token in Reader().feed(message):
                        if not self.is_over:
                            self.on_token(token)
            elif kind == "ping":
                self.end.send(("pong", payload))
            elif kind == "close":
                self.end.send(("close", 1000))
                self.end.finish()
                self.over()

    def say(self, *messages: bytes, ids: tuple[str, ...] = ()) -> None:
        self.end.send(("messages", list(messages)), ids)

    def on_token(self, token: Token) -> None:
        raise NotImplementedError

    def over(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.end.drop_unread("the remote server closed the session")
            self.on_over()

    def on_over(self) -> None: ...


class Incoming(FarSession):
    """A session that a worker opened."""

    def __init__(self, server: "RemoteServer", end: End) -> None:
        super().__init__(server, end)
        self.pair = DomainPair("", "")
        self.is_authenticated = False

    def on_token(self, token: Token) -> None:
        name = token.name
        if name in ("message", "presence", "iq"):
            self.handled += self.is_counting
            self.server.checker.arrived(
                token.attributes.get("id", ""), token, at=self.server.domain
            )
        elif name == "r":
            self.say(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self.handled)
        elif name == "open":
            self._on_open(token)
        elif name == "auth":
            self.is_authenticated = True
            self.say(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        elif name == "enable":
            self.is_counting = True
            self.say(b"<enabled xmlns='urn:xmpp:sm:3'/>")
        elif name == "resume":
            self.say(
                b"<failed xmlns='urn:xmpp:sm:3'><item-not-found "
                b"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
            )
        elif name == "close":
            if self.is_counting:
                self.say(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self.handled)
            self.say(f"<close xmlns='{_NS}'/>".encode())

    def _on_open(self, token: Token) -> None:
        self.pair = DomainPair(token.attributes["from"], token.attributes["to"])
        offered = (_SM if self.server.has_sm else "") if self.is_authenticated else _MECHANISMS
        self.say(
            f"<open xmlns='{_NS}' id='s{self.end.wire.number}' from='{self.pair.remote}' "
            f"to='{self.pair.local}' version='1.0'/>".encode(),
            (_FEATURES % offered).encode(),
        )

    def on_over(self) -> None:
        self.server.incoming.discard(self)


class Outgoing(FarSession):
    """A session that the remote server opened to a worker, for one pair."""

    def __init__(self, server: "RemoteServer", end: End, pair: DomainPair) -> None:
        super().__init__(server, end)
        self.pair = pair
        self.is_authenticated = False
        self.is_up = False
        self.is_closing = False
        self.unacknowledged: list[tuple[str, bytes]] = []
        self.total = self.acknowledged = 0
        self._open()

    def _open(self) -> None:
        self.say(
            f"<open xmlns='{_NS}' xmlns:stream='http://etherx.jabber.org/streams' "
            f"from='{self.pair.remote}' to='{self.pair.local}' version='1.0'/>".encode()
        )

    def on_token(self, token: Token) -> None:
        name = token.name
        if name == "stream:features":
            if b"EXTERNAL" in token.data:
                self.say(
                    b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
                )
            elif self.server.has_sm and b"urn:xmpp:sm:3" in token.data:
                self.say(b"<enable xmlns='urn:xmpp:sm:3'/>")
            else:
                self._up()
        elif name == "success":
            self._open()
        elif name == "enabled":
            self.is_counting = True
            self._up()
        elif name == "a":
            self._on_ack(int(token.attributes["h"]))
        elif name == "r":
            self.say(b"<a xmlns='urn:xmpp:sm:3' h='0'/>")
        elif name == "close":
            self.say(f"<close xmlns='{_NS}'/>".encode())
            self.end.send(("close", 1000))
            self.end.finish()
            self.over()
        elif name == "stream:error":
            self.end.finish()
            self.over()

    def _up(self) -> None:
        self.is_up = True
        self.send(self.server.take_queue(self.pair))

    def send(self, items: list[tuple[str, bytes]]) -> None:
        if not items:
            return
        ids = tuple(id for id, _ in items)
        stream = self.end.wire.number
        self.server.checker.written(ids, can_resend=self.is_counting, stream=stream)
        # RFC 7395 has no stream default namespace: each element names its own.
        messages = [data.replace(b" ", b" xmlns='jabber:server' ", 1) for _, data in items]
        self.say(*messages, ids=() if self.is_counting else ids)
        if self.is_counting:
            self.total += len(items)
            self.unacknowledged += items
            self.say(b"<r xmlns='urn:xmpp:sm:3'/>")

    def _on_ack(self, h: int) -> None:
        if h > self.total or h < self.acknowledged:
            self.server.process.world.fail(
                f"{self.server.domain}: h={h} of {self.total}, was {self.acknowledged}"
            )
            return
        for id, _ in self.unacknowledged[: h - self.acknowledged]:
            self.server.checker.acknowledged_to_origin(id)
        del self.unacknowledged[: h - self.acknowledged]
        self.acknowledged = h

    def on_over(self) -> None:
        self.server.outgoing_over(self)


class RemoteServer:
    """One remote domain; `workers()` are the processes that its load balancer may choose."""

    def __init__(self, network: Network, process: Process, domain: str, *, has_sm: bool) -> None:
        self.network = network
        self.process = process
        self.domain = domain
        self.has_sm = has_sm
        self.is_refusing = False
        self.checker: Any = None
        self.incoming: set[Incoming] = set()
        self.connect: Any = None
        self._queues: dict[DomainPair, list[tuple[str, bytes]]] = {}
        self._outgoing: dict[DomainPair, Outgoing] = {}
        self._attempts: dict[DomainPair, int] = {}

    def accept(self, end: End) -> None:
        self.incoming.add(Incoming(self, end))

    def user_sends(self, pair: DomainPair, items: list[tuple[str, bytes]]) -> None:
        session = self._outgoing.get(pair)
        if session is not None and session.is_up:
            session.send(items)
            return
        self._queues.setdefault(pair, []).extend(items)
        if session is None:
            self._open(pair)

    def take_queue(self, pair: DomainPair) -> list[tuple[str, bytes]]:
        self._attempts.pop(pair, None)
        return self._queues.pop(pair, [])

    def _open(self, pair: DomainPair) -> None:
        if pair in self._outgoing or not self._queues.get(pair):
            return
        end = self.connect(self)
        if end is None:
            self._retry(pair)
        else:
            self._outgoing[pair] = Outgoing(self, end, pair)

    def _retry(self, pair: DomainPair) -> None:
        """Try again for a minute, as a patient server does."""
        attempts = self._attempts[pair] = self._attempts.get(pair, 0) + 1
        if attempts > 60:
            for id, _ in self.take_queue(pair):
                self.checker.bounced(id, "by the remote server")
            return
        world = self.process.world
        world.later(0.2 + world.rng.random(), self.process.post, self._open, pair)

    def outgoing_over(self, session: Outgoing) -> None:
        pair = session.pair
        if self._outgoing.get(pair) is session:
            del self._outgoing[pair]
        again = []
        for id, data in session.unacknowledged:
            if data.startswith(b"<iq") and b"type='set'" in data:
                self.checker.bounced(id, "by the remote server")
            else:
                again.append((id, stanzas.delayed(data, self.domain)))
        if again:
            self._queues[pair] = again + self._queues.get(pair, [])
        if self._queues.get(pair):
            if session.is_up:
                self._open(pair)
            else:
                self._retry(pair)
