"""Both parsers judge the same stanza in the same way."""

from collections.abc import Callable

import pytest

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import Element, MessageParser, StreamParser
from workers.xmpp.stanza import RefusedStanza, Stanza

LIMITS = Limits(stanza_bytes=16384, depth=16, elements=100)
STANZA = "<message xmlns='jabber:server' from='juliet@capulet.example' to='{to}'>{inner}</message>"


def by_message(data: bytes) -> list[Element]:
    return MessageParser(LIMITS, authenticated=True).parse([data])


def by_stream(data: bytes) -> list[Element]:
    parser = StreamParser(LIMITS, authenticated=True)
    parser.feed(StreamFraming().header("capulet.example", "montague.example"))
    return parser.feed(data)


@pytest.mark.parametrize("parse", [by_message, by_stream])
@pytest.mark.parametrize(
    ("to", "inner", "kind"),
    [
        ("romeo@montague.example", "<body>hi</body>", Stanza),
        ("romeo@montague.example", "<a>" * 20 + "</a>" * 20, RefusedStanza),
        ("romeo@montague.example", "<a/>" * 101, RefusedStanza),
        ("romeo@montague.example..", "", RefusedStanza),
        ("romeo@montague\u3002example", "", RefusedStanza),
        ("romeo@", "", RemoteProtocolError),
        ("romeo@montague.example", "<a>", RemoteProtocolError),
        ("romeo@montague.example", "<a>" * 3000 + "</a>" * 3000, RemoteProtocolError),
        ("romeo@montague.example", "<!-- -->", RemoteProtocolError),
    ],
)
def test_a_stanza_is_judged_alike_on_both_legs(
    parse: Callable[[bytes], list[Element]], to: str, inner: str, kind: type
) -> None:
    items = parse(STANZA.format(to=to, inner=inner).encode() + b"</a>" * (inner == "<a>"))
    assert type(items[0]) is kind
