"""The stream machine in both roles, on both legs, in every state: events or a stream error."""

from tests.fuzz.reading import HEADER, LIMITS, MESSAGE, SEPARATOR, STREAMS, WS_OPEN
from workers.xmpp.errors import LocalProtocolError
from workers.xmpp.events import (
    AuthenticationFailed,
    DialbackKeyReceived,
    Event,
    ResumptionRequested,
    StanzasReceived,
    StreamClosed,
    StreamOpened,
    TlsStarting,
    VerifyRequested,
)
from workers.xmpp.framing import StreamFraming, WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser, StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State, StreamConfig
from workers.xmpp.stream import ServerStream

AUTH = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
SUCCESS = b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
FEATURES = (
    f"<stream:features xmlns='jabber:server' xmlns:stream='{STREAMS}'>"
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
    "</mechanisms><sm xmlns='urn:xmpp:sm:3'/><bidi xmlns='urn:xmpp:features:bidi'/>"
    "</stream:features>"
).encode()
KEY = b"<db:result xmlns:db='jabber:server:dialback' from='%b' to='%b'%b>key</db:result>"
ENABLE = b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
SM = [b"<%b xmlns='urn:xmpp:sm:3' h='1' previd='x'/>" % name for name in (b"r", b"a", b"resume")]
PLAYS = [
    (WS_OPEN, AUTH, WS_OPEN, ENABLE, MESSAGE, *SM),
    (WS_OPEN, b"<bidi xmlns='urn:xmpp:bidi'/>", AUTH, WS_OPEN, MESSAGE),
    (WS_OPEN, KEY % (b"capulet.example", b"montague.example", b""), MESSAGE),
    (HEADER, AUTH, HEADER, ENABLE, MESSAGE, *SM, b"</stream:stream>"),
    (WS_OPEN, FEATURES, SUCCESS, WS_OPEN, FEATURES, b"<enabled xmlns='urn:xmpp:sm:3'/>", *SM),
    (HEADER, FEATURES, SUCCESS, HEADER, FEATURES, b"<enabled xmlns='urn:xmpp:sm:3'/>", MESSAGE),
    (WS_OPEN, FEATURES, KEY % (b"montague.example", b"capulet.example", b" type='valid'")),
]
# The first byte chooses the scene.
SEEDS = [bytes((scene,)) + SEPARATOR.join(play) for play in PLAYS for scene in range(8)]


def check(data: bytes) -> None:
    scene, parts = data[:1] or b"\0", data[1:].split(SEPARATOR)
    stream, tcp = _stream(scene[0])
    closed = 0
    for part in parts:
        before = stream.state
        stream.receive(part if tcp else [part])
        closed += _play_shell(stream)
        assert all(isinstance(each, bytes) for each in stream.data_to_send())
        if before is State.CLOSED:
            assert stream.state is State.CLOSED
    stream.receive_eof()
    closed += _play_shell(stream)
    assert closed == 1 and stream.state is State.CLOSED


def _stream(scene: int) -> tuple[ServerStream, bool]:
    tcp = bool(scene & 1)
    parser = StreamParser(LIMITS) if tcp else MessageParser(LIMITS)
    parse = parser.feed if isinstance(parser, StreamParser) else parser.parse
    framing = StreamFraming() if tcp else WebSocketFraming()
    config = StreamConfig(
        limits=LIMITS,
        dialback_secret=b"secret",
        hosts=frozenset({"montague.example"}),
        use_bidi=bool(scene & 4),
        resumption_seconds=60 if scene & 8 else 0,
        offer_tls=tcp and bool(scene & 16),
    )
    if scene & 2:
        stream = InitiatingStream(
            config, framing, parse, parser, 0.0, sender="capulet.example", target="montague.example"
        )
        stream.open()
        return stream, tcp
    names = iter(range(1000))
    return (
        ReceivingStream(
            config,
            framing,
            parse,
            parser,
            0.0,
            new_id=lambda: f"s-{next(names)}",
            new_resumption_id=lambda: "r-1",
        ),
        tcp,
    )


def _play_shell(stream: ServerStream) -> int:
    """Answer what must be answered; how often the stream was closed. Stanzas only of its pairs."""
    closed = 0
    while events := stream.events_received():
        for event in events:
            closed += isinstance(event, StreamClosed)
            assert not isinstance(event, StanzasReceived) or all(
                (stanza.sender_domain, stanza.target_domain) in stream.pairs
                for stanza in event.stanzas
            )
            _answer(stream, event)
    return closed


def _answer(stream: ServerStream, event: Event) -> None:
    if isinstance(event, TlsStarting):
        stream.tls_established(0.0)
    elif isinstance(event, StanzasReceived):
        stream.mark_handled(len(event.stanzas))
        stream.send_ack()
    elif isinstance(stream, ReceivingStream):
        if isinstance(event, StreamOpened):
            stream.offer(external=True, dialback=True)
        elif isinstance(event, DialbackKeyReceived):
            stream.answer_dialback(sender=event.sender, target=event.target, outcome="valid")
        elif isinstance(event, VerifyRequested):
            stream.answer_verify(
                sender=event.sender, target=event.target, id=event.id, outcome="invalid"
            )
        elif isinstance(event, ResumptionRequested):
            stream.refuse_resumption()
    elif isinstance(event, AuthenticationFailed):
        try:
            stream.send_stanzas([])
        except LocalProtocolError:
            return
        raise AssertionError("stanzas may be sent without authentication")
