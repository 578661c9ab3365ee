"""Streams that are lost (XEP-0198 §5): pairs that offer resumption, and one side alone."""

from tests.workers.xmpp.stream_pair import CAPULET, MONTAGUE, StreamPair, message, receiving, stanza
from workers.xmpp.events import StanzasReceived
from workers.xmpp.management import Suspended
from workers.xmpp.receiving import ReceivingStream

ID = "g1.w3.9c2e41"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
OPEN = f"<open xmlns='{FRAMING}' from='{CAPULET}' to='{MONTAGUE}' version='1.0'/>"
ASK = "<r xmlns='urn:xmpp:sm:3'/>"
ENABLE = "<enable xmlns='urn:xmpp:sm:3' resume='true' max='300'/>"


def offers(**more: object) -> dict[str, object]:
    return {"resumption_seconds": 300, **more}


def pair(resume: Suspended | None = None, **options: object) -> StreamPair:
    """Both sides offer resumption; the initiating one opens, to resume if told so."""
    made = StreamPair(
        initiating_options=offers(resume=resume), receiving_options=offers(id=ID, **options)
    )
    return made.open()


def cut(streams: StreamPair) -> tuple[Suspended, Suspended]:
    """The connection is gone under both: what each can go on with."""
    halves = []
    for stream in (streams.initiating, streams.receiving):
        stream.receive_eof()
        half = stream.suspended()
        assert half is not None
        halves.append(half)
    return halves[0], halves[1]


def send(streams: StreamPair, *ids: str) -> None:
    streams.initiating.send_stanzas([stanza(message(id)) for id in ids])


def received(streams: StreamPair) -> list[str | None]:
    events = streams.events("R", StanzasReceived)
    return [one.id for event in events for one in event.stanzas]


def authenticated(*, resumption_seconds: int = 300) -> ReceivingStream:
    stream = receiving(resumption_seconds=resumption_seconds, id=ID)
    stream.receive([OPEN.encode()])
    stream.offer(external=True, dialback=True)
    stream.receive([f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>".encode(), OPEN.encode()])
    stream.data_to_send()
    stream.events_received()
    return stream


def told(stream: ReceivingStream, *messages: str) -> str:
    stream.receive([text.encode() for text in messages])
    return b"".join(stream.data_to_send()).decode()


def resume(id: str = ID, h: object = 0) -> str:
    return f"<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='{h}'/>"


def lost(**counts: int) -> Suspended:
    """What a receiving server kept of a stream on which it sent and received so much."""
    stream = authenticated()
    told(stream, ENABLE)
    stream.sent.total = counts.get("sent", 0)
    stream.received.total = stream.received.handled = counts.get("handled", 0)
    stream.receive_eof()
    kept = stream.suspended()
    assert kept is not None
    return kept
