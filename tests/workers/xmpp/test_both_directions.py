"""One stream for both directions (XEP-0288): never wider than what was authenticated."""

import pytest

from coordinator.config import Limits
from tests.workers.xmpp.stream_pair import (
    CAPULET,
    LIMITS,
    MONTAGUE,
    StreamPair,
    established,
    initiating,
    message,
    play,
    receiving,
    stanza,
)
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    ManagementEnabled,
    StanzasReceived,
    StreamEstablished,
    StreamFailed,
    StreamOpened,
)
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
DECLARED = (
    f"xmlns='{FRAMING}' xmlns:stream='http://etherx.jabber.org/streams'"
    " xmlns:db='jabber:server:dialback'"
)
TAIL = "version='1.0' xml:lang='en'"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
LIMIT = (
    "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes>"
    "<idle-seconds>300</idle-seconds></limits>"
)
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


def test_stanzas_may_come_back_in_one_read_with_the_last_features() -> None:
    stream = initiating(use_bidi=True)
    stream.open()
    header = f"<open {DECLARED} id='1' from='montague.example' to='capulet.example' {TAIL}/>"
    features = (
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>"
        f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
        "<bidi xmlns='urn:xmpp:features:bidi'/></stream:features>"
    )
    last = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>"
    stream.receive([header.encode(), features.encode()])
    stream.receive([f"<success xmlns='{SASL}'/>".encode()])
    stream.events_received()
    came = [back(f"m{number}").encode() for number in range(500)]
    stream.receive([header.encode(), last.encode(), *came])
    (received,) = [each for each in stream.events_received() if isinstance(each, StanzasReceived)]
    assert len(received.stanzas) == 500


# The transcript of the protocol notes.


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


# Both proofs, both directions.


@pytest.mark.parametrize("external", [True, False])
def test_stanzas_go_both_ways_whatever_the_proof(external) -> None:
    streams = pair(external=external, dialback=not external)
    assert streams.initiating.bidirectional and streams.receiving.bidirectional
    streams.initiating.send_stanzas([stanza(message("m1"))])
    streams.receiving.send_stanzas([stanza(back("m2"))])
    streams.run()
    assert ids(streams, "R") == ["m1"] and ids(streams, "I") == ["m2"]


def test_each_direction_has_its_own_count() -> None:
    streams = pair()
    assert streams.events("R", ManagementEnabled) == [ManagementEnabled("")]
    streams.initiating.send_stanzas([stanza(message(id)) for id in ("m1", "m2", "m3")])
    streams.receiving.send_stanzas([stanza(back("b1"))])
    streams.run()
    streams.receiving.mark_handled(2)
    streams.initiating.mark_handled(1)
    streams.receiving.send_ack()
    streams.initiating.send_ack()
    streams.run()
    assert streams.events("I", Acknowledged) == [Acknowledged(2)]
    assert streams.events("R", Acknowledged) == [Acknowledged(1)]


@pytest.mark.parametrize("without", ["initiating", "receiving"])
def test_one_side_alone_does_not_make_it_so(without) -> None:
    options = {"initiating_options": dict(BOTH), "receiving_options": dict(BOTH)}
    del options[f"{without}_options"]
    streams = StreamPair(**options).open()
    assert not streams.initiating.bidirectional and not streams.receiving.bidirectional
    with pytest.raises(LocalProtocolError):
        streams.receiving.send_stanzas([stanza(back("m1"))])
    streams.initiating.receive([back("m1").encode()])
    failed = streams.initiating.events_received()[0]
    assert failed.condition is StreamCondition.NOT_AUTHORIZED


def test_a_stanza_that_comes_before_acknowledgements_are_agreed_is_taken_uncounted() -> None:
    # XEP-0288 §2.2: nothing makes the receiving server wait for <enable/>.
    stream = initiating(use_bidi=True)
    streams = StreamPair(initiating_options=dict(BOTH), receiving_options=dict(BOTH))
    streams.initiating = stream
    streams.receiving.data_to_send()
    stream.open()
    while stream.state is not State.ENABLING:
        streams._step("I", stream, streams.receiving)
        streams._step("R", streams.receiving, stream)
    stream.receive([back("early").encode(), b"<enabled xmlns='urn:xmpp:sm:3'/>"])
    early = next(e for e in stream.events_received() if isinstance(e, StanzasReceived))
    assert not early.resendable and stream.received.pending == 1
    stream.receive([back("counted").encode()])
    stream.mark_handled(2)
    assert stream.received.h == 1


