"""What both roles share: acknowledgements, closing, failing, time, and what callers may ask."""

import pytest

from coordinator.config import Limits
from tests.workers.xmpp.stream_pair import (
    CAPULET,
    LEGS,
    MONTAGUE,
    TCP,
    StreamPair,
    established,
    initiating,
    message,
    receiving,
    stanza,
)
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    ManagementEnabled,
    StanzasReceived,
    StreamClosed,
    StreamFailed,
    TlsStarting,
)
from workers.xmpp.stream import ServerStream, State, StreamConfig

AUTHENTICATION_TIMEOUT = Limits().authentication_timeout

ANSWER = "<a xmlns='urn:xmpp:sm:3' h='{}'/>"
REQUEST = b"<r xmlns='urn:xmpp:sm:3'/>"


def send(pair: StreamPair, *ids: str) -> None:
    pair.initiating.send_stanzas([stanza(message(id)) for id in ids])


def feed(stream: ServerStream, leg: str, text: bytes) -> list[bytes]:
    stream.receive(text if leg == TCP else [text])
    return stream.data_to_send()


# Stream management (XEP-0198).


@pytest.mark.parametrize("leg", LEGS)
def test_stanzas_are_acknowledged_when_they_are_handled_not_when_they_arrive(leg) -> None:
    pair = established(leg)
    send(pair, "m1", "m2", "m3")
    pair.initiating.request_ack()
    pair.run()
    assert pair.events("I", Acknowledged) == [Acknowledged(0)]
    pair.receiving.mark_handled(2)
    pair.receiving.send_ack()
    pair.run()
    assert pair.events("I", Acknowledged) == [Acknowledged(2)]
    pair.receiving.send_ack()
    assert pair.run() == []
    assert pair.initiating.sent.outstanding == 1


def test_one_request_is_made_for_all_that_was_sent_since_the_last() -> None:
    pair = established()
    send(pair, "m1")
    send(pair, "m2")
    pair.initiating.request_ack()
    pair.initiating.request_ack()
    assert pair.initiating.data_to_send().count(REQUEST) == 1
    pair.initiating.request_ack(again=True)
    assert pair.initiating.data_to_send() == [REQUEST]


@pytest.mark.parametrize("leg", LEGS)
def test_what_was_sent_before_enable_is_never_counted(leg) -> None:
    # Prosody sends its queue first, then <enable/>.
    pair = established(leg, management=False)
    send(pair, "m1", "m2")
    pair.run()
    assert not pair.events("R", StanzasReceived)[0].resendable
    feed(pair.receiving, leg, b"<enable xmlns='urn:xmpp:sm:3'/>")
    feed(pair.receiving, leg, message("m3").encode())
    assert pair.receiving.events_received()[-1].resendable
    pair.receiving.mark_handled(2)
    assert feed(pair.receiving, leg, REQUEST) == [ANSWER.format(0).encode()]
    pair.receiving.mark_handled(1)
    assert feed(pair.receiving, leg, REQUEST) == [ANSWER.format(1).encode()]


def test_counts_wrap_at_two_to_the_32() -> None:
    pair = established()
    last = (1 << 32) - 1
    pair.initiating.sent.total = pair.initiating.sent.acknowledged = last
    pair.receiving.received.total = pair.receiving.received.handled = last
    send(pair, "m1", "m2")
    pair.run()
    pair.receiving.mark_handled(2)
    pair.receiving.send_ack()
    pair.run()
    assert ANSWER.format(1).encode() in pair.written("R")
    assert pair.events("I", Acknowledged) == [Acknowledged(2)]


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("h", [2, 4294967295])
def test_a_count_too_high_says_so_in_detail(h, leg) -> None:
    pair = established(leg)
    send(pair, "m1")
    pair.run()
    written = b"".join(feed(pair.initiating, leg, ANSWER.format(h).encode()))
    detail = f"<handled-count-too-high xmlns='urn:xmpp:sm:3' h='{h}' send-count='1'/>"
    assert detail.encode() + b"</stream:error>" in written
    failed, _ = pair.initiating.events_received()
    assert failed.condition is StreamCondition.UNDEFINED_CONDITION


@pytest.mark.parametrize("h", ["", "x", "-1", "4294967296", "9" * 400, "١"])
def test_a_count_that_is_no_32_bit_number_is_bad_format(h) -> None:
    pair = established()
    feed(pair.initiating, "websocket", ANSWER.format(h).encode())
    assert pair.initiating.events_received()[0].condition is StreamCondition.BAD_FORMAT


