"""Going on with a lost stream (XEP-0198 §5): with what counts, and when not at all."""

import pytest

from tests.workers.xmpp.managed_scene import (
    ASK,
    ENABLE,
    FRAMING,
    ID,
    OPEN,
    authenticated,
    cut,
    offers,
    pair,
    received,
    send,
    told,
)
from tests.workers.xmpp.stream_pair import MONTAGUE, StreamPair, message, receiving, stanza
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    ManagementEnabled,
    ResumptionRequested,
    StanzasReceived,
    StreamEstablished,
)
from workers.xmpp.management import MODULO
from workers.xmpp.state import State

# In order.


def test_a_question_between_stanzas_parts_no_batch_and_is_answered() -> None:
    stream = authenticated()
    told(stream, ENABLE)
    texts = [message("m1"), ASK, message("m2"), ASK]
    assert told(stream, *texts).count("h='0'") == 2
    (event,) = (e for e in stream.events_received() if isinstance(e, StanzasReceived))
    assert [one.id for one in event.stanzas] == ["m1", "m2"]
    assert (stream.received.total, stream.received.pending) == (2, 2)
    stream.mark_handled(2)
    assert "h='2'" in told(stream, ASK)


def test_a_lost_stream_goes_on_with_its_counts() -> None:
    first = pair()
    assert first.events("R", ManagementEnabled) == [ManagementEnabled(ID)]
    send(first, "m1", "m2", "m3")
    first.run()
    first.receiving.mark_handled(2)
    ours, theirs = cut(first)
    assert (ours.id, ours.seconds, theirs.id, theirs.seconds) == (ID, 300, ID, 300)
    theirs.received.mark_handled(1)

    second = pair(ours)
    assert second.events("R", ResumptionRequested) == [ResumptionRequested(ID, 0)]
    assert second.initiating.state is State.RESUMING is second.receiving.state
    assert second.receiving.accept_resumption(theirs, 0) == 0
    second.run()
    assert second.events("I", StreamEstablished) == [StreamEstablished()]
    assert second.initiating.resumed and second.initiating.covered == 3
    second.initiating.send_again([])
    send(second, "m4")
    second.run()
    assert received(second) == ["m4"]
    second.receiving.mark_handled(1)
    second.receiving.send_ack()
    second.run()
    assert second.events("I", Acknowledged) == [Acknowledged(1)]
    assert b"h='4'" in second.written("R")
    assert cut(second)[0].id == ID


def test_what_did_not_arrive_is_sent_again_and_counted_once() -> None:
    first = pair()
    send(first, "m1")
    first.run()
    first.receiving.mark_handled(1)
    send(first, "m2", "m3")
    ours, theirs = cut(first)

    second = pair(ours)
    second.receiving.accept_resumption(theirs, 0)
    second.run()
    assert second.initiating.covered == 1
    with pytest.raises(LocalProtocolError):
        second.initiating.send_again([stanza(message("m3"))])
    second.initiating.send_again([stanza(message("m2")), stanza(message("m3"))])
    second.initiating.request_ack()
    second.run()
    assert received(second) == ["m2", "m3"]
    assert b"<r xmlns='urn:xmpp:sm:3'/>" in second.written("I")
    second.receiving.mark_handled(2)
    second.receiving.send_ack()
    second.run()
    assert second.events("I", Acknowledged) == [Acknowledged(2)]
    assert second.initiating.sent.outstanding == 0


def test_a_stream_may_be_lost_and_resumed_any_number_of_times() -> None:
    streams = pair()
    for round in range(5):
        send(streams, f"m{round}")
        streams.run()
        streams.receiving.mark_handled(1)
        ours, theirs = cut(streams)
        streams = pair(ours)
        streams.receiving.accept_resumption(theirs, ours.received.h)
        streams.run()
        assert streams.initiating.covered == 1
    assert streams.receiving.received.h == 5


def test_a_refused_resumption_tells_what_was_handled_and_acknowledgements_begin_anew() -> None:
    first = pair()
    send(first, "m1", "m2", "m3")
    first.run()
    ours, _ = cut(first)
    second = pair(ours)
    second.receiving.refuse_resumption(h=2)
    second.run()
    assert b"<failed xmlns='urn:xmpp:sm:3' h='2'><item-not-found" in second.written("R")
    assert not second.initiating.resumed and second.initiating.covered == 2
    assert second.initiating.state is State.ESTABLISHED
    assert second.initiating.sent.total == 0 and second.initiating.sent.enabled
    send(second, "m4")
    second.run()
    assert received(second) == ["m4"]


def test_a_server_without_acknowledgements_resumes_nothing() -> None:
    first = pair()
    send(first, "m1")
    ours, _ = cut(first)
    second = pair(ours, use_management=False)
    assert second.initiating.state is State.ESTABLISHED
    assert not second.initiating.resumed and second.initiating.covered == 0


def test_a_successor_that_knows_less_is_followed() -> None:
    # Its process died between two notes of its count.
    first = pair()
    send(first, "m1", "m2", "m3", "m4")
    first.run()
    first.receiving.mark_handled(3)
    first.receiving.send_ack()
    first.run()
    ours, theirs = cut(first)
    theirs.received.total = theirs.received.handled = 1
    second = pair(ours)
    second.receiving.accept_resumption(theirs, 0)
    second.run()
    assert second.initiating.covered == 0 and second.initiating.sent.outstanding == 1
    second.initiating.send_again([stanza(message("m4"))])
    second.run()
    second.receiving.mark_handled(1)
    second.receiving.send_ack()
    second.run()
    assert second.events("I", Acknowledged) == [Acknowledged(1)]


