"""What misuse of resumption meets (XEP-0198 §5): others' streams, wrong times, wrong counts."""

import pytest

from tests.workers.xmpp.managed_scene import (
    ENABLE,
    ID,
    OPEN,
    authenticated,
    cut,
    lost,
    pair,
    resume,
    told,
)
from tests.workers.xmpp.stream_pair import MONTAGUE, message, receiving
from workers.xmpp.errors import LocalProtocolError
from workers.xmpp.events import StanzasReceived, StreamFailed
from workers.xmpp.management import Suspended
from workers.xmpp.state import State


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
