"""One stream for both directions (XEP-0288) is never wider than what was authenticated."""

import pytest

from coordinator.config import Limits
from tests.workers.xmpp.both_directions_scene import BIDI, BOTH, back, ids, pair
from tests.workers.xmpp.stream_pair import (
    CAPULET,
    LIMITS,
    MONTAGUE,
    StreamPair,
    established,
    receiving,
    stanza,
)
from tests.workers.xmpp.transcript_scene import FRAMING
from workers.xmpp.errors import LocalProtocolError, StreamCondition
from workers.xmpp.events import StreamFailed
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State


@pytest.mark.parametrize(
    ("sender", "target", "condition"),
    [
        ("thief.example", CAPULET, StreamCondition.INVALID_FROM),
        (CAPULET, MONTAGUE, StreamCondition.INVALID_FROM),
        (MONTAGUE, "rooms.capulet.example", StreamCondition.HOST_UNKNOWN),
    ],
)
def test_the_receiving_server_speaks_for_itself_alone(sender, target, condition) -> None:
    stream = pair().initiating
    stream.receive([back("m1", sender, target).encode()])
    failed = stream.events_received()[0]
    assert isinstance(failed, StreamFailed) and failed.condition is condition


@pytest.mark.parametrize(
    ("sender", "target"),
    [(CAPULET, MONTAGUE), (MONTAGUE, "rooms.capulet.example"), ("rooms.montague.example", CAPULET)],
)
def test_we_send_back_only_where_the_peer_has_proved_to_be(sender, target) -> None:
    stream = pair().receiving
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([stanza(back("ok")), stanza(back("m1", sender, target))])
    assert stream.data_to_send() == []


def test_pairs_proved_by_dialback_are_opened_one_by_one() -> None:
    streams = pair(external=False, dialback=True)
    stream = streams.receiving
    other = stanza(back("m1", target="rooms.capulet.example"))
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([other])
    stream.receive(
        [
            b"<d:result xmlns:d='jabber:server:dialback' from='rooms.capulet.example'"
            b" to='montague.example'>k</d:result>"
        ]
    )
    stream.answer_dialback(sender="rooms.capulet.example", target=MONTAGUE, outcome="valid")
    stream.data_to_send()
    stream.send_stanzas([other])
    assert stream.data_to_send() == [other.data]


def opened(**options: object) -> ReceivingStream:
    stream = receiving(use_bidi=True, **options)
    stream.receive(
        [f"<open xmlns='{FRAMING}' from='{CAPULET}' to='{MONTAGUE}' version='1.0'/>".encode()]
    )
    stream.offer(external=True, dialback=True)
    stream.data_to_send()
    return stream


def test_nothing_is_sent_back_before_authentication() -> None:
    stream = opened()
    stream.receive([BIDI.encode()])
    with pytest.raises(LocalProtocolError):
        stream.send_stanzas([stanza(back("m1"))])
    assert stream.data_to_send() == []


def test_bidi_after_authentication_ends_the_stream() -> None:
    # Ignored, the peer would wait for stanzas that never come this way.
    streams = StreamPair(receiving_options=dict(BOTH)).open()
    streams.receiving.receive([BIDI.encode()])
    failed = streams.receiving.events_received()[0]
    assert failed.condition is StreamCondition.UNSUPPORTED_STANZA_TYPE
    assert not streams.receiving.bidirectional


@pytest.mark.parametrize(
    ("inner", "limit"),
    [
        ("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>12345</max-bytes></limits>", 12345),
        ("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>many</max-bytes></limits>", 262144),
        ("<limits xmlns='urn:xmpp:stream-limits:0'/>", 262144),
        ("", 262144),
    ],
)
def test_the_limit_of_what_we_send_back_is_inside(inner, limit) -> None:
    stream = opened()
    stream.receive([f"<bidi xmlns='urn:xmpp:bidi'>{inner}</bidi>".encode()])
    assert stream.bidirectional and stream.peer_max_bytes == limit


def test_ours_names_what_we_take() -> None:
    limits = Limits(preauth_bytes=8192, stanza_bytes=54321)
    streams = StreamPair(
        initiating_options={**BOTH, "limits": limits}, receiving_options=dict(BOTH)
    ).open()
    assert streams.receiving.peer_max_bytes == 54321


def test_after_authentication_the_limit_for_strangers_is_off_in_time() -> None:
    streams = pair()
    large = stanza(
        f"<message xmlns='jabber:server' from='romeo@{MONTAGUE}' to='juliet@{CAPULET}' id='l'>"
        f"<body>{'x' * (LIMITS.preauth_bytes + 1)}</body></message>"
    )
    streams.receiving.send_stanzas([large])
    streams.run()
    assert ids(streams, "I") == ["l"]


@pytest.mark.parametrize("name", ["result", "verify"])
def test_keys_that_come_back_are_referred_to_a_stream_of_their_own(name) -> None:
    stream = pair(external=False, dialback=True).initiating
    stream.receive(
        [
            f"<d:{name} xmlns:d='jabber:server:dialback' from='{MONTAGUE}' to='{CAPULET}' id='1'>k"
            f"</d:{name}>".encode()
        ]
    )
    answer = b"".join(stream.data_to_send()).decode()
    assert f"<db:{name} " in answer and "type='error'" in answer
    assert "<resource-constraint " in answer and f"to='{MONTAGUE}'" in answer
    assert stream.state is State.ESTABLISHED
    assert stream.pairs == {(MONTAGUE, CAPULET)}


@pytest.mark.parametrize("name", ["result", "verify"])
def test_on_a_stream_that_goes_one_way_keys_make_no_sense(name) -> None:
    stream = established().initiating
    stream.receive(
        [
            f"<d:{name} xmlns:d='jabber:server:dialback' from='{MONTAGUE}' to='{CAPULET}' id='1'>k"
            f"</d:{name}>".encode()
        ]
    )
    assert stream.events_received()[0].condition is StreamCondition.UNSUPPORTED_STANZA_TYPE


def test_a_stream_that_only_asks_about_keys_goes_one_way() -> None:
    streams = StreamPair(
        initiating_options={**BOTH, "verify_only": True}, receiving_options=dict(BOTH)
    ).open()
    assert streams.initiating.state is State.ESTABLISHED
    assert not streams.initiating.bidirectional and not streams.receiving.bidirectional


def test_answers_to_no_question_open_nothing_on_either_side() -> None:
    streams = pair()
    for stream, sender, target in (
        (streams.initiating, MONTAGUE, "rooms.capulet.example"),
        (streams.receiving, "rooms.capulet.example", MONTAGUE),
    ):
        before = set(stream.pairs)
        stream.receive(
            [
                f"<d:result xmlns:d='jabber:server:dialback' from='{sender}' to='{target}'"
                " type='valid'/>".encode()
            ]
        )
        assert stream.pairs == before and stream.state is State.ESTABLISHED
