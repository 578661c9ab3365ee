"""The notes' dialogues that end early (5.4): by an error, or referred elsewhere."""

from tests.workers.xmpp.stream_pair import MONTAGUE, initiating, message, play, receiving
from tests.workers.xmpp.transcript_scene import (
    AUTHENTICATED,
    FRAMING,
    I_CLOSE,
    I_OPEN,
    M1,
    R_CLOSE,
    montague,
    r_open,
)
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import StanzasReceived, StreamClosed, StreamFailed
from workers.xmpp.stream import State


def error(condition: str, text: str = "") -> str:
    told = (
        f"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>{text}</text>"
        if text
        else ""
    )
    return (
        "R: <stream:error xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>"
        f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>{told}</stream:error>"
    )


UNKNOWN_OPEN = I_OPEN.replace(MONTAGUE, "nowhere.example")
HOST_UNKNOWN = [
    UNKNOWN_OPEN,
    r_open("s-01", "nowhere.example"),
    error("host-unknown", "This host does not serve nowhere.example"),
    R_CLOSE,
]


def test_unknown_host_seen_from_the_receiving_server() -> None:
    events = play(receiving(ids=["s-01"]), "R", [*HOST_UNKNOWN, I_CLOSE])
    assert events == [
        StreamFailed(
            StreamCondition.HOST_UNKNOWN, "This host does not serve nowhere.example", by_peer=False
        ),
        StreamClosed(clean=False),
    ]


def test_unknown_host_seen_from_the_initiating_server() -> None:
    stream = initiating()
    stream.target = "nowhere.example"
    # We close as soon as the error is in; the peer's closing tag then finds us gone.
    events = play(stream, "I", [stream.open, *HOST_UNKNOWN, I_CLOSE])
    assert events[0].condition is StreamCondition.HOST_UNKNOWN and events[0].by_peer
    assert stream.state is State.CLOSED


NO_TARGET = (
    "I: <message xmlns='jabber:server' from='juliet@capulet.example'><body>x</body></message>"
)


def test_stanza_without_target_seen_from_the_receiving_server() -> None:
    stream, decide = montague()
    told = error("improper-addressing", "message without to")
    events = play(stream, "R", [*AUTHENTICATED, NO_TARGET, told, R_CLOSE], decide)
    assert not any(isinstance(event, StanzasReceived) for event in events)


def test_improper_addressing_seen_from_the_initiating_server() -> None:
    stream = initiating(use_management=False)
    events = play(stream, "I", [stream.open, *AUTHENTICATED, error("improper-addressing"), I_CLOSE])
    assert events[-2:] == [
        StreamFailed(StreamCondition.IMPROPER_ADDRESSING, "", by_peer=True),
        StreamClosed(clean=False),
    ]


def test_client_at_the_server_endpoint_is_told_the_namespace() -> None:
    play(
        receiving(ids=["s-02"]),
        "R",
        [
            "I: <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='montague.example'"
            " version='1.0'/>",
            # We declare the dialback prefix on every header, here too.
            r_open("s-02", target=""),
            error("invalid-namespace"),
            R_CLOSE,
        ],
    )


def test_stanza_over_the_limit_seen_from_the_receiving_server() -> None:
    stream, decide = montague()
    large = "I: " + message("m9").replace("hi", "x" * 524288)
    play(
        stream,
        "R",
        [*AUTHENTICATED, large, error("policy-violation", "stanza too large"), R_CLOSE],
        decide,
    )


SEE_OTHER = f"R: <close xmlns='{FRAMING}' see-other-uri='wss://gw2.montague.example/xmpp-s2s'/>"


def test_see_other_uri_instead_of_open_seen_from_the_initiating_server() -> None:
    stream = initiating()
    events = play(stream, "I", [stream.open, I_OPEN, SEE_OTHER, I_CLOSE])
    assert events == [StreamClosed(clean=True, see_other_uri="wss://gw2.montague.example/xmpp-s2s")]


def test_see_other_uri_instead_of_open_seen_from_the_receiving_server() -> None:
    stream = receiving()
    events = play(
        stream,
        "R",
        [I_OPEN, lambda: stream.close("wss://gw2.montague.example/xmpp-s2s"), SEE_OTHER, I_CLOSE],
    )
    assert events[-1] == StreamClosed(clean=True, answered=True)


def test_see_other_uri_on_an_established_stream_from_both_sides() -> None:
    there = "wss://gw2.montague.example/xmpp-s2s"
    stream, decide = montague()
    play(
        stream,
        "R",
        [*AUTHENTICATED, lambda: stream.close(there), SEE_OTHER, "I: " + M1, I_CLOSE],
        decide,
    )
    stream = initiating(use_management=False)
    events = play(stream, "I", [stream.open, *AUTHENTICATED, SEE_OTHER, I_CLOSE])
    assert events[-1] == StreamClosed(clean=True, see_other_uri=there)


def test_stanza_before_authentication_is_not_authorized() -> None:
    stream, decide = montague()
    play(
        stream,
        "R",
        [*AUTHENTICATED[:3], "I: " + M1, error("not-authorized"), R_CLOSE],
        decide,
    )
