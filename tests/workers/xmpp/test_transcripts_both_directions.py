"""The notes' dialogue for both directions, byte for byte, our stream playing either side."""

from tests.workers.xmpp.both_directions_scene import BIDI, back
from tests.workers.xmpp.stream_pair import initiating, message, play, receiving, stanza
from tests.workers.xmpp.transcript_scene import DECLARED, FRAMING, SASL, TAIL
from workers.xmpp.events import Acknowledged, ManagementEnabled, StanzasReceived, StreamOpened

LIMIT = (
    "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes>"
    "<idle-seconds>300</idle-seconds></limits>"
)


def test_the_transcript_seen_from_the_initiating_server() -> None:
    stream = initiating(use_bidi=True, resumption_seconds=300)

    def opened(id: str) -> str:
        return (
            f"R: <open {DECLARED} id='{id}' from='montague.example' to='capulet.example' {TAIL}/>"
        )

    ours = f"I: <open {DECLARED} from='capulet.example' to='montague.example' {TAIL}/>"
    m1 = message("m1")
    events = play(
        stream,
        "I",
        [
            stream.open,
            ours,
            opened("s-7f3a91c2"),
            "R: <stream:features xmlns='jabber:server'"
            " xmlns:stream='http://etherx.jabber.org/streams'>"
            f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
            "<bidi xmlns='urn:xmpp:features:bidi'/><dialback"
            f" xmlns='urn:xmpp:features:dialback'><errors/></dialback>{LIMIT}</stream:features>",
            f"I: {BIDI}",
            f"I: <auth xmlns='{SASL}' mechanism='EXTERNAL'>Y2FwdWxldC5leGFtcGxl</auth>",
            f"R: <success xmlns='{SASL}'/>",
            ours,
            opened("s-b1d04e77"),
            "R: <stream:features xmlns='jabber:server'"
            " xmlns:stream='http://etherx.jabber.org/streams'><sm xmlns='urn:xmpp:sm:3'/>"
            f"<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>{LIMIT}"
            "</stream:features>",
            "I: <enable xmlns='urn:xmpp:sm:3' resume='true' max='300'/>",
            "R: <enabled xmlns='urn:xmpp:sm:3' id='g1.w3.9c2e41' resume='true' max='300'/>",
            lambda: (stream.send_stanzas([stanza(m1)]), stream.request_ack()),
            f"I: {stanza(m1).data.decode()}",
            "I: <r xmlns='urn:xmpp:sm:3'/>",
            "R: <a xmlns='urn:xmpp:sm:3' h='1'/>",
            f"R: {back('m2')}",
            lambda: (stream.mark_handled(1), stream.send_ack()),
            "I: <a xmlns='urn:xmpp:sm:3' h='1'/>",
            stream.close,
            f"I: <close xmlns='{FRAMING}'/>",
            f"R: <close xmlns='{FRAMING}'/>",
        ],
    )
    assert [e.count for e in events if isinstance(e, Acknowledged)] == [1]
    assert [e.resendable for e in events if isinstance(e, StanzasReceived)] == [True]


def test_the_transcript_seen_from_the_receiving_server() -> None:
    stream = receiving(use_bidi=True, resumption_seconds=300)

    def opened(id: str) -> str:
        return (
            f"R: <open {DECLARED} id='{id}' from='montague.example' to='capulet.example' {TAIL}/>"
        )

    theirs = f"I: <open {DECLARED} from='capulet.example' to='montague.example' {TAIL}/>"
    limits = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes></limits>"
    m2 = back("m2")
    events = play(
        stream,
        "R",
        [
            theirs,
            opened("s-1"),
            "R: <stream:features xmlns='jabber:server'"
            " xmlns:stream='http://etherx.jabber.org/streams'>"
            f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
            "<bidi xmlns='urn:xmpp:features:bidi'/><dialback"
            f" xmlns='urn:xmpp:features:dialback'><errors/></dialback>{limits}</stream:features>",
            f"I: {BIDI}",
            f"I: <auth xmlns='{SASL}' mechanism='EXTERNAL'>Y2FwdWxldC5leGFtcGxl</auth>",
            f"R: <success xmlns='{SASL}'/>",
            theirs,
            opened("s-2"),
            "R: <stream:features xmlns='jabber:server'"
            " xmlns:stream='http://etherx.jabber.org/streams'><sm xmlns='urn:xmpp:sm:3'/>"
            f"<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>{limits}"
            "</stream:features>",
            "I: <enable xmlns='urn:xmpp:sm:3' resume='true' max='300'/>",
            "R: <enabled xmlns='urn:xmpp:sm:3' id='g1.w3.9c2e41' resume='true' max='300'/>",
            f"I: {message('m1')}",
            lambda: (stream.mark_handled(1), stream.send_ack()),
            "R: <a xmlns='urn:xmpp:sm:3' h='1'/>",
            lambda: stream.send_stanzas([stanza(m2)]),
            f"R: {stanza(m2).data.decode()}",
            "I: <a xmlns='urn:xmpp:sm:3' h='1'/>",
        ],
        lambda event: (
            isinstance(event, StreamOpened) and stream.offer(external=True, dialback=True)
        ),
    )
    assert [e.count for e in events if isinstance(e, Acknowledged)] == [1]
    assert ManagementEnabled("g1.w3.9c2e41") in events
