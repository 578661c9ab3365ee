"""A component stream (XEP-0114) against bytes as Prosody and ejabberd write them."""

import hashlib

import pytest

from coordinator.config import Limits
from workers.xmpp import elements
from workers.xmpp.component import ComponentStream
from workers.xmpp.errors import LocalProtocolError, StanzaCondition, StreamCondition
from workers.xmpp.events import (
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
)
from workers.xmpp.stanza import Stanza, bounce
from workers.xmpp.stream import State, StreamConfig

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "
    b"xmlns:stream='http://etherx.jabber.org/streams' from='remote.example' id='i&amp;1'>"
)
MESSAGE = b"<message to='bob@remote.example' from='alice@local.example/r1' id='m1'>%b</message>"


def make(remote: str = "remote.example", **limits: int) -> ComponentStream:
    return ComponentStream(
        StreamConfig(limits=Limits(**limits)),
        0.0,
        remote=remote,
        locals=("local.example", "rooms.local.example"),
        secret="s3cret",
    )


def connected(remote: str = "remote.example", **limits: int) -> ComponentStream:
    stream = make(remote, **limits)
    stream.open()
    stream.receive(HEADER)
    stream.receive(b"<handshake/>")
    stream.events_received()
    stream.data_to_send()
    return stream


def received(stream: ComponentStream, data: bytes) -> list[Event]:
    stream.receive(data)
    return stream.events_received()


def stanza(data: bytes, sender: str = "bob@remote.example") -> Stanza:
    return Stanza(
        "message",
        data,
        sender,
        "alice@local.example",
        None,
        None,
        "remote.example",
        "local.example",
    )


def test_handshake() -> None:
    stream = make()
    stream.open()
    assert stream.data_to_send() == [
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept'"
        b" xmlns:stream='http://etherx.jabber.org/streams' to='remote.example'>"
    ]
    stream.receive(HEADER)
    proof = hashlib.sha1(b"i&1s3cret").hexdigest()
    assert stream.data_to_send() == [f"<handshake>{proof}</handshake>".encode()]
    assert stream.state is State.AUTHENTICATING
    assert StreamEstablished() in received(stream, b"<handshake/>")
    assert (stream.state, stream.authenticated_by) == (State.ESTABLISHED, "component")


@pytest.mark.parametrize("namespace", [b"", b" xmlns='jabber:component:accept'"])
def test_what_comes_in_is_a_stanza_like_all_others(namespace: bytes) -> None:
    stream = connected()
    data = MESSAGE % b"<body>hi</body>"
    data = data.replace(b"<message", b"<message" + namespace)
    (event,) = received(stream, data)
    assert isinstance(event, StanzasReceived)
    assert not event.resendable
    (got,) = event.stanzas
    assert got.data.replace(b"'", b'"') == (
        b'<message xmlns="jabber:server" to="bob@remote.example" from="alice@local.example/r1" '
        b'id="m1"><body>hi</body></message>'
    )
    assert (got.sender_domain, got.target_domain) == ("local.example", "remote.example")


def test_content_in_the_streams_namespace_follows_and_payload_does_not() -> None:
    stream = connected()
    (event,) = received(
        stream,
        MESSAGE % b"<body xmlns='jabber:component:accept'>hi</body><x xmlns='urn:x'><y "
        b"xmlns='jabber:component:accept'/></x>",
    )
    assert isinstance(event, StanzasReceived)
    assert event.stanzas[0].data.endswith(
        b'><body>hi</body><x xmlns="urn:x"><y xmlns="jabber:component:accept"/></x></message>'
    )


def test_what_goes_out_is_in_the_components_namespace() -> None:
    stream = connected()
    stream.send_stanzas(
        [stanza(b"<message xmlns='jabber:server' from='bob@remote.example'><body/></message>")]
    )
    assert stream.data_to_send() == [
        b"<message xmlns='jabber:component:accept' from='bob@remote.example'><body/></message>"
    ]


def test_an_error_of_ours_goes_out_in_it_too() -> None:
    stream = connected()
    (event,) = received(stream, MESSAGE % b"<body>hi</body>")
    assert isinstance(event, StanzasReceived)
    reply = bounce(event.stanzas[0], StanzaCondition.REMOTE_SERVER_TIMEOUT, "away")
    assert reply is not None
    stream.send_stanzas([reply])
    (data,) = stream.data_to_send()
    assert data.startswith(b"<message xmlns='jabber:component:accept' from='bob@remote.example'")
    assert b"jabber:server" not in data


@pytest.mark.parametrize("sender", ["bob@Remote.Example/x", "bob@remote.example./x"])
def test_the_sender_is_spelt_as_the_component(sender: str) -> None:
    stream = connected()
    data = f"<message xmlns='jabber:server' from='{sender}'><body/></message>".encode()
    stream.send_stanzas([stanza(data, sender)])
    assert stream.data_to_send() == [
        b'<message xmlns="jabber:component:accept" from="bob@remote.example/x"><body/></message>'
    ]


