"""The notes' dialogue with EXTERNAL (5.1), byte for byte, our stream playing either side."""

from tests.workers.xmpp.stream_pair import CAPULET, MONTAGUE, initiating, play, stanza
from tests.workers.xmpp.transcript_scene import (
    ANSWER,
    AUTHENTICATED,
    DIALBACK,
    ENABLE,
    ENABLED,
    FINAL_FEATURES,
    FIRST_FEATURES,
    I_CLOSE,
    M1,
    MECHANISMS,
    R_CLOSE,
    REQUEST,
    SM,
    features,
    limits,
    montague,
)
from workers.xmpp.events import (
    Acknowledged,
    Authenticated,
    ManagementEnabled,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamOpened,
)


def test_handshake_seen_from_the_initiating_server() -> None:
    stream = initiating()
    # What our own receiving side does not offer is in the line all the same: bidi, idle time.
    offered = features(
        MECHANISMS,
        "<bidi xmlns='urn:xmpp:features:bidi'/>",
        DIALBACK,
        limits(262144, 300),
    )
    lines = [stream.open, *AUTHENTICATED, ENABLE, ENABLED]
    lines[lines.index(FIRST_FEATURES)] = offered
    lines[lines.index(FINAL_FEATURES)] = features(SM, DIALBACK, limits(524288, 840))
    events = play(
        stream,
        "I",
        [
            *lines,
            lambda: stream.send_stanzas([stanza(M1)]),
            stream.request_ack,
            "I: " + stanza(M1).data.decode(),
            REQUEST,
            ANSWER,
            stream.close,
            I_CLOSE,
            R_CLOSE,
        ],
    )
    assert events == [
        Authenticated(CAPULET, MONTAGUE, "external"),
        StreamEstablished(),
        Acknowledged(1),
        StreamClosed(clean=True, answered=True),
    ]
    assert stream.peer_max_bytes == 524288


def test_handshake_seen_from_the_receiving_server() -> None:
    stream, decide = montague()
    events = play(
        stream,
        "R",
        [
            *AUTHENTICATED,
            ENABLE,
            ENABLED,
            "I: " + M1,
            lambda: stream.mark_handled(1),
            REQUEST,
            ANSWER,
            I_CLOSE,
            R_CLOSE,
        ],
        decide,
    )
    assert [type(event) for event in events] == [
        StreamOpened,
        Authenticated,
        StreamEstablished,
        ManagementEnabled,
        StanzasReceived,
        StreamClosed,
    ]
    assert events[4].resendable and events[4].stanzas[0].id == "m1"
