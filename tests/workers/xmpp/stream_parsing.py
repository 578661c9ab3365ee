"""What the tests of TCP parsing share: a header, and what comes out whole and byte by byte."""

from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import Element, StreamHeader, StreamParser
from workers.xmpp.stanza import RefusedStanza, Stanza

HEADER = StreamFraming().header("capulet.example", "montague.example", "x1", response=True)
GOOD = (
    b"<message from='juliet@capulet.example' to='romeo@montague.example'><body>hi</body></message>"
)
LIMITS = Limits(stanza_bytes=4096, preauth_bytes=1024, depth=16, elements=100)


def opened(limits: Limits = LIMITS, header: bytes = HEADER) -> StreamParser:
    parser = StreamParser(limits, authenticated=True)
    (item,) = parser.feed(header)
    assert isinstance(item, StreamHeader)
    return parser


def brief(items: list[Element]) -> list[object]:
    shown: list[object] = []
    for item in items:
        if isinstance(item, RefusedStanza):
            shown.append((item.stanza.name, item.reason))
        elif isinstance(item, Stanza):
            shown.append((item.name, item.data))
        elif isinstance(item, RemoteProtocolError):
            shown.append(item.condition)
        elif isinstance(item, etree._Element):
            shown.append(etree.tostring(item, method="c14n2"))
        else:
            shown.append(item)
    return shown


def whole(data: bytes) -> list[object]:
    return brief(StreamParser(LIMITS, authenticated=True).feed(data))


def bytewise(data: bytes, *, shrinks: bool = False) -> list[object]:
    parser = StreamParser(LIMITS, authenticated=True)
    items: list[Element] = []
    for at in range(len(data)):
        items += parser.feed(data[at : at + 1])
        if shrinks:
            parser.shrink()
    return brief(items)


def outcome(body: bytes) -> list[object]:
    """What follows the header; the same whole as byte by byte, with long breaks or without."""
    result = whole(HEADER + body)
    assert bytewise(HEADER + body) == result
    assert bytewise(HEADER + body, shrinks=True) == result
    return result[1:]


def odd(count: int, inner: bytes = b"") -> bytes:
    """A stanza with namespace names that are no URIs, as any user may send it."""
    return GOOD.replace(b"<body>hi</body>", b"<x xmlns='a b'/>" * count + inner)
