"""Streams that go both ways (XEP-0288)."""

from tests.workers.xmpp.stream_pair import CAPULET, MONTAGUE, StreamPair, message
from workers.xmpp.events import StanzasReceived

BIDI = (
    "<bidi xmlns='urn:xmpp:bidi'><limits xmlns='urn:xmpp:stream-limits:0'>"
    "<max-bytes>262144</max-bytes></limits></bidi>"
)
BOTH = {"use_bidi": True}


def pair(**options: object) -> StreamPair:
    made = StreamPair(initiating_options=dict(BOTH), receiving_options=dict(BOTH), **options)
    return made.open()


def back(id: str, sender: str = MONTAGUE, target: str = CAPULET) -> str:
    """A message against the direction in which the stream was opened."""
    return message(id, sender=f"romeo@{sender}", target=f"juliet@{target}")


def ids(streams: StreamPair, side: str) -> list[str | None]:
    return [one.id for event in streams.events(side, StanzasReceived) for one in event.stanzas]
