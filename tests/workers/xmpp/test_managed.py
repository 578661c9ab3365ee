"""Going on with a lost stream (XEP-0198 §5): who may, with what counts, and what misuse meets."""

import pytest

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    MONTAGUE,
    StreamPair,
    message,
    receiving,
    stanza,
)
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    ManagementEnabled,
    ResumptionRequested,
    StanzasReceived,
    StreamEstablished,
    StreamFailed,
)
from workers.xmpp.management import MODULO, Suspended
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State

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


# Misuse.


def test_resume_before_authentication_is_refused_with_the_stream() -> None:
    stream = receiving(resumption_seconds=300)
    stream.receive([OPEN.encode()])
    stream.offer(external=True, dialback=True)
    stream.data_to_send()
    assert "<not-authorized " in told(stream, resume())
    assert stream.state is State.CLOSED


def test_another_pair_cannot_resume_a_stream() -> None:
    other = Suspended(ID, "thief.example", MONTAGUE, lost().sent, lost().received, 300)
    stream = authenticated()
    told(stream, resume())
    with pytest.raises(LocalProtocolError):
        stream.accept_resumption(other, 0)
    assert stream.state is State.RESUMING and not stream.resumed
    stream.refuse_resumption()
    assert b"item-not-found" in b"".join(stream.data_to_send())


def test_a_second_resume_while_the_first_is_decided_ends_the_stream() -> None:
    stream = authenticated()
    assert "unsupported-stanza-type" in told(stream, resume(), resume())


def test_nothing_may_be_sent_before_the_answer_to_resume() -> None:
    stream = authenticated()
    assert "<not-authorized " in told(stream, resume(), message("m1"))
    assert not [e for e in stream.events_received() if isinstance(e, StanzasReceived)]


@pytest.mark.parametrize("first", ["enable", "resume"])
@pytest.mark.parametrize("then", [ENABLE, resume()])
def test_after_enable_or_resume_neither_is_expected_any_more(first, then) -> None:
    stream = authenticated()
    if first == "enable":
        told(stream, ENABLE)
    else:
        told(stream, resume())
        stream.accept_resumption(lost(), 0)
        stream.data_to_send()
    assert "<unexpected-request" in told(stream, then)
    assert stream.state is State.ESTABLISHED


def test_a_count_too_high_ends_the_resuming_stream_and_not_the_lost_one() -> None:
    kept = lost(sent=2)
    stream = authenticated()
    told(stream, resume(h=3))
    assert stream.accept_resumption(kept, 3) == 0
    assert not stream.resumed and stream.state is State.CLOSED
    written = b"".join(stream.data_to_send())
    assert b"<handled-count-too-high xmlns='urn:xmpp:sm:3' h='3' send-count='2'/>" in written
    again = authenticated()
    told(again, resume(h=2))
    assert again.accept_resumption(kept, 2) == 2 and again.resumed


@pytest.mark.parametrize("answer", ["resumed", "failed"])
def test_an_answer_with_a_count_too_high_is_told_so(answer) -> None:
    ours, _ = cut(pair())
    second = pair(ours)
    second.initiating.receive([f"<{answer} xmlns='urn:xmpp:sm:3' previd='{ID}' h='1'/>".encode()])
    assert b"handled-count-too-high" in b"".join(second.initiating.data_to_send())
    assert ours.sent.acknowledged == 0


def test_the_answer_must_name_the_stream_that_was_asked_for() -> None:
    ours, _ = cut(pair())
    second = pair(ours)
    second.initiating.receive([b"<resumed xmlns='urn:xmpp:sm:3' previd='other' h='0'/>"])
    failed = second.initiating.events_received()[0]
    assert isinstance(failed, StreamFailed) and not second.initiating.resumed


@pytest.mark.parametrize("h", ["", "x", "-1", "4294967296", "9" * 400])
def test_a_resumption_with_no_number_is_bad_format(h) -> None:
    assert "<bad-format " in told(authenticated(), resume(h=h))


@pytest.mark.parametrize("id", ["", "x" * 4001])
def test_an_impossible_id_is_not_found(id) -> None:
    stream = authenticated()
    assert "item-not-found" in told(stream, resume(id))
    assert stream.state is State.ESTABLISHED and stream.events_received() == []


def test_what_is_not_offered_is_not_found() -> None:
    stream = authenticated(resumption_seconds=0)
    assert "item-not-found" in told(stream, resume())
    assert told(stream, ENABLE) == "<enabled xmlns='urn:xmpp:sm:3'/>"


def test_decisions_come_when_they_are_due_and_too_late_they_do_nothing() -> None:
    stream = authenticated()
    with pytest.raises(LocalProtocolError):
        stream.accept_resumption(lost(), 0)
    with pytest.raises(LocalProtocolError):
        stream.send_again([])
    stream.refuse_resumption()
    assert stream.data_to_send() == []
    told(stream, resume())
    stream.receive_eof()
    assert stream.accept_resumption(lost(), 0) == 0 and not stream.resumed
    stream.refuse_resumption()
    assert stream.data_to_send() == []


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


def test_before_it_is_established_there_is_nothing_to_resume_after_a_reset() -> None:
    stream = receiving(**offers())
    stream.receive([OPEN.encode()])
    stream.lapse()
    assert stream.suspended() is None


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
