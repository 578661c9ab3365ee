"""What XEP-0468 leaves open, decided: one test for each choice that the stream itself makes.

The numbers are those of the list of ambiguities in the protocol notes. The others are decided by
discovery, certificates and the WebSocket handshake.
"""

import pytest

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    LEGS,
    MONTAGUE,
    SECRET,
    TCP,
    StreamPair,
    established,
    initiating,
    message,
    receiving,
    stanza,
)
from workers.xmpp.dialback import dialback_key
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
    StreamOpened,
)
from workers.xmpp.stream import ServerStream, State

CLIENT_CLOSE = b'<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />'
SERVER_CLOSE = b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing-server'/>"
PLAIN_OPEN = (
    b"<open version='1.0' to='montague.example' id=\"\" from=\"capulet.example\""
    b"\n xmlns='urn:ietf:params:xml:ns:xmpp-framing-server'></open>"
)


def kinds(stream: ServerStream) -> list[type]:
    return [type(event) for event in stream.events_received()]


def test_a03_stanzas_keep_the_server_namespace_only_open_and_close_change() -> None:
    pair = established()
    pair.initiating.send_stanzas([stanza(message("m1"))])
    pair.run()
    (event,) = pair.events("R", StanzasReceived)
    assert b'xmlns="jabber:server"' in event.stanzas[0].data or (
        b"xmlns='jabber:server'" in event.stanzas[0].data
    )
    assert b"xmpp-framing" not in event.stanzas[0].data


@pytest.mark.parametrize("close", [CLIENT_CLOSE, SERVER_CLOSE])
def test_a04_close_in_either_framing_namespace_is_accepted_and_ours_is_the_servers(close) -> None:
    pair = established()
    pair.receiving.receive([close])
    assert pair.receiving.events_received() == [StreamClosed(clean=True)]
    assert pair.receiving.data_to_send() == [SERVER_CLOSE]


def test_a05_dialback_with_an_undeclared_prefix_is_read_and_ours_is_declared() -> None:
    stream = receiving(ids=["D60000229F"])
    stream.receive([PLAIN_OPEN])
    stream.offer(external=False, dialback=True)
    assert b"xmlns:db='jabber:server:dialback'" in b"".join(stream.data_to_send())
    stream.receive(
        [
            b"<db:result from='capulet.example' to='montague.example' xmlns='jabber:server'>"
            b"KEY</db:result>"
        ]
    )
    assert stream.events_received()[-1] == DialbackKeyReceived(CAPULET, MONTAGUE, "KEY")
    stream.answer_dialback(sender=CAPULET, target=MONTAGUE, outcome="valid")
    assert b"<db:result xmlns='jabber:server' xmlns:db=" in stream.data_to_send()[0]


def test_a05_dialback_is_tried_where_no_feature_announces_it() -> None:
    stream = initiating()
    stream.open()
    stream.receive(
        [
            PLAIN_OPEN.replace(b'id=""', b"id='x'")
            .replace(b"montague.example", b"here")
            .replace(b"capulet.example", b"montague.example"),
            b"<stream:features xmlns='jabber:server'/>",
        ]
    )
    key = dialback_key(SECRET, receiving=MONTAGUE, originating=CAPULET, stream_id="x")
    assert key.encode() in stream.data_to_send()[-1]


def test_a06_open_in_any_spelling_is_read_and_ours_is_what_bytes_are_matched_with() -> None:
    stream = receiving()
    stream.receive([b"\n" + PLAIN_OPEN])
    assert kinds(stream) == [StreamOpened]
    stream.offer(external=True, dialback=False)
    header = stream.data_to_send()[0]
    assert header.startswith(b"<open xmlns='") and header.endswith(b"/>")
    assert header.count(b">") == 1 and b" from='" in header and b" to='" in header


