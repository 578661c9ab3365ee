"""One stream for both directions (XEP-0288): when it is agreed, counted, resumed and closed."""

import pytest

from tests.workers.xmpp.both_directions_scene import BOTH, back, ids, pair
from tests.workers.xmpp.stream_pair import StreamPair, initiating, message, stanza
from tests.workers.xmpp.transcript_scene import DECLARED, SASL, TAIL
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import Acknowledged, ManagementEnabled, StanzasReceived, StreamEstablished
from workers.xmpp.state import State


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
