"""What no peer may do, tried from several starting states: one stream error, and no stanza."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    LEGS,
    MONTAGUE,
    TCP,
    WEBSOCKET,
    StreamPair,
    initiating,
    message,
    receiving,
)
from workers.xmpp.events import (
    StanzaRefused,
    StanzasReceived,
    StreamClosed,
    StreamFailed,
)
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
WS_OPEN = f"<open xmlns='{FRAMING}' from='{CAPULET}' to='{MONTAGUE}' version='1.0'/>"
TCP_OPEN = (
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
    f" xmlns:db='jabber:server:dialback' from='{CAPULET}' to='{MONTAGUE}' version='1.0'>"
)
OPEN = {WEBSOCKET: WS_OPEN, TCP: TCP_OPEN}
AUTH = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"

STARTS = ("fresh", "opened", "after TLS", "after authentication", "dialback")


def feed(stream: ReceivingStream, leg: str, data: bytes) -> None:
    stream.receive(data if leg == TCP else [data])


def started(leg: str, start: str) -> ReceivingStream:
    """A receiving stream brought to a starting state, everything so far drained."""
    tls = leg == TCP and start != "opened"
    stream = receiving(leg, offer_tls=tls)
    if start != "fresh":
        feed(stream, leg, OPEN[leg].encode())
        if tls:
            feed(stream, leg, STARTTLS.encode())
            stream.tls_established(0.0)
            feed(stream, leg, OPEN[leg].encode())
        stream.offer(external=True, dialback=start == "dialback")
    if start == "after authentication":
        feed(stream, leg, AUTH.encode())
        feed(stream, leg, OPEN[leg].encode())
    elif start == "dialback":
        key = (
            "<db:result xmlns='jabber:server' xmlns:db='jabber:server:dialback'"
            f" from='{CAPULET}' to='{MONTAGUE}'>KEY</db:result>"
        )
        feed(stream, leg, key.encode())
        stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid")
    stream.events_received()
    stream.data_to_send()
    return stream


def refusal(stream: ReceivingStream, leg: str, data: bytes) -> str:
    """Feed it; there must be one error, the last thing, with a closing tag, and no stanza."""
    opened = stream.state is not State.WAIT_HEADER
    feed(stream, leg, data)
    events = stream.events_received()
    assert not any(isinstance(event, StanzasReceived) for event in events)
    failed, closed = events[-2:]
    assert isinstance(failed, StreamFailed) and not failed.by_peer
    assert closed == StreamClosed(clean=False)
    written = b"".join(stream.data_to_send())
    assert written.count(b"<stream:error ") == 1
    assert f"<{failed.condition.value} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>".encode() in (
        written
    )
    assert written.endswith(
        b"</stream:stream>" if leg == TCP else f"<close xmlns='{FRAMING}'/>".encode()
    )
    # RFC 7395 §3.5, RFC 6120 §4.9.1.2: a header of ours precedes the error.
    assert (b"<open " in written or b"<stream:stream " in written) is not opened
    assert stream.state is State.CLOSED
    feed(stream, leg, data)
    stream.receive_eof()
    assert stream.events_received() == [] and stream.data_to_send() == []
    return failed.condition.value


M = message("m1")
DEEP = "<message xmlns='jabber:server' from='a@capulet.example' to='b@montague.example'>"
ANYWHERE = {
    "comment": ("<!-- x -->" + M, "restricted-xml"),
    "comment inside": (M.replace("hi", "<!-- x -->"), "restricted-xml"),
    "instruction": ("<?x y?>" + M, "restricted-xml"),
    "document type": ("<!DOCTYPE x>" + M, "restricted-xml"),
    "entity": (M.replace("hi", "&nbsp;"), "not-well-formed"),
    "crossed tags": (M.replace("<body>", "<body><b>"), "not-well-formed"),
    "invalid UTF-8": (M.replace("hi", "\udcff\udcfe"), "not-well-formed"),
    "UTF-16": ("\udcff\udcfe<\0o\0p\0e\0n\0", "unsupported-encoding"),
}
EARLY = ("fresh", "opened", "after TLS")
LATE = ("after authentication", "dialback")


def octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# On TCP bytes before the header are judged by it, and a foreign encoding only there.
HEADER_ONLY = {"crossed tags", "entity", "invalid UTF-8", "comment inside"}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("name", ANYWHERE)
def test_bad_xml_is_refused_in_every_state(name, leg, start) -> None:
    text, condition = ANYWHERE[name]
    if leg == TCP and start == "fresh" and name in HEADER_ONLY:
        condition = "bad-format"
    elif leg == TCP and name == "UTF-16" and start != "fresh":
        condition = "not-well-formed"
    assert refusal(started(leg, start), leg, octets(text)) == condition


OTHERS = {
    "stanza of a client": (M.replace("jabber:server", "jabber:client"), "invalid-namespace"),
    "unknown element": ("<x xmlns='urn:example:x'/>", "unsupported-stanza-type"),
    "without from": (M.replace(" from=", " x="), "improper-addressing"),
    "without to": (M.replace(" to=", " x="), "improper-addressing"),
    "invalid to": (M.replace("romeo@", "ro@meo@"), "improper-addressing"),
    "text": ("text" + M, "bad-format"),
}


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("name", OTHERS)
def test_bad_stanzas_are_refused_after_authentication(name, leg, start) -> None:
    text, condition = OTHERS[name]
    if leg == WEBSOCKET and name == "text":
        condition = "not-well-formed"
    assert refusal(started(leg, start), leg, text.encode()) == condition


@pytest.mark.parametrize("start", EARLY)
@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize(
    "text",
    [
        M,
        "<iq xmlns='jabber:server' type='get' id='1' from='capulet.example'"
        " to='montague.example'/>",
    ],
)
def test_stanza_before_authentication_is_not_authorized(text, leg, start) -> None:
    condition = "bad-format" if (leg, start) == (TCP, "fresh") else "not-authorized"
    assert refusal(started(leg, start), leg, text.encode()) == condition


@pytest.mark.parametrize("leg", LEGS)
def test_stanza_between_success_and_the_new_header_is_refused(leg) -> None:
    stream = started(leg, "after TLS")
    feed(stream, leg, AUTH.encode())
    stream.data_to_send()
    condition = refusal(stream, leg, M.encode())
    assert condition == ("bad-format" if leg == TCP else "not-authorized")


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("leg", LEGS)
def test_addresses_outside_the_authenticated_pair_are_refused(leg, start) -> None:
    foreign = message("m1", sender="tybalt@escalus.example")
    assert refusal(started(leg, start), leg, foreign.encode()) == "invalid-from"
    relayed = message("m1", target="friar@escalus.example")
    assert refusal(started(leg, start), leg, relayed.encode()) == "host-unknown"


@pytest.mark.parametrize("leg", LEGS)
def test_good_stanzas_before_a_bad_one_in_one_read_are_kept(leg) -> None:
    stream = started(leg, "after authentication")
    bad = message("m2", sender="tybalt@escalus.example").encode()
    stream.receive(M.encode() + bad if leg == TCP else [M.encode(), bad, M.encode()])
    received, failed, _ = stream.events_received()
    assert [stanza.id for stanza in received.stanzas] == ["m1"]
    assert failed.condition.value == "invalid-from"


HEADERS = {
    "no from": (" from='capulet.example'", "", "improper-addressing"),
    "no to": (" to='montague.example'", "", "improper-addressing"),
    "invalid from": ("capulet.example", "a..b", "improper-addressing"),
    "a domain that is not here": ("montague.example", "nowhere.example", "host-unknown"),
    "our own domain": ("capulet.example", "montague.example", "undefined-condition"),
    "no version": (" version='1.0'", "", "unsupported-version"),
    "a version to come": ("'1.0'", "'2.0'", "unsupported-version"),
}


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("name", HEADERS)
def test_bad_headers_are_answered_with_a_header_and_an_error(name, leg) -> None:
    old, new, condition = HEADERS[name]
    header = OPEN[leg].replace(old, new, 1)
    assert refusal(started(leg, "fresh"), leg, header.encode()) == condition


@pytest.mark.parametrize(
    ("leg", "header"),
    [
        (WEBSOCKET, WS_OPEN.replace("-server'", "'")),
        (WEBSOCKET, WS_OPEN.replace(FRAMING, "jabber:server")),
        (TCP, TCP_OPEN.replace("xmlns='jabber:server'", "xmlns='jabber:client'")),
        (TCP, TCP_OPEN.replace("etherx", "example")),
    ],
)
def test_headers_in_a_wrong_namespace_are_refused(leg, header) -> None:
    assert refusal(started(leg, "fresh"), leg, header.encode()) == "invalid-namespace"


@pytest.mark.parametrize("start", ["opened", "after TLS", *LATE])
def test_a_second_open_is_a_conflict(start) -> None:
    assert refusal(started(WEBSOCKET, start), WEBSOCKET, WS_OPEN.encode()) == "conflict"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("text", [M + M, M + "x", "x" + M, M[:-1], "</r>" + M])
def test_a_message_is_one_element(text, start) -> None:
    assert refusal(started(WEBSOCKET, start), WEBSOCKET, text.encode()) == "not-well-formed"


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("leg", LEGS)
def test_size_depth_and_number_of_elements_are_limited(leg, start) -> None:
    """A complete stanza of a known pair is refused in its place; the stream goes on."""
    deep = DEEP + "<a>" * 300 + "</a>" * 300 + "</message>"
    many = DEEP + "<a/>" * 10_001 + "</message>"
    ambiguous = M.replace(f"@{MONTAGUE}", f"@{MONTAGUE}..")
    for text in (deep, many, ambiguous):
        stream = started(leg, start)
        for data in (M, text, M):
            feed(stream, leg, data.encode())
        one, refused, other = stream.events_received()
        assert isinstance(one, StanzasReceived) and isinstance(other, StanzasReceived)
        assert isinstance(refused, StanzaRefused) and refused.stanza.data == b""
        assert stream.received.pending == 3 and stream.data_to_send() == []


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("leg", LEGS)
def test_a_stanza_that_never_ends_or_fills_too_large_a_frame_ends_the_stream(leg, start) -> None:
    large = M.replace("hi", "x" * (600_000 if leg == WEBSOCKET else 2_200_000))
    stream = started(leg, start)
    if leg == TCP:
        feed(stream, leg, large[:2_100_000].encode())
        large = large[2_100_000:-20]
    assert refusal(stream, leg, large.encode()) == "policy-violation"


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("leg", LEGS)
def test_a_refused_stanza_must_be_of_the_pair_as_well(leg, start) -> None:
    deep = DEEP + "<a>" * 300 + "</a>" * 300 + "</message>"
    for text in (deep, M.replace(f"@{MONTAGUE}", f"@{MONTAGUE}..")):
        text = text.replace(f"@{CAPULET}", "@verona.example")
        assert refusal(started(leg, start), leg, text.encode()) == "invalid-from"


@pytest.mark.parametrize("start", ["opened", "after TLS"])
@pytest.mark.parametrize("leg", LEGS)
def test_limits_before_authentication_are_tighter(leg, start) -> None:
    large = M.replace("hi", "x" * 20_000)
    assert refusal(started(leg, start), leg, large.encode()) == "policy-violation"


@pytest.mark.parametrize("start", ["opened", *LATE])
@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("name", ["result", "verify"])
@pytest.mark.parametrize("outcome", ["valid", "invalid", "error"])
def test_dialback_answers_to_no_question_are_dropped(outcome, name, leg, start) -> None:
    stream = started(leg, start)
    before = stream.state
    answer = (
        f"<db:{name} xmlns='jabber:server' xmlns:db='jabber:server:dialback' id='x'"
        f" from='{CAPULET}' to='{MONTAGUE}' type='{outcome}'/>"
    )
    feed(stream, leg, answer.encode())
    assert stream.events_received() == [] and stream.data_to_send() == []
    assert stream.state is before
    if start == "opened":
        assert refusal(stream, leg, M.encode()) == "not-authorized"


CLOSE = {WEBSOCKET: f"<close xmlns='{FRAMING}'/>", TCP: "</stream:stream>"}


@pytest.mark.parametrize("start", STARTS[1:])
@pytest.mark.parametrize("leg", LEGS)
def test_closing_is_in_order_and_loss_is_not_in_every_state(leg, start) -> None:
    closed, lost = started(leg, start), started(leg, start)
    feed(closed, leg, CLOSE[leg].encode())
    assert closed.events_received() == [StreamClosed(clean=True)]
    assert b"".join(closed.data_to_send()).decode() == CLOSE[leg]
    lost.receive_eof()
    assert lost.events_received() == [StreamClosed(clean=False)]
    assert lost.data_to_send() == []


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("leg", LEGS)
def test_a_byte_order_mark_is_refused(leg, start) -> None:
    text = ("\ufeff" + (OPEN[leg] if start == "fresh" else M)).encode()
    condition = "bad-format" if leg == TCP and start != "fresh" else "not-well-formed"
    assert refusal(started(leg, start), leg, text) == condition


# Whatever comes, whole or split, in any state of either role.

PIECES = [
    *(text for text, _ in ANYWHERE.values()),
    *(text for text, _ in OTHERS.values()),
    *(M, M + M, AUTH, STARTTLS, WS_OPEN, TCP_OPEN, *CLOSE.values()),
    "<stream:features xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'/>",
    "<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>",
    *(f"<{name} xmlns='urn:xmpp:sm:3' h='1'/>" for name in ("enable", "enabled", "r", "a")),
    *(f"<{name} xmlns='urn:xmpp:sm:3'/>" for name in ("a", "resume", "resumed", "failed")),
    *(
        f"<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>é</{name}>"
        for name in ("auth", "abort", "success", "failure", "challenge", "response")
    ),
    *(f"<{name} xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" for name in ("proceed", "failure")),
    *(
        f"<d:{name} xmlns:d='jabber:server:dialback'{addresses}{kind}>K</d:{name}>"
        for name in ("result", "verify")
        for addresses in (
            "",
            f" from='{CAPULET}' to='{MONTAGUE}'",
            f" from='{MONTAGUE}' to='{CAPULET}'",
        )
        for kind in ("", " type='valid'", " type='error'")
    ),
]
anything = st.lists(
    st.one_of(
        st.sampled_from(PIECES).map(octets),
        st.binary(max_size=40),
        st.text(alphabet="<>/'=&; abc:xmlns!?-[]\n", max_size=40).map(str.encode),
    ),
    max_size=8,
)


def check_survival(stream, leg, data: list[bytes], step: int) -> None:
    if leg == TCP:
        whole = b"".join(data)
        for at in range(0, len(whole), step):
            stream.receive(whole[at : at + step])
    else:
        for at in range(0, len(data), step):
            stream.receive(data[at : at + step])
    stream.receive_eof()
    kinds = [type(event) for event in stream.events_received()]
    assert kinds.count(StreamClosed) == 1 and kinds[-1] is StreamClosed
    assert kinds.count(StreamFailed) <= 1
    assert b"".join(stream.data_to_send()).count(b"<stream:error ") <= 1


@settings(max_examples=150, deadline=None)
@given(
    leg=st.sampled_from(LEGS), start=st.sampled_from(STARTS), data=anything, step=st.integers(1, 99)
)
def test_any_bytes_end_a_receiving_stream_in_order(leg, start, data, step) -> None:
    check_survival(started(leg, start), leg, data, step)


@settings(max_examples=150, deadline=None)
@given(
    leg=st.sampled_from(LEGS),
    stage=st.sampled_from(["opened", "established", "closing"]),
    data=anything,
    step=st.integers(1, 99),
)
def test_any_bytes_end_an_initiating_stream_in_order(leg, stage, data, step) -> None:
    if stage == "opened":
        stream = initiating(leg)
        stream.open()
    else:
        stream = StreamPair(leg).open().initiating
        if stage == "closing":
            stream.close()
    stream.data_to_send()
    check_survival(stream, leg, data, step)
