"""Streams without I/O: both roles joined in memory, or one role against literal lines."""

from collections.abc import Callable, Sequence
from typing import Any

from coordinator.config import Limits
from workers.xmpp.dialback import is_our_key
from workers.xmpp.events import DialbackKeyReceived, Event, StreamOpened, TlsStarting
from workers.xmpp.framing import Framing, StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import ServerStream, State, StreamConfig

CAPULET, MONTAGUE = "capulet.example", "montague.example"
SECRET = b"s3cr3tf0rd14lb4ck"
LIMITS = Limits(preauth_bytes=8192, stanza_bytes=262144)
WEBSOCKET, TCP = "websocket", "tcp"
LEGS = (WEBSOCKET, TCP)


def _leg(leg: str, limits: Limits) -> tuple[Framing, Callable[..., Any], Any]:
    if leg == WEBSOCKET:
        messages = MessageParser(limits)
        return WebSocketFraming(), messages.parse, messages
    stream = StreamParser(limits)
    return StreamFraming(), stream.feed, stream


def initiating(
    leg: str = WEBSOCKET, *, resume: Suspended | None = None, **options: Any
) -> InitiatingStream:
    """Capulet's stream to montague, not opened yet."""
    config = StreamConfig(**{"limits": LIMITS, "dialback_secret": SECRET, **options})
    framing, parse, parser = _leg(leg, config.limits)
    return InitiatingStream(
        config, framing, parse, parser, 0.0, sender=CAPULET, target=MONTAGUE, resume=resume
    )


def receiving(
    leg: str = WEBSOCKET,
    *,
    ids: Sequence[str] = ("s-1", "s-2", "s-3", "s-4"),
    id: str = "g1.w3.9c2e41",
    **options: Any,
) -> ReceivingStream:
    """Montague's side of a stream that somebody opens; `id` names it if it can be resumed."""
    config = StreamConfig(**{"limits": LIMITS, "hosts": frozenset({MONTAGUE}), **options})
    framing, parse, parser = _leg(leg, config.limits)
    unused = iter(ids)
    return ReceivingStream(
        config,
        framing,
        parse,
        parser,
        0.0,
        new_id=lambda: next(unused),
        new_resumption_id=lambda: id,
    )


def stanza(text: str) -> Stanza:
    """A stanza as a parser hands it out."""
    (made,) = MessageParser(LIMITS, authenticated=True).parse([text.encode()])
    assert isinstance(made, Stanza), made
    return made


def message(
    id: str, *, sender: str = f"juliet@{CAPULET}", target: str = f"romeo@{MONTAGUE}"
) -> str:
    return (
        f"<message xmlns='jabber:server' from='{sender}' to='{target}' id='{id}'>"
        "<body>hi</body></message>"
    )


class StreamPair:
    """Capulet's initiating and montague's receiving stream, and what each reported.

    The shell's part is played with `external`, `dialback` and `reason` as the decision on every
    header; TLS is up as soon as both sides want it; dialback keys are checked on the spot.
    """

    def __init__(
        self,
        leg: str = WEBSOCKET,
        *,
        external: bool = True,
        dialback: bool = False,
        reason: str = "",
        initiating_options: dict[str, Any] | None = None,
        receiving_options: dict[str, Any] | None = None,
    ) -> None:
        tls = leg == TCP
        self.initiating = initiating(leg, **{"require_tls": tls, **(initiating_options or {})})
        self.receiving = receiving(leg, **{"offer_tls": tls, **(receiving_options or {})})
        self.seen: list[tuple[str, Event]] = []
        """Since the last `run`, in order: "I" or "R" and the event."""
        self.wire: list[tuple[str, bytes]] = []
        """Everything ever written: "I" or "R" and the element."""
        self._decision = {"external": external, "dialback": dialback, "reason": reason}
        self._joined = leg == TCP
        self._starting: set[str] = set()

    def open(self) -> "StreamPair":
        self.initiating.open()
        self.run()
        return self

    def run(self) -> list[tuple[str, Event]]:
        """Carry everything to and fro until both are silent; return what they reported."""
        self.seen = []
        while self._step("I", self.initiating, self.receiving) or self._step(
            "R", self.receiving, self.initiating
        ):
            pass
        return self.seen

    def events(self, side: str, kind: type) -> list[Any]:
        return [event for who, event in self.seen if who == side and type(event) is kind]

    def written(self, side: str) -> bytes:
        return b"".join(data for who, data in self.wire if who == side)

    def _step(self, side: str, stream: ServerStream, other: ServerStream) -> bool:
        events = stream.events_received()
        for event in events:
            self.seen.append((side, event))
            self._play_shell(side, event)
        data = stream.data_to_send()
        self.wire += [(side, element) for element in data]
        if data:
            other.receive(b"".join(data) if self._joined else data)
        return bool(events or data)

    def _play_shell(self, side: str, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self.receiving.offer(**self._decision)
        elif isinstance(event, TlsStarting):
            self._starting.add(side)
            if len(self._starting) == 2:
                self.receiving.tls_established(0.0)
                self.initiating.tls_established(0.0)
        elif isinstance(event, DialbackKeyReceived):
            good = is_our_key(
                event.key,
                SECRET,
                receiving=event.target,
                originating=event.sender,
                stream_id=self.receiving.id,
            )
            self.receiving.answer_dialback(
                sender=event.sender, target=event.target, outcome="valid" if good else "invalid"
            )


Line = str | Callable[[], object]


def play(
    stream: ServerStream,
    role: str,
    lines: Sequence[Line],
    on_event: Callable[[Event], object] | None = None,
) -> list[Event]:
    """Run one role against literal lines `I: <xml>` and `R: <xml>`, each a WebSocket message.

    The other's lines are received; ours must come next, byte for byte; a callable is done. At the
    end nothing may be left over. Returns all events; `on_event` plays the shell.
    """
    events: list[Event] = []
    waiting: list[bytes] = []

    def drain() -> None:
        while reported := stream.events_received():
            for event in reported:
                events.append(event)
                if on_event is not None:
                    on_event(event)
        waiting.extend(stream.data_to_send())

    for line in lines:
        if callable(line):
            line()
            drain()
            continue
        who, _, text = line.partition(": ")
        if who == role:
            assert waiting, f"nothing was written where {text} is due"
            assert waiting.pop(0).decode() == text
        else:
            stream.receive([text.encode()])
            drain()
    assert not waiting, waiting
    return events


def established(leg: str = WEBSOCKET, *, management: bool = True) -> StreamPair:
    """A pair that has authenticated by EXTERNAL."""
    pair = StreamPair(leg, initiating_options={"use_management": management}).open()
    assert pair.initiating.state is State.ESTABLISHED is pair.receiving.state
    return pair