# What it must not open.


@pytest.mark.parametrize(
    ("sender", "target", "condition"),
    [
        ("thief.example", CAPULET, StreamCondition.INVALID_FROM),
        (CAPULET, MONTAGUE, StreamCondition.INVALID_FROM),
        (MONTAGUE, "rooms.capulet.example", StreamCondition.HOST_UNKNOWN),
    ],
)
def test_the_receiving_server_speaks_for_itself_alone(sender, target, condition) -> None:
    stream = pair().initiating
    stream.receive([back("m1", sender, target).encode()])
    failed = stream.events_received()[0]
    assert isinstance(failed, StreamFailed) and failed.condition is condition


@pytest.mark.parametrize(
    ("sender", "target"),
    [(CAPULET, MONTAGUE), (MONTAGUE, "rooms.capulet.example"), ("rooms.montague.example", CAPULET)],
)
def test_we_send_back_only_where_the_peer_has_proved_to_be(sender, target) -> None:
    stream = pair().receiving
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([stanza(back("ok")), stanza(back("m1", sender, target))])
    assert stream.data_to_send() == []


def test_pairs_proved_by_dialback_are_opened_one_by_one() -> None:
    streams = pair(external=False, dialback=True)
    stream = streams.receiving
    other = stanza(back("m1", target="rooms.capulet.example"))
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([other])
    stream.receive(
        [
            b"<d:result xmlns:d='jabber:server:dialback' from='rooms.capulet.example'"
            b" to='montague.example'>k</d:result>"
        ]
    )
    stream.answer_dialback(sender="rooms.capulet.example", target=MONTAGUE, outcome="valid")
    stream.data_to_send()
    stream.send_stanzas([other])
    assert stream.data_to_send() == [other.data]


def opened(**options: object) -> ReceivingStream:
    stream = receiving(use_bidi=True, **options)
    stream.receive(
        [f"<open xmlns='{FRAMING}' from='{CAPULET}' to='{MONTAGUE}' version='1.0'/>".encode()]
    )
    stream.offer(external=True, dialback=True)
    stream.data_to_send()
    return stream


def test_nothing_is_sent_back_before_authentication() -> None:
    stream = opened()
    stream.receive([BIDI.encode()])
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([stanza(back("m1"))])
    assert stream.data_to_send() == []


def test_bidi_after_authentication_ends_the_stream() -> None:
    # Ignored, the peer would wait for stanzas that never come this way.
    streams = StreamPair(receiving_options=dict(BOTH)).open()
    streams.receiving.receive([BIDI.encode()])
    failed = streams.receiving.events_received()[0]
    assert failed.condition is StreamCondition.UNSUPPORTED_STANZA_TYPE
    assert not streams.receiving.bidirectional


@pytest.mark.parametrize(
    ("inner", "limit"),
    [
        ("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>12345</max-bytes></limits>", 12345),
        ("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>many</max-bytes></limits>", 262144),
        ("<limits xmlns='urn:xmpp:stream-limits:0'/>", 262144),
        ("", 262144),
    ],
)
def test_the_limit_of_what_we_send_back_is_inside(inner, limit) -> None:
    stream = opened()
    stream.receive([f"<bidi xmlns='urn:xmpp:bidi'>{inner}</bidi>".encode()])
    assert stream.bidirectional and stream.peer_max_bytes == limit


def test_ours_names_what_we_take() -> None:
    limits = Limits(preauth_bytes=8192, stanza_bytes=54321)
    streams = StreamPair(
        initiating_options={**BOTH, "limits": limits}, receiving_options=dict(BOTH)
    ).open()
    assert streams.receiving.peer_max_bytes == 54321