def test_a07_features_without_prefix_are_read_and_ours_have_it() -> None:
    stream = initiating()
    stream.open()
    stream.data_to_send()
    stream.receive(
        [
            PLAIN_OPEN.replace(b"to=", b"x=").replace(b"capulet", b"montague"),
            b"<features xmlns='http://etherx.jabber.org/streams'><mechanisms"
            b" xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
            b"</mechanisms></features>",
        ]
    )
    assert b"mechanism='EXTERNAL'" in stream.data_to_send()[0]
    pair = established()
    assert b"<stream:features xmlns='jabber:server' xmlns:stream=" in pair.written("R")


def test_a08_the_stream_prefix_need_not_be_declared_on_open_and_is_on_ours() -> None:
    stream = receiving()
    stream.receive([PLAIN_OPEN])
    assert kinds(stream) == [StreamOpened]
    stream.offer(external=True, dialback=False)
    assert b"xmlns:stream='http://etherx.jabber.org/streams'" in stream.data_to_send()[0]


def test_a09_a_client_at_our_path_hears_invalid_namespace() -> None:
    stream = receiving()
    stream.receive([PLAIN_OPEN.replace(b"-server'", b"'")])
    assert [event.condition for event in stream.events_received()[:1]] == [
        StreamCondition.INVALID_NAMESPACE
    ]


def test_a14_dialback_is_used_where_external_is_not_offered() -> None:
    pair = StreamPair(external=False, dialback=True)
    pair.initiating.open()
    pair.run()
    assert pair.events("R", Authenticated) == [Authenticated(CAPULET, MONTAGUE, "dialback")]
    assert pair.initiating.state is State.ESTABLISHED is pair.receiving.state