def test_second_enable_and_early_requests_are_unexpected_and_harm_nothing() -> None:
    stream = established(management=False).receiving
    failed = (
        b"<failed xmlns='urn:xmpp:sm:3'><unexpected-request"
        b" xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    )
    enable = b"<enable xmlns='urn:xmpp:sm:3'/>"
    assert feed(stream, "websocket", REQUEST) == [failed]
    assert feed(stream, "websocket", ANSWER.format(0).encode()) == []
    assert feed(stream, "websocket", enable) == [b"<enabled xmlns='urn:xmpp:sm:3'/>"]
    assert feed(stream, "websocket", enable) == [failed]
    assert stream.state is State.ESTABLISHED
    assert stream.events_received() == [ManagementEnabled("")]
    assert (
        b"item-not-found"
        in feed(stream, "websocket", b"<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>")[0]
    )


def test_without_management_our_own_stanzas_may_pass_uncounted() -> None:
    pair = StreamPair(receiving_options={"use_management": False})
    stream = pair.open().initiating
    assert not stream.sent.enabled and stream.state is State.ESTABLISHED
    send(pair, "m1")
    stream.request_ack()
    assert REQUEST not in stream.data_to_send()
    stream.send_element(b"<iq/>")
    assert stream.data_to_send() == [b"<iq/>"]


@pytest.mark.parametrize("side", ["initiating", "receiving"])
def test_both_directions_count_though_only_one_carries_stanzas(side) -> None:
    # Prosody asks idle streams for an acknowledgement, and acknowledges nothing when closing.
    stream = getattr(established(), side)
    assert feed(stream, "websocket", REQUEST) == [ANSWER.format(0).encode()]
    assert feed(stream, "websocket", ANSWER.format(0).encode()) == []
    assert stream.events_received() == [Acknowledged(0)]
    assert stream.state is State.ESTABLISHED


# Closing.


@pytest.mark.parametrize("leg", LEGS)
def test_a_stream_closes_when_both_sides_have(leg) -> None:
    pair = established(leg)
    send(pair, "m1")
    pair.run()
    pair.receiving.mark_handled(1)
    pair.initiating.close()
    pair.initiating.close()
    pair.run()
    assert pair.events("R", StreamClosed) == [StreamClosed(clean=True)]
    assert pair.events("I", StreamClosed) == [StreamClosed(clean=True, answered=True)]
    # The acknowledgement passes our closing tag on its way and counts.
    assert pair.events("I", Acknowledged) == [Acknowledged(1)]
    pair.initiating.close()
    assert pair.run() == []


@pytest.mark.parametrize("management", [True, False])
@pytest.mark.parametrize("leg", LEGS)
def test_a_peer_that_closes_is_answered_once_its_stanzas_are_handled(leg, management) -> None:
    pair = established(leg, management=management)
    send(pair, "m1", "m2")
    pair.initiating.close()
    pair.run()
    assert pair.events("R", StreamClosed) == [] and pair.receiving.state is State.SETTLING
    assert pair.receiving.timer_at() is None
    pair.receiving.mark_handled(1)
    pair.receiving.send_ack()
    assert pair.run() == []
    pair.receiving.mark_handled(1)
    pair.receiving.send_ack()
    pair.run()
    assert pair.events("I", Acknowledged) == [Acknowledged(2)] * management
    assert pair.events("I", StreamClosed) == [StreamClosed(clean=True, answered=True)]
    assert pair.events("R", StreamClosed) == [StreamClosed(clean=True)]


def test_settling_ends_with_what_is_handled_when_we_are_told_to_close() -> None:
    pair = established()
    send(pair, "m1", "m2")
    pair.initiating.close()
    pair.run()
    pair.receiving.mark_handled(1)
    pair.receiving.close()
    pair.run()
    assert pair.events("I", Acknowledged) == [Acknowledged(1)]
    assert pair.receiving.state is State.CLOSED


def test_settling_ends_cleanly_with_the_connection_and_hears_nothing_more() -> None:
    pair = established()
    send(pair, "m1")
    pair.initiating.close()
    pair.run()
    assert feed(pair.receiving, "websocket", message("m2").encode()) == []
    pair.receiving.receive_eof()
    assert pair.receiving.events_received() == [StreamClosed(clean=True)]


def test_stanzas_after_our_closing_tag_count_only_if_nobody_acknowledges() -> None:
    for management, expected in ((False, 1), (True, 0)):
        pair = established(management=management)
        pair.receiving.close()
        send(pair, "m1")
        pair.run()
        assert len(pair.events("R", StanzasReceived)) == expected


def test_what_follows_an_enable_that_crosses_our_closing_tag_comes_again() -> None:
    pair = established(management=False)
    pair.receiving.config = StreamConfig()
    pair.receiving.close()
    before, after = message("m1").encode(), message("m2").encode()
    enable = b"<enable xmlns='urn:xmpp:sm:3'/>"
    for data in (before, enable, after):
        feed(pair.receiving, "websocket", data)
    (event,) = (e for e in pair.receiving.events_received() if isinstance(e, StanzasReceived))
    assert [stanza.id for stanza in event.stanzas] == ["m1"]


def test_an_error_instead_of_a_closing_tag_is_no_answer_to_ours() -> None:
    pair = established(management=False)
    send(pair, "m1")
    pair.initiating.close()
    pair.initiating.data_to_send()
    pair.receiving.fail(StreamCondition.RESET)
    pair.run()
    assert pair.events("I", StreamFailed)[0].by_peer
    assert pair.events("I", StreamClosed) == [StreamClosed(clean=False)]
    assert pair.initiating.data_to_send() == []


def test_closing_before_the_peers_header_arrives_ignores_the_header() -> None:
    pair = StreamPair()
    pair.initiating.open()
    pair.initiating.close()
    pair.run()
    assert pair.seen[-1] == ("I", StreamClosed(clean=True, answered=True))
    early = initiating()
    early.open()
    early.close()
    feed(
        early,
        "websocket",
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server' from='montague.example'/>",
    )
    assert early.events_received() == [] and early.state is State.CLOSING


def test_closing_what_was_never_opened_writes_nothing() -> None:
    stream = initiating()
    stream.close()
    assert stream.data_to_send() == []
    assert stream.events_received() == [StreamClosed(clean=True)]


def test_an_error_while_closing_is_not_answered() -> None:
    pair = established()
    pair.initiating.close()
    pair.initiating.data_to_send()
    feed(pair.initiating, "websocket", b"<not-xml")
    assert pair.initiating.events_received() == [StreamClosed(clean=False)]
    assert pair.initiating.data_to_send() == []


# Time and TLS.


@pytest.mark.parametrize("leg", LEGS)
def test_negotiation_ends_in_time_or_with_connection_timeout(leg) -> None:
    stream = receiving(leg)
    assert stream.timer_at() == AUTHENTICATION_TIMEOUT
    stream.handle_timer(AUTHENTICATION_TIMEOUT - 1)
    assert stream.events_received() == []
    stream.handle_timer(AUTHENTICATION_TIMEOUT)
    assert stream.events_received()[0].condition is StreamCondition.CONNECTION_TIMEOUT
    assert stream.timer_at() is None
    assert established(leg).receiving.timer_at() is None


def test_nothing_is_written_in_clear_once_tls_is_agreed() -> None:
    for end in ("fail", "close", "timer"):
        pair = StreamPair(TCP)
        pair.receiving.receive(
            b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
            b" from='capulet.example' to='montague.example' version='1.0'>"
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + message("m1").encode()
            # Injected in clear, to be taken for protected afterwards (CVE-2011-0411).
        )
        assert pair.receiving.events_received() == [TlsStarting()]
        assert pair.receiving.data_to_send()[-1].startswith(b"<proceed")
        pair.receiving.receive(message("m2").encode())
        if end == "fail":
            pair.receiving.fail(StreamCondition.RESET)
        elif end == "close":
            pair.receiving.close()
        else:
            pair.receiving.handle_timer(AUTHENTICATION_TIMEOUT)
        pair.receiving.tls_established(0.0)  # the handshake may just have been finished
        assert pair.receiving.data_to_send() == []
        assert isinstance(pair.receiving.events_received()[-1], StreamClosed)


def test_tls_starts_the_streams_anew_and_the_clock_too() -> None:
    stream = receiving(TCP, offer_tls=True)
    feed(
        stream,
        TCP,
        b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
        b" from='capulet.example' to='montague.example' version='1.0'>"
        b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    )
    stream.tls_established(10.0)
    with pytest.raises(LocalProtocolError):
        stream.tls_established(10.0)
    assert stream.secure and stream.state is State.WAIT_HEADER
    assert stream.timer_at() == 10.0 + AUTHENTICATION_TIMEOUT


# What callers may ask.


def test_stanzas_are_sent_on_established_streams_of_ours_only() -> None:
    opened, pair = initiating(), established()
    verifying = StreamPair(initiating_options={"verify_only": True}).open()
    for stream in (opened, pair.receiving, verifying.initiating):
        with pytest.raises(LocalProtocolError):
            stream.send_stanzas([stanza(message("m1"))])
        stream.data_to_send()
    with pytest.raises(LocalProtocolError):
        pair.initiating.send_element(b"<iq/>")
    pair.initiating.close()
    pair.initiating.data_to_send()
    with pytest.raises(LocalProtocolError):
        pair.initiating.send_stanzas([stanza(message("m1"))])
    assert pair.initiating.data_to_send() == []


def test_each_question_about_a_key_is_asked_once_and_answered_once() -> None:
    stream = established().initiating
    question = {"sender": CAPULET, "target": MONTAGUE, "id": "x", "key": "k"}
    stream.send_verify(**question)
    with pytest.raises(LocalProtocolError):
        stream.send_verify(**question)
    answer = (
        f"<db:verify xmlns:db='jabber:server:dialback' from='{MONTAGUE}' to='{CAPULET}' id='x'"
        " type='surprise'/>"
    ).encode()
    stream.receive([answer, answer])
    (event,) = stream.events_received()
    assert event.outcome == "error"
    with pytest.raises(LocalProtocolError):
        initiating().send_verify(**question)
