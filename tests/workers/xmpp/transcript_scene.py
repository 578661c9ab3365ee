"""The lines that the dialogues of the protocol notes are made of."""

from coordinator.config import Limits
from tests.workers.xmpp.stream_pair import CAPULET, MONTAGUE, receiving
from workers.xmpp.events import StreamOpened

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
