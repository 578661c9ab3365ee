"""The dialogues of the protocol notes, byte for byte, our stream playing either side."""

from coordinator.config import Limits
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
from workers.xmpp.dialback import is_our_key
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    Authenticated,
    AuthenticationFailed,
    DialbackKeyReceived,
    ManagementEnabled,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamFailed,
    StreamOpened,
    VerifyAnswered,
    VerifyRequested,
)
from workers.xmpp.stream import State

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
DECLARED = (
    f"xmlns='{FRAMING}' xmlns:stream='http://etherx.jabber.org/streams'"
    " xmlns:db='jabber:server:dialback'"
)
TAIL = "version='1.0' xml:lang='en'"
I_OPEN = f"I: <open {DECLARED} from='capulet.example' to='montague.example' {TAIL}/>"


def r_open(id: str, sender: str = MONTAGUE, target: str = CAPULET) -> str:
    to = f" to='{target}'" if target else ""
    return f"R: <open {DECLARED} id='{id}' from='{sender}'{to} {TAIL}/>"


def features(*children: str) -> str:
    inner = "".join(children)
    return (
        "R: <stream:features xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>"
        f"{inner}</stream:features>"
    )


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


SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
MECHANISMS = f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
DIALBACK = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
SM = "<sm xmlns='urn:xmpp:sm:3'/>"
I_CLOSE = f"I: <close xmlns='{FRAMING}'/>"
R_CLOSE = f"R: <close xmlns='{FRAMING}'/>"
M1 = (
    "<message xmlns='jabber:server' from='juliet@capulet.example/balcony'"
    " to='romeo@montague.example' id='m1' type='chat' xml:lang='en'>"
    "<body>Art thou not Romeo?</body></message>"
)


def limits(max_bytes: int, idle_seconds: int | None = None) -> str:
    idle = f"<idle-seconds>{idle_seconds}</idle-seconds>" if idle_seconds else ""
    return (
        f"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{max_bytes}</max-bytes>{idle}"
        "</limits>"
    )


FIRST_FEATURES = features(MECHANISMS, DIALBACK, limits(524288))
FINAL_FEATURES = features(SM, DIALBACK, limits(524288))
AUTH = f"I: <auth xmlns='{SASL}' mechanism='EXTERNAL'>Y2FwdWxldC5leGFtcGxl</auth>"
SUCCESS = f"R: <success xmlns='{SASL}'/>"
ENABLE = "I: <enable xmlns='urn:xmpp:sm:3'/>"
ENABLED = "R: <enabled xmlns='urn:xmpp:sm:3'/>"
REQUEST = "I: <r xmlns='urn:xmpp:sm:3'/>"
ANSWER = "R: <a xmlns='urn:xmpp:sm:3' h='1'/>"

AUTHENTICATED = [
    I_OPEN,
    r_open("s-7f3a91c2"),
    FIRST_FEATURES,
    AUTH,
    SUCCESS,
    I_OPEN,
    r_open("s-b1d04e77"),
    FINAL_FEATURES,
]
WIDE = Limits(stanza_bytes=524288)


def montague(*ids: str, **options: object):
    """Our receiving stream and the shell's usual decision on a good certificate."""
    stream = receiving(ids=ids or ("s-7f3a91c2", "s-b1d04e77"), limits=WIDE, **options)

    def on_event(event: object) -> None:
        if isinstance(event, StreamOpened):
            stream.offer(external=True, dialback=True)

    return stream, on_event


# 5.1: EXTERNAL, acknowledgements, stanzas, close


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


# 5.3: dialback, with XEP-0220's own key

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


# 5.4: errors

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