@pytest.mark.parametrize("change", [(b"capulet", b"tybalt"), (b"montague", b"escalus")])
def test_a16_from_and_to_stay_the_same_over_a_restart_and_the_id_does_not(change) -> None:
    stream = receiving(hosts=frozenset({MONTAGUE, "escalus.example"}))
    stream.receive([PLAIN_OPEN])
    stream.offer(external=True, dialback=False)
    first = stream.id
    stream.receive(
        [b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"]
    )
    stream.data_to_send()
    stream.receive([PLAIN_OPEN.replace(*change)])
    assert stream.events_received()[-2] == StreamFailed(
        StreamCondition.IMPROPER_ADDRESSING, "from and to may not change at a restart", False
    )
    # The header that precedes the error is that of the new stream, between the old addresses.
    assert stream.id != first
    assert b"from='montague.example' to='capulet.example'" in stream.data_to_send()[0]


def test_a17_see_other_uri_is_reported_whenever_the_peer_closes_with_it() -> None:
    for stream in (initiating(), established().initiating):
        if stream.state is State.START:
            stream.open()
        stream.receive([SERVER_CLOSE.replace(b"/>", b" see-other-uri='wss://gw2.example/x'/>")])
        assert stream.events_received()[-1].see_other_uri == "wss://gw2.example/x"


def test_a18_bare_close_answers_open_at_overload_and_errors_follow_our_open() -> None:
    busy = receiving()
    busy.receive([PLAIN_OPEN])
    busy.close()
    assert busy.data_to_send() == [SERVER_CLOSE]
    busy.receive([CLIENT_CLOSE])
    assert busy.events_received()[-1] == StreamClosed(clean=True, answered=True)
    strict = receiving()
    strict.receive([PLAIN_OPEN])
    strict.fail(StreamCondition.NOT_AUTHORIZED, "no certificate")
    assert [data[:6] for data in strict.data_to_send()] == [b"<open ", b"<strea", b"<close"]


def test_a18_tcp_has_no_bare_close() -> None:
    stream = receiving(TCP)
    stream.close()
    assert stream.data_to_send() == []
    assert stream.events_received() == [StreamClosed(clean=True)]


@pytest.mark.parametrize("leg", LEGS)
def test_a19_loss_after_a_closing_tag_is_clean_and_before_it_is_not(leg) -> None:
    closing, cut = established(leg), established(leg)
    closing.initiating.close()
    closing.initiating.receive_eof()
    cut.initiating.receive_eof()
    assert closing.initiating.events_received() == [StreamClosed(clean=True)]
    assert cut.initiating.events_received() == [StreamClosed(clean=False)]


@pytest.mark.parametrize("leg", LEGS)
def test_a20_whitespace_between_stanzas_is_nothing(leg) -> None:
    pair = established(leg)
    pair.receiving.receive(b" \n" if leg == TCP else [b" ", b"\n"])
    assert pair.run() == [] and pair.receiving.state is State.ESTABLISHED


def test_a21_a_websocket_peer_without_limits_gets_262144_bytes_at_most() -> None:
    stream = initiating()
    stream.open()
    stream.receive(
        [
            PLAIN_OPEN.replace(b"to=", b"x=").replace(b"capulet", b"montague"),
            b"<stream:features xmlns='jabber:server'/>",
        ]
    )
    assert stream.peer_max_bytes == 262144
    assert initiating(TCP).peer_max_bytes == 0


def test_a21_limits_announced_before_dialback_last_after_it() -> None:
    pair = StreamPair(external=False, dialback=True)
    pair.initiating.open()
    pair.run()
    assert pair.initiating.peer_max_bytes == 262144
    strict = StreamPair(external=True, dialback=False)
    strict.initiating.open()
    strict.run()
    assert b"<max-bytes>8192</max-bytes>" in strict.written("R")
    assert strict.initiating.peer_max_bytes == 262144


def test_a25_without_bidi_a_stream_goes_one_way() -> None:
    pair = established()
    pair.initiating.receive(
        [message("m2", sender=f"romeo@{MONTAGUE}", target=f"juliet@{CAPULET}").encode()]
    )
    assert [type(event) for event in pair.initiating.events_received()] == [
        StreamFailed,
        StreamClosed,
    ]


def test_a26_several_sender_domains_share_a_stream() -> None:
    pair = established()
    pair.receiving._dialback = True
    rooms = f"rooms.{CAPULET}"
    pair.receiving.receive(
        [
            b"<db:result xmlns='jabber:server' xmlns:db='jabber:server:dialback'"
            b" from='rooms.capulet.example' to='montague.example'>KEY</db:result>"
        ]
    )
    pair.receiving.answer_dialback(sender=rooms, target=MONTAGUE, outcome="valid")
    pair.receiving.receive([message("m1").encode(), message("m2", sender=rooms).encode()])
    events = pair.receiving.events_received()
    assert [s.id for s in events[-1].stanzas] == ["m1", "m2"]


def test_a26_one_websocket_carries_one_stream() -> None:
    stream = receiving()
    stream.receive([PLAIN_OPEN, PLAIN_OPEN])
    assert stream.events_received()[1].condition is StreamCondition.CONFLICT


def test_a27_starttls_is_neither_offered_nor_taken_up_on_a_websocket() -> None:
    stream = initiating()
    stream.open()
    stream.data_to_send()
    stream.receive(
        [
            PLAIN_OPEN.replace(b"to=", b"x=").replace(b"capulet", b"montague"),
            b"<stream:features xmlns='jabber:server'><starttls"
            b" xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls><mechanisms"
            b" xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>"
            b"</mechanisms></stream:features>",
        ]
    )
    assert b"mechanism='EXTERNAL'" in stream.data_to_send()[0]
    assert b"starttls" not in established().written("R")


def test_a28_domains_are_compared_as_a_labels() -> None:
    stream = receiving(hosts=frozenset({"xn--mnchen-3ya.example"}))
    stream.receive([PLAIN_OPEN.replace(b"montague", "München".encode())])
    (opened,) = stream.events_received()
    assert opened.target == "xn--mnchen-3ya.example"


def test_a30_an_id_on_the_initiators_open_is_ignored() -> None:
    stream = receiving(ids=["ours"])
    stream.receive([PLAIN_OPEN.replace(b'id=""', b"id='theirs'")])
    stream.offer(external=True, dialback=False)
    assert b" id='ours'" in stream.data_to_send()[0]
    assert b" id=" not in established().wire[0][1]


def test_a_stream_that_needs_no_authentication_is_established_at_once() -> None:
    pair = StreamPair(initiating_options={"verify_only": True}, external=True)
    pair.initiating.open()
    assert [type(event) for side, event in pair.run() if side == "I"] == [StreamEstablished]