def test_an_international_domain_is_spelt_as_servers_do() -> None:
    stream = connected("xn--mnchen-3ya.example")
    assert stream.name == "münchen.example"
    stream.send_element(b"<iq xmlns='jabber:server' from='xn--mnchen-3ya.example' id='1'/>")
    assert stream.data_to_send() == [
        '<iq xmlns="jabber:component:accept" from="münchen.example" id="1"'
        ' to="local.example"/>'.encode()
    ]
    (event,) = received(
        stream, (MESSAGE % b"").replace(b"remote.example", "münchen.example".encode())
    )
    assert isinstance(event, StanzasReceived)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (StreamCondition.HOST_UNKNOWN, "remote.example does not match any configured components"),
        (StreamCondition.NOT_AUTHORIZED, "Given token does not match calculated token"),
        (StreamCondition.CONFLICT, "Component already connected"),
    ],
)
def test_a_refusal_tells_why(condition: StreamCondition, text: str) -> None:
    stream = make()
    stream.open()
    events = received(
        stream,
        HEADER + b"<stream:error><%b xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        b"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>%b</text></stream:error>"
        b"</stream:stream>" % (condition.value.encode(), text.encode()),
    )
    assert events == [StreamFailed(condition, text, by_peer=True), StreamClosed(clean=False)]
    assert stream.data_to_send()[-1] == b"</stream:stream>"


@pytest.mark.parametrize(
    ("was", "wrong", "reason"),
    [
        (b"alice@local.example", b"alice@other.example", "not a domain of this gateway"),
        (b"bob@remote.example", b"bob@other.example", "this stream is for remote.example"),
    ],
)
def test_a_stanza_of_another_pair_is_refused_alone(was: bytes, wrong: bytes, reason: str) -> None:
    stream = connected()
    good = MESSAGE % b"<body>hi</body>"
    events = received(stream, good + good.replace(was, wrong) + good)
    assert [type(event) for event in events] == [StanzasReceived, StanzaRefused, StanzasReceived]
    assert isinstance(events[1], StanzaRefused)
    assert reason in events[1].reason
    assert stream.state is State.ESTABLISHED


def test_an_oversized_stanza_is_refused_alone() -> None:
    stream = connected(stanza_bytes=10000)
    events = received(stream, MESSAGE % (b"<body>%b</body>" % (b"x" * 20000)))
    assert [type(event) for event in events] == [StanzaRefused]


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"<message to='b@remote.example'/>", StreamCondition.IMPROPER_ADDRESSING),
        (
            MESSAGE.replace(b"id=", b"xmlns='jabber:client' id=") % b"",
            StreamCondition.INVALID_NAMESPACE,
        ),
        (b"<handshake/>", StreamCondition.UNSUPPORTED_STANZA_TYPE),
        (b"<a xmlns='urn:xmpp:sm:3' h='0'/>", StreamCondition.UNSUPPORTED_STANZA_TYPE),
        (b"<!DOCTYPE x>", StreamCondition.RESTRICTED_XML),
        (b"<message></iq>", StreamCondition.NOT_WELL_FORMED),
    ],
)
def test_what_no_server_may_send_ends_the_stream(data: bytes, condition: StreamCondition) -> None:
    stream = connected()
    events = received(stream, data)
    assert [event.condition for event in events if isinstance(event, StreamFailed)] == [condition]


def test_stanzas_before_the_handshake_end_the_stream() -> None:
    stream = make()
    stream.open()
    events = received(stream, HEADER + MESSAGE % b"")
    failure = next(event for event in events if isinstance(event, StreamFailed))
    assert (failure.condition, failure.by_peer) == (StreamCondition.NOT_AUTHORIZED, False)
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([])


def test_another_namespace_is_no_component_port() -> None:
    stream = make()
    stream.open()
    events = received(stream, HEADER.replace(b"jabber:component:accept", b"jabber:server"))
    assert isinstance(events[0], StreamFailed)
    assert events[0].condition is StreamCondition.INVALID_NAMESPACE


def test_closing_in_order_tells_that_all_was_taken() -> None:
    stream = connected()
    stream.close()
    assert stream.data_to_send() == [b"</stream:stream>"]
    events = received(stream, MESSAGE % b"" + b"</stream:stream>")
    assert isinstance(events[0], StanzasReceived)
    assert events[1] == StreamClosed(clean=True, answered=True)


def test_open_once() -> None:
    stream = make()
    stream.open()
    with pytest.raises(LocalProtocolError):
        stream.open()


def test_pings_go_to_the_server_itself_whomever_they_are_for() -> None:
    """Another component of the server may never answer; what counts is how far it has read."""
    stream = connected()
    ping = elements.ping("remote.example", "rooms.local.example", "p1")
    stream.send_element(ping)
    (data,) = stream.data_to_send()
    assert b'to="local.example"' in data
    forged = b"<iq type='result' id='p1' from='eve@rooms.local.example' to='remote.example'/>"
    answer = b"<iq type='result' id='p1' from='local.example' to='remote.example'/>"
    (event,) = received(stream, forged + answer + answer)
    assert isinstance(event, StanzasReceived)
    assert [stanza.sender_domain for stanza in event.stanzas] == [
        "rooms.local.example",
        "rooms.local.example",
        "local.example",
    ]
    assert [stanza.sender for stanza in event.stanzas][1] == "rooms.local.example"