def test_after_authentication_the_limit_for_strangers_is_off_in_time() -> None:
    streams = pair()
    large = stanza(
        f"<message xmlns='jabber:server' from='romeo@{MONTAGUE}' to='juliet@{CAPULET}' id='l'>"
        f"<body>{'x' * (LIMITS.preauth_bytes + 1)}</body></message>"
    )
    streams.receiving.send_stanzas([large])
    streams.run()
    assert ids(streams, "I") == ["l"]


@pytest.mark.parametrize("name", ["result", "verify"])
def test_keys_that_come_back_are_referred_to_a_stream_of_their_own(name) -> None:
    stream = pair(external=False, dialback=True).initiating
    stream.receive(
        [
            f"<d:{name} xmlns:d='jabber:server:dialback' from='{MONTAGUE}' to='{CAPULET}' id='1'>k"
            f"</d:{name}>".encode()
        ]
    )
    answer = b"".join(stream.data_to_send()).decode()
    assert f"<db:{name} " in answer and "type='error'" in answer
    assert "<resource-constraint " in answer and f"to='{MONTAGUE}'" in answer
    assert stream.state is State.ESTABLISHED
    assert stream.pairs == {(MONTAGUE, CAPULET)}


@pytest.mark.parametrize("name", ["result", "verify"])
def test_on_a_stream_that_goes_one_way_keys_make_no_sense(name) -> None:
    stream = established().initiating
    stream.receive(
        [
            f"<d:{name} xmlns:d='jabber:server:dialback' from='{MONTAGUE}' to='{CAPULET}' id='1'>k"
            f"</d:{name}>".encode()
        ]
    )
    assert stream.events_received()[0].condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


def test_a_stream_that_only_asks_about_keys_goes_one_way() -> None:
    streams = StreamPair(
        initiating_options={**BOTH, "verify_only": True}, receiving_options=dict(BOTH)
    ).open()
    assert streams.initiating.state is State.ESTABLISHED
    assert not streams.initiating.bidirectional and not streams.receiving.bidirectional


def test_answers_to_no_question_open_nothing_on_either_side() -> None:
    streams = pair()
    for stream, sender, target in (
        (streams.initiating, MONTAGUE, "rooms.capulet.example"),
        (streams.receiving, "rooms.capulet.example", MONTAGUE),
    ):
        before = set(stream.pairs)
        stream.receive(
            [
                f"<d:result xmlns:d='jabber:server:dialback' from='{sender}' to='{target}'"
                " type='valid'/>".encode()
            ]
        )
        assert stream.pairs == before and stream.state is State.ESTABLISHED


def test_resumed_streams_go_on_both_ways() -> None:
    options = {"use_bidi": True, "resumption_seconds": 60}
    first = StreamPair(initiating_options=dict(options), receiving_options=dict(options)).open()
    first.initiating.send_stanzas([stanza(message("m1"))])
    first.receiving.send_stanzas([stanza(back("b1")), stanza(back("b2"))])
    first.run()
    first.initiating.mark_handled(1)
    first.receiving.mark_handled(1)
    for stream in (first.initiating, first.receiving):
        stream.receive_eof()
    ours, theirs = first.initiating.suspended(), first.receiving.suspended()
    assert ours is not None and theirs is not None and theirs.bidirectional
    ours.received.mark_handled(1)
    second = StreamPair(
        initiating_options={**options, "resume": ours}, receiving_options=dict(options)
    ).open()
    assert second.events("R", StreamEstablished)
    assert second.receiving.accept_resumption(theirs, 2) == 2
    second.run()
    assert second.initiating.covered == 1
    second.receiving.send_again([])
    second.receiving.send_stanzas([stanza(back("b3"))])
    second.run()
    assert ids(second, "I") == ["b3"] and second.initiating.received.total == 3


def test_a_closing_stream_of_both_directions_hears_no_more_uncounted() -> None:
    streams = pair()
    streams.initiating.close()
    streams.initiating.receive([back("late").encode()])
    assert not [e for e in streams.initiating.events_received() if isinstance(e, StanzasReceived)]
