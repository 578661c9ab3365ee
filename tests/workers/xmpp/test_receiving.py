"""The receiving server: what it offers, what it accepts as proof, and what it answers."""

import pytest

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    MONTAGUE,
    TCP,
    WEBSOCKET,
    established,
    message,
    receiving,
)
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.receiving import MAX_AUTH_ATTEMPTS, ReceivingStream
from workers.xmpp.stream import State

OPEN = (
    b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server' from='capulet.example'"
    b" to='montague.example' version='1.0'/>"
)
TCP_OPEN = (
    b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
    b" from='capulet.example' to='montague.example' version='1.0'>"
)
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"


def opened(*, external: bool = True, dialback: bool = True, reason: str = "") -> ReceivingStream:
    stream = receiving()
    stream.receive([OPEN])
    stream.offer(external=external, dialback=dialback, reason=reason)
    stream.data_to_send()
    stream.events_received()
    return stream


def told(stream: ReceivingStream, *messages: str) -> str:
    stream.receive([message.encode() for message in messages])
    return b"".join(stream.data_to_send()).decode()


def auth(text: str = "=", mechanism: str = "EXTERNAL") -> str:
    return f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{text}</auth>"


def db(name: str, sender: str = CAPULET, target: str = MONTAGUE, id: str = "1") -> str:
    return (
        f"<d:{name} xmlns:d='jabber:server:dialback' from='{sender}' to='{target}' id='{id}'>k"
        f"</d:{name}>"
    )