def test_counts_go_on_over_the_end_of_the_numbers() -> None:
    first = pair()
    last = MODULO - 1
    first.initiating.sent.total = first.initiating.sent.acknowledged = last
    first.receiving.received.total = first.receiving.received.handled = last
    send(first, "m1", "m2")
    first.run()
    first.receiving.mark_handled(2)
    ours, theirs = cut(first)
    second = pair(ours)
    second.receiving.accept_resumption(theirs, 0)
    second.run()
    assert second.initiating.covered == 2
    assert b"h='1'" in second.written("R")


def test_a_stream_whose_proof_has_lapsed_is_reset_and_may_be_resumed_by_both() -> None:
    streams = pair()
    send(streams, "1")
    streams.run()
    streams.receiving.lapse()
    streams.run()
    assert b"<reset " in streams.written("R")
    assert streams.initiating.state is State.CLOSED is streams.receiving.state
    kept, ours = streams.receiving.suspended(), streams.initiating.suspended()
    assert kept is not None and ours is not None
    second = pair(ours)
    second.receiving.accept_resumption(kept, 0)
    second.run()
    assert second.initiating.resumed and second.initiating.sent.total == 1


def test_a_live_stream_can_be_given_up_for_its_successor() -> None:
    # The peer lost a connection that we still believe in.
    streams = pair()
    kept = streams.receiving.give_way()
    assert kept is not None and streams.receiving.state is State.CLOSED
    assert b"<conflict " in b"".join(streams.receiving.data_to_send())
    assert streams.receiving.suspended() == kept == streams.receiving.give_way()
    ours = streams.initiating.suspended()
    assert ours is not None
    second = pair(ours)
    second.receiving.accept_resumption(kept, 0)
    second.run()
    assert second.initiating.resumed


# When there is nothing to go on with.


@pytest.mark.parametrize("end", ["close", "fail", "peer fails"])
def test_a_stream_that_ended_with_a_word_is_over(end) -> None:
    streams = pair()
    if end == "close":
        streams.initiating.close()
    elif end == "fail":
        streams.initiating.fail(StreamCondition.POLICY_VIOLATION)
    else:
        streams.receiving.fail(StreamCondition.POLICY_VIOLATION)
    streams.run()
    for stream in (streams.initiating, streams.receiving):
        stream.receive_eof()
        assert stream.suspended() is None


def test_a_connection_lost_while_closing_leaves_nothing() -> None:
    streams = pair()
    send(streams, "m1")
    streams.run()
    streams.initiating.close()
    streams.receiving.receive([f"<close xmlns='{FRAMING}'/>".encode()])
    assert streams.receiving.state is State.SETTLING
    for stream in (streams.initiating, streams.receiving):
        stream.receive_eof()
        assert stream.suspended() is None


@pytest.mark.parametrize("side", ["initiating", "receiving"])
def test_only_who_offers_it_gets_it(side) -> None:
    options = {f"{side}_options": offers(), "receiving_options": offers()}
    if side == "initiating":
        options["receiving_options"] = {}
    else:
        options["initiating_options"] = {}
    streams = StreamPair(**options).open()
    assert streams.initiating.sent.enabled
    assert streams.initiating.suspended() is None is streams.receiving.suspended()


@pytest.mark.parametrize(
    "enabled",
    [
        "<enabled xmlns='urn:xmpp:sm:3' resume='true'/>",
        "<enabled xmlns='urn:xmpp:sm:3' resume='true' id=''/>",
        f"<enabled xmlns='urn:xmpp:sm:3' resume='true' id='{'x' * 4001}'/>",
        "<enabled xmlns='urn:xmpp:sm:3' resume='maybe' id='x'/>",
        "<enabled xmlns='urn:xmpp:sm:3' id='x'/>",
    ],
)
def test_a_half_promise_is_none(enabled) -> None:
    stream = StreamPair(initiating_options=offers()).initiating
    stream.state = State.ENABLING
    stream.receive([enabled.encode()])
    assert stream.state is State.ESTABLISHED and stream.suspended() is None


@pytest.mark.parametrize(("max", "seconds"), [("60", 60), ("9999", 300), ("", 300), ("-1", 300)])
def test_the_shorter_time_holds(max, seconds) -> None:
    stream = authenticated()
    answer = told(stream, f"<enable xmlns='urn:xmpp:sm:3' resume='1' max='{max}'/>")
    assert f"id='{ID}' resume='true' max='{seconds}'" in answer
    kept = stream.suspended()
    assert kept is not None and kept.seconds == seconds


def test_a_stream_of_several_pairs_is_not_resumed() -> None:
    stream = authenticated()
    told(stream, ENABLE)
    result = (
        "<d:result xmlns:d='jabber:server:dialback' from='rooms.capulet.example'"
        f" to='{MONTAGUE}'>k</d:result>"
    )
    told(stream, result)
    assert stream.suspended() is not None
    stream.answer_dialback(sender="rooms.capulet.example", target=MONTAGUE, outcome="valid")
    assert stream.suspended() is None


def test_before_it_is_established_there_is_nothing_to_resume_after_a_reset() -> None:
    stream = receiving(**offers())
    stream.receive([OPEN.encode()])
    stream.lapse()
    assert stream.suspended() is None
