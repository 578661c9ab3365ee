"""The notes' dialogues with dialback (5.3, XEP-0220's own key), also after EXTERNAL has failed."""

from tests.workers.xmpp.stream_pair import (
    CAPULET,
    MONTAGUE,
    SECRET,
    initiating,
    message,
    play,
    receiving,
    stanza,
)
from tests.workers.xmpp.transcript_scene import (
    AUTH,
    DIALBACK,
    I_CLOSE,
    I_OPEN,
    MECHANISMS,
    R_CLOSE,
    features,
    limits,
    r_open,
)
from workers.xmpp.dialback import is_our_key
from workers.xmpp.events import (
    Authenticated,
    AuthenticationFailed,
    DialbackKeyReceived,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamOpened,
    VerifyAnswered,
    VerifyRequested,
)
from workers.xmpp.stream import State

KEY = "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3"
DB = "xmlns='jabber:server' xmlns:db='jabber:server:dialback'"
OFFER_DIALBACK = features(DIALBACK, "<bidi xmlns='urn:xmpp:features:bidi'/>")
SEND_KEY = f"I: <db:result {DB} from='{CAPULET}' to='{MONTAGUE}'>{KEY}</db:result>"
KEY_VALID = f"R: <db:result {DB} from='{MONTAGUE}' to='{CAPULET}' type='valid'/>"
ROOMS_KEY = f"I: <db:result {DB} from='rooms.capulet.example' to='{MONTAGUE}'>KEY2</db:result>"
ROOMS_ERROR = (
    f"R: <db:result {DB} from='{MONTAGUE}' to='rooms.capulet.example' type='error'>"
    "<error type='cancel'><remote-server-not-found"
    " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>"
)
VERIFY = f"<db:verify {DB} from='{MONTAGUE}' to='{CAPULET}' id='D60000229F'>{KEY}</db:verify>"
VERIFIED = f"<db:verify {DB} from='{CAPULET}' to='{MONTAGUE}' id='D60000229F' type='valid'/>"


def test_dialback_seen_from_the_initiating_server() -> None:
    stream = initiating()
    hello = stanza(message("m1"))
    events = play(
        stream,
        "I",
        [
            stream.open,
            I_OPEN,
            r_open("D60000229F"),
            OFFER_DIALBACK,
            SEND_KEY,
            KEY_VALID,
            lambda: stream.send_stanzas([hello]),
            "I: " + hello.data.decode(),
        ],
    )
    assert events == [Authenticated(CAPULET, MONTAGUE, "dialback"), StreamEstablished()]


def test_dialback_and_a_second_sender_seen_from_the_receiving_server() -> None:
    stream = receiving(ids=["D60000229F"])
    keys = []

    def on_event(event: object) -> None:
        if isinstance(event, StreamOpened):
            stream.offer(external=False, dialback=True)
        elif isinstance(event, DialbackKeyReceived):
            keys.append(event)
            known = is_our_key(
                event.key,
                SECRET,
                receiving=event.target,
                originating=event.sender,
                stream_id=stream.id,
            )
            stream.answer_dialback(
                sender=event.sender,
                target=event.target,
                outcome="valid" if known else "error",
                error="" if known else "remote-server-not-found",
            )

    events = play(
        stream,
        "R",
        [
            I_OPEN,
            r_open("D60000229F"),
            features(DIALBACK, limits(262144)),
            SEND_KEY,
            KEY_VALID,
            "I: " + message("m1"),
            ROOMS_KEY,
            ROOMS_ERROR,
            "I: " + message("m2"),
        ],
        on_event,
    )
    assert [key.sender for key in keys] == [CAPULET, "rooms.capulet.example"]
    received = [event.stanzas[0].id for event in events if isinstance(event, StanzasReceived)]
    assert received == ["m1", "m2"]
    assert stream.pairs == {(CAPULET, MONTAGUE)}


def swapped(line: str) -> str:
    """A line of a stream that montague opens to capulet."""
    return (
        line.replace(CAPULET, "x.example").replace(MONTAGUE, CAPULET).replace("x.example", MONTAGUE)
    )


def test_verification_seen_from_the_one_who_asks() -> None:
    stream = initiating(verify_only=True)
    stream.sender, stream.target = MONTAGUE, CAPULET
    events = play(
        stream,
        "I",
        [
            stream.open,
            swapped(I_OPEN),
            swapped(r_open("417GAF25")),
            OFFER_DIALBACK,
            lambda: stream.send_verify(sender=MONTAGUE, target=CAPULET, id="D60000229F", key=KEY),
            "I: " + VERIFY,
            "R: " + VERIFIED,
            stream.close,
            I_CLOSE,
            R_CLOSE,
        ],
    )
    assert events == [
        StreamEstablished(),
        VerifyAnswered(CAPULET, MONTAGUE, "D60000229F", "valid"),
        StreamClosed(clean=True, answered=True),
    ]


def test_verification_seen_from_the_authoritative_server() -> None:
    stream = receiving(ids=["417GAF25"], hosts=frozenset({CAPULET}))

    def on_event(event: object) -> None:
        if isinstance(event, StreamOpened):
            stream.offer(external=False, dialback=True)
        elif isinstance(event, VerifyRequested):
            stream.answer_verify(
                sender=event.sender, target=event.target, id=event.id, outcome="valid"
            )

    events = play(
        stream,
        "R",
        [
            swapped(I_OPEN),
            swapped(r_open("417GAF25")),
            features(DIALBACK, limits(262144)),
            "I: " + VERIFY,
            "R: " + VERIFIED,
            I_CLOSE,
            R_CLOSE,
        ],
        on_event,
    )
    assert events[1] == VerifyRequested(MONTAGUE, CAPULET, "D60000229F", KEY)


REASON = "certificate not valid for capulet.example: expired"
REFUSED = (
    "R: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/>"
    f"<text xml:lang='en'>{REASON}</text></failure>"
)


def test_failed_external_then_dialback_seen_from_the_initiating_server() -> None:
    stream = initiating()
    offered = features(MECHANISMS, DIALBACK)
    events = play(
        stream,
        "I",
        [
            stream.open,
            I_OPEN,
            r_open("D60000229F"),
            offered,
            AUTH,
            REFUSED,
            SEND_KEY,
            KEY_VALID,
        ],
    )
    assert events[0] == Authenticated(CAPULET, MONTAGUE, "dialback")


def test_failed_external_then_dialback_seen_from_the_receiving_server() -> None:
    stream = receiving(ids=["D60000229F"])

    def on_event(event: object) -> None:
        if isinstance(event, StreamOpened):
            stream.offer(external=False, dialback=True, reason=REASON)
        elif isinstance(event, DialbackKeyReceived):
            stream.answer_dialback(sender=event.sender, target=event.target, outcome="valid")

    opening = [I_OPEN, r_open("D60000229F"), features(DIALBACK, limits(262144))]
    play(stream, "R", [*opening, AUTH, REFUSED, SEND_KEY, KEY_VALID], on_event)
    assert stream.state is State.ESTABLISHED


def test_failed_external_without_dialback_gives_both_reasons_up() -> None:
    stream = initiating(use_dialback=False)
    events = play(
        stream,
        "I",
        [stream.open, I_OPEN, r_open("s"), features(MECHANISMS), AUTH, REFUSED, I_CLOSE],
    )
    assert events == [
        AuthenticationFailed(f"SASL EXTERNAL failed: not-authorized ({REASON})"),
    ]
