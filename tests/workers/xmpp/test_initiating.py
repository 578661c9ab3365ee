"""The initiating server: what it takes up, what it refuses, and when it gives up."""

import pytest

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    MONTAGUE,
    TCP,
    StreamPair,
    initiating,
)
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Authenticated,
    AuthenticationFailed,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
)
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.stream import State

OPEN = (
    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server' from='montague.example' id='x'"
    " version='1.0'/>"
)
TCP_OPEN = (
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
    " xmlns:db='jabber:server:dialback' from='montague.example' id='x' version='1.0'>"
)
EXTERNAL = (
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism>"
    "<mechanism>EXTERNAL</mechanism></mechanisms>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
PROCEED = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
SUCCESS = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
DB_VALID = (
    "<db:result xmlns:db='jabber:server:dialback' from='montague.example' to='capulet.example'"
    " type='valid'/>"
)


def features(*children: str) -> str:
    return (
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>"
        f"{''.join(children)}</stream:features>"
    )


def opened(*messages: str, **options: object) -> InitiatingStream:
    """Our stream after the peer's messages, all we wrote drained."""
    stream = initiating(**options)
    stream.open()
    stream.receive([message.encode() for message in messages])
    stream.data_to_send()
    return stream


def on_tcp(*texts: str, **options: object) -> InitiatingStream:
    stream = initiating(TCP, require_tls=True, **options)
    stream.open()
    for text in (TCP_OPEN, *texts):
        stream.receive(text.encode())
    return stream


def test_open_is_sent_once() -> None:
    stream = initiating()
    stream.open()
    assert len(stream.data_to_send()) == 1
    with pytest.raises(LocalProtocolError):
        stream.open()
    assert stream.data_to_send() == []


def test_tls_then_external_then_acknowledgements_on_tcp() -> None:
    pair = StreamPair(TCP).open()
    assert pair.events("I", Authenticated) == [Authenticated(CAPULET, MONTAGUE, "external")]
    assert pair.initiating.secure and pair.initiating.sent.enabled
    headers = [data for who, data in pair.wire if who == "I" and b"<stream:stream" in data]
    assert len(headers) == 3


def test_no_authentication_without_tls_where_it_is_required() -> None:
    stream = on_tcp(features(EXTERNAL))
    assert b"<auth" not in b"".join(stream.data_to_send())
    assert stream.events_received() == [AuthenticationFailed("STARTTLS is not offered")]


def test_tls_that_the_peer_refuses_is_reported() -> None:
    stream = on_tcp(features(STARTTLS), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    assert stream.events_received() == [AuthenticationFailed("the peer refused STARTTLS")]


@pytest.mark.parametrize("text", [SUCCESS, DB_VALID, features(EXTERNAL)])
def test_nothing_replaces_the_answer_to_starttls(text) -> None:
    stream = on_tcp(features(STARTTLS), text)
    assert [type(event) for event in stream.events_received()] == [StreamFailed, StreamClosed]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, PROCEED),  # SASL waits
        ({}, DB_VALID),
        ({}, features()),
        ({"use_external": False}, SUCCESS),  # dialback waits
        ({"use_external": False}, PROCEED),
    ],
)
def test_answers_that_were_not_asked_for_are_errors(options, text) -> None:
    stream = opened(OPEN, features(EXTERNAL), text, **options)
    failed, _ = stream.events_received()
    assert failed.condition is StreamCondition.UNSUPPORTED_STANZA_TYPE
    assert not stream.authenticated_by


def test_another_domains_answer_is_refused_but_its_error_is_heard() -> None:
    other = OPEN.replace(MONTAGUE, "front.example")
    stream = opened(other, features(EXTERNAL))
    assert stream.events_received()[0].condition is StreamCondition.INVALID_FROM
    stream = opened(
        other,
        "<stream:error xmlns:stream='http://etherx.jabber.org/streams'><host-unknown"
        " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
    )
    assert stream.events_received()[0] == StreamFailed(StreamCondition.HOST_UNKNOWN, "", True)


def test_an_answer_that_names_no_domain_is_accepted() -> None:
    stream = opened(OPEN.replace(" from='montague.example'", ""), features(EXTERNAL))
    assert stream.state is State.AUTHENTICATING


def test_header_in_the_clients_namespace_is_refused() -> None:
    stream = opened(OPEN.replace("-server'", "'"))
    assert stream.events_received()[0].condition is StreamCondition.INVALID_NAMESPACE


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dialback": False}, "SASL EXTERNAL is not offered"),
        ({"use_dialback": False, "use_external": False}, "no way to authenticate is left"),
        ({"dialback_secret": b""}, "SASL EXTERNAL is not offered"),
    ],
)
def test_giving_up_says_what_was_missing(options, reason) -> None:
    stream = opened(OPEN, features(), **options)
    assert stream.events_received() == [AuthenticationFailed(reason)]
    assert stream.state is State.CLOSING


def test_dialback_needs_a_stream_id() -> None:
    stream = opened(OPEN.replace(" id='x'", ""), features())
    assert stream.events_received() == [AuthenticationFailed("SASL EXTERNAL is not offered")]


@pytest.mark.parametrize("outcome", ["invalid", "error", "surprise"])
def test_a_refused_key_ends_the_stream_with_both_reasons(outcome) -> None:
    stream = opened(OPEN, features(), DB_VALID.replace("valid", outcome))
    assert stream.events_received() == [
        AuthenticationFailed(f"SASL EXTERNAL is not offered; dialback answered {outcome}")
    ]
    stream = opened(OPEN, features(), DB_VALID.replace("valid", "invalid"), use_external=False)
    assert stream.events_received() == [AuthenticationFailed("dialback answered invalid")]


def test_a_result_for_another_pair_settles_nothing() -> None:
    stream = opened(OPEN, features(), DB_VALID.replace(CAPULET, "rooms.capulet.example"))
    assert stream.events_received() == [] and stream.state is State.PROVING


@pytest.mark.parametrize("name", ["result", "verify"])
def test_questions_come_only_on_streams_that_were_opened_to_us(name) -> None:
    stream = opened(OPEN, features(), DB_VALID)
    question = (
        f"<d:{name} xmlns:d='jabber:server:dialback' from='montague.example'"
        f" to='capulet.example' id='1'>k</d:{name}>"
    )
    stream.events_received()
    stream.receive([question.encode()])
    assert stream.events_received()[0].condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


def test_later_features_change_nothing() -> None:
    stream = opened(OPEN, features(), DB_VALID, features(EXTERNAL, STARTTLS))
    assert stream.events_received()[-1] == StreamEstablished()
    assert stream.data_to_send() == [] and stream.state is State.ESTABLISHED


def test_enable_that_fails_leaves_an_established_stream() -> None:
    stream = opened(
        OPEN,
        features(EXTERNAL),
        SUCCESS,
        OPEN,
        features("<sm xmlns='urn:xmpp:sm:3'/>"),
        "<failed xmlns='urn:xmpp:sm:3'/>",
    )
    assert stream.events_received()[-1] == StreamEstablished()
    assert not stream.sent.enabled and not stream.received.enabled


def test_answer_to_a_verification_may_come_after_our_closing_tag() -> None:
    stream = opened(OPEN, features(), verify_only=True)
    stream.send_verify(sender=CAPULET, target=MONTAGUE, id="1", key="k")
    stream.close()
    stream.events_received()
    stream.receive(
        [
            b"<d:verify xmlns:d='jabber:server:dialback' from='montague.example'"
            b" to='capulet.example' id='1' type='invalid'/>"
        ]
    )
    (event,) = stream.events_received()
    assert event.outcome == "invalid"