@pytest.mark.parametrize(("external", "dialback"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_features_are_what_the_shell_decided(external, dialback) -> None:
    stream = receiving()
    stream.receive([OPEN])
    assert stream.events_received() == [StreamOpened(CAPULET, MONTAGUE, False)]
    assert stream.data_to_send() == []
    stream.offer(external=bool(external), dialback=bool(dialback))
    features = stream.data_to_send()[1].decode()
    assert ("EXTERNAL" in features) is bool(external)
    assert ("urn:xmpp:features:dialback" in features) is bool(dialback)
    assert "urn:xmpp:sm:3" not in features


def test_offer_answers_one_header_and_nothing_that_has_ended() -> None:
    stream = opened()
    with pytest.raises(LocalProtocolError):
        stream.offer(external=True, dialback=True)
    ended = receiving()
    ended.receive([OPEN, b"<not xml"])
    ended.data_to_send()
    ended.offer(external=True, dialback=True)
    assert ended.data_to_send() == []


@pytest.mark.parametrize(
    ("request_", "condition"),
    [
        (auth(mechanism="PLAIN"), "invalid-mechanism"),
        (auth(""), "malformed-request"),
        (auth("%%%"), "incorrect-encoding"),
        (auth("é"), "incorrect-encoding"),
        (auth("dHliYWx0LmV4YW1wbGU="), "invalid-authzid"),
        (f"<abort xmlns='{SASL}'/>", "aborted"),
    ],
)
def test_sasl_failures_leave_the_stream_open(request_, condition) -> None:
    stream = opened()
    assert f"<{condition}/>" in told(stream, request_)
    assert stream.events_received() == [] and stream.state is State.NEGOTIATING
    assert told(stream, auth()) == f"<success xmlns='{SASL}'/>"


def test_external_that_was_not_offered_is_refused_with_the_reason() -> None:
    stream = opened(external=False, reason="the certificate is expired")
    assert "<not-authorized/><text xml:lang='en'>the certificate is expired" in told(stream, auth())


def test_guessing_has_an_end() -> None:
    stream = opened()
    for _ in range(MAX_AUTH_ATTEMPTS):
        told(stream, auth("%%%"))
    told(stream, auth())
    assert stream.events_received()[0].condition is StreamCondition.POLICY_VIOLATION


def test_after_authentication_a_second_one_makes_no_sense() -> None:
    stream = established().receiving
    told(stream, auth())
    assert stream.events_received()[0].condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


def test_before_tls_nothing_but_starttls_counts() -> None:
    def opened_on_tcp() -> ReceivingStream:
        stream = receiving(TCP, offer_tls=True)
        stream.receive(TCP_OPEN)
        assert b"".join(stream.data_to_send()).endswith(
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
            b"</stream:features>"
        )
        return stream

    stream = opened_on_tcp()
    stream.receive(auth().encode())
    assert stream.data_to_send() == [
        f"<failure xmlns='{SASL}'><encryption-required/></failure>".encode()
    ]
    for text in (db("result"), db("verify")):
        stream = opened_on_tcp()
        stream.receive(text.encode())
        assert stream.events_received()[0].condition is StreamCondition.POLICY_VIOLATION


def test_starttls_inside_a_websocket_is_refused() -> None:
    stream = opened()
    told(stream, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    assert stream.events_received()[0].condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


def test_bidi_that_was_not_offered_is_ignored() -> None:
    stream = opened()
    assert told(stream, "<bidi xmlns='urn:xmpp:bidi'/>") == ""
    assert stream.state is State.NEGOTIATING


# Dialback results (XEP-0220 §2.1.1, §2.2.1, §2.5).


@pytest.mark.parametrize(
    ("dialback", "sender", "target", "condition"),
    [
        (False, CAPULET, MONTAGUE, "not-authorized"),
        (True, CAPULET, "nowhere.example", "item-not-found"),
        (True, MONTAGUE, MONTAGUE, "not-acceptable"),
    ],
)
def test_refused_keys_are_answered_and_the_stream_stays(
    dialback, sender, target, condition
) -> None:
    stream = opened(dialback=dialback)
    answer = told(stream, db("result", sender, target))
    assert f"from='{target}' to='{sender}' type='error'" in answer
    assert f"<{condition} " in answer
    assert stream.events_received() == [] and stream.state is State.NEGOTIATING


def test_a_key_is_verified_once_however_often_it_is_sent() -> None:
    stream = opened()
    answers = told(stream, *[db("result")] * 5)
    assert stream.events_received() == [DialbackKeyReceived(CAPULET, MONTAGUE, "k")]
    assert answers.count("<resource-constraint ") == 4
    many = opened()
    told(many, *[db("result", f"d{n}.example") for n in range(100)])
    assert len(many.events_received()) == 64


def test_a_valid_key_authenticates_without_a_restart() -> None:
    stream = opened()
    told(stream, db("result"))
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid", by="certificate")
    assert stream.events_received()[1:] == [
        Authenticated(CAPULET, MONTAGUE, "certificate"),
        StreamEstablished(),
    ]
    told(stream, message("m1"))
    assert stream.events_received()[0].stanzas[0].id == "m1"


def test_an_invalid_key_ends_a_stream_that_has_no_other_pair() -> None:
    stream = opened()
    told(stream, db("result"))
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="invalid")
    first, last = stream.data_to_send()
    assert b"type='invalid'" in first and last.startswith(b"<close")
    other = established().receiving
    other._dialback = True
    told(other, db("result", "rooms.capulet.example"))
    other.answer_dialback(sender="rooms.capulet.example", target=MONTAGUE, outcome="invalid")
    assert other.state is State.ESTABLISHED


def test_results_nobody_waits_for_are_not_written() -> None:
    stream = opened()
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid")
    told(stream, db("result"), db("verify"))
    # The stream restarts for SASL: what was asked on the old one is void.
    told(stream, auth())
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid")
    stream.answer_verify(sender=CAPULET, target=MONTAGUE, id="1", outcome="valid")
    assert stream.data_to_send() == []
    stream = opened()
    told(stream, db("result"))
    stream.close()
    stream.data_to_send()
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid")
    assert stream.data_to_send() == [] and stream.pairs == set()


# Verification for others (XEP-0220 §2.1.2, §2.2.2).


def test_a_question_about_a_key_is_answered_with_its_id_and_swapped_addresses() -> None:
    stream = opened()
    told(stream, db("verify", id="D6"))
    assert stream.events_received() == [VerifyRequested(CAPULET, MONTAGUE, "D6", "k")]
    for _ in range(2):
        stream.answer_verify(
            sender=CAPULET, target=MONTAGUE, id="D6", outcome="error", error="item-not-found"
        )
    (answer,) = stream.data_to_send()
    assert b"from='montague.example' to='capulet.example' id='D6' type='error'" in answer
    assert b"<item-not-found " in answer


def test_questions_are_bounded() -> None:
    stream = opened()
    answers = told(stream, *[db("verify", id=str(n)) for n in range(70)])
    assert len(stream.events_received()) == 64
    assert answers.count("type='error'><error type='wait'><resource-constraint ") == 6


@pytest.mark.parametrize("text", [db("verify"), db("result"), auth()])
def test_nothing_is_answered_before_the_header(text) -> None:
    stream = receiving()
    stream.receive([text.encode()])
    assert stream.events_received()[0].condition is StreamCondition.NOT_AUTHORIZED
    assert stream.data_to_send()[0].startswith(b"<open ")


def test_an_address_that_is_none_is_improper() -> None:
    stream = opened()
    told(stream, db("result", sender="a..b"))
    failed, closed = stream.events_received()
    assert failed.condition is StreamCondition.IMPROPER_ADDRESSING
    assert closed == StreamClosed(clean=False)


def test_a_stranger_cannot_fill_the_memory_with_names() -> None:
    stream = opened()
    for number in range(200):
        attributes = "".join(f" a{number}-{n}=''" for n in range(12))
        told(stream, f"<db:result xmlns='jabber:server' {attributes}/>")
    assert stream.state is State.CLOSED


@pytest.mark.parametrize(("leg", "header"), [(WEBSOCKET, OPEN), (TCP, TCP_OPEN)])
def test_stanzas_may_come_in_one_read_with_the_header_after_the_proof(
    leg: str, header: bytes
) -> None:
    stream = receiving(leg, offer_tls=False)
    stream.receive([header] if leg == WEBSOCKET else header)
    stream.offer(external=True, dialback=False)
    stream.receive([auth().encode()] if leg == WEBSOCKET else auth().encode())
    stream.events_received()
    read = [header, *(message(f"m{number}").encode() for number in range(500))]
    stream.receive(read if leg == WEBSOCKET else b"".join(read))
    established, received = stream.events_received()
    assert established == StreamEstablished()
    assert isinstance(received, StanzasReceived) and len(received.stanzas) == 500


def test_what_we_ask_of_a_stream_in_the_wrong_state_changes_nothing() -> None:
    stream = receiving()
    with pytest.raises(LocalProtocolError):
        stream.offer(external=True, dialback=True)
    with pytest.raises(LocalProtocolError):
        stream.tls_established(0.0)
    assert stream.data_to_send() == [] and stream.state is State.WAIT_HEADER
    stream.receive([OPEN])
    stream.offer(external=True, dialback=False)
    told(stream, auth())
    stream.receive([OPEN])
    assert isinstance(stream.events_received()[-1], StreamEstablished)
