"""What the targets share: how a peer's bytes are cut up, and what lxml and expat must agree on."""

from collections.abc import Iterator
from xml.parsers import expat

from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError
from workers.xmpp.parser import Answer, Element, Request, StreamFooter, StreamHeader
from workers.xmpp.stanza import RefusedStanza, Stanza

LIMITS = Limits(stanza_bytes=10000, preauth_bytes=2048, depth=16, elements=64, attributes=32)
FRAMING = "urn:ietf:params:xml:ns:xmpp-framing-server"
STREAMS = "http://etherx.jabber.org/streams"
WS_OPEN = (
    f"<open xmlns='{FRAMING}' from='capulet.example' to='montague.example' version='1.0'/>"
).encode()
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='" + STREAMS + "'"
    " xmlns:db='jabber:server:dialback' xmlns:p='urn:p' from='capulet.example'"
    " to='montague.example' id='x1' version='1.0' xml:lang='en'>"
).encode()
ADDRESSES = b" from='juliet@capulet.example' to='romeo@montague.example'"
MESSAGE = b"<message xmlns='jabber:server'" + ADDRESSES + b" id='1'><body>hi</body></message>"
SEPARATOR = b"\x1e"
"""Between the messages of a WebSocket: no XML contains it."""

Tree = tuple[str, dict[str, str], list["Tree | str"]]


def pieces(data: bytes) -> Iterator[bytes]:
    """The data cut in a way that depends on nothing but the data."""
    at, step = 0, 1 + sum(data[:8]) % 13
    while at < len(data):
        yield data[at : at + step]
        at, step = at + step, 1 + (step * 7 + data[at]) % 29


def summary(items: list[Element]) -> list[object]:
    """What came out, comparable: whole or split it must be the same."""
    shown: list[object] = []
    for item in items:
        if isinstance(item, Stanza):
            check_stanza(item)
            shown.append((item.name, item.data, item.sender_domain, item.target_domain))
        elif isinstance(item, RefusedStanza):
            shown.append((item.stanza.name, item.reason))
        elif isinstance(item, RemoteProtocolError):
            shown.append("error")  # which one may depend on what was there to judge by
        elif isinstance(item, etree._Element):
            shown.append(item.tag)
        else:
            assert isinstance(item, StreamHeader | StreamFooter | Answer | Request), item
            shown.append(repr(item))
    return shown


def check_stanza(stanza: Stanza) -> None:
    """What is forwarded is one element that expat reads as lxml does, with the right addresses."""
    tree = read_with_expat(stanza.data)
    assert tree[0] == f"{{jabber:server}}{stanza.name}", tree[0]
    assert tree[1].get("from") == stanza.sender and tree[1].get("to") == stanza.recipient
    element = etree.fromstring(
        stanza.data, etree.XMLParser(encoding="utf-8", recover=True, huge_tree=True)
    )
    assert tree == tree_of(element), (tree, tree_of(element))


def read_with_expat(data: bytes) -> Tree:
    """A document as expat reads it. Raises `AssertionError` for none, or more than one element."""
    root: Tree = ("", {}, [])
    path = [root]

    def start(name: str, attributes: dict[str, str]) -> None:
        element: Tree = (_expanded(name), {_expanded(k): v for k, v in attributes.items()}, [])
        path[-1][2].append(element)
        path.append(element)

    def text(data: str) -> None:
        children = path[-1][2]
        if children and isinstance(children[-1], str):
            children[-1] += data
        else:
            children.append(data)

    def forbidden(*_: object) -> None:
        raise AssertionError("a comment, an instruction or a document type was forwarded")

    parser = expat.ParserCreate("utf-8", "\x01")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: path.pop()
    parser.CharacterDataHandler = text
    parser.CommentHandler = parser.ProcessingInstructionHandler = forbidden
    parser.StartDoctypeDeclHandler = forbidden
    try:
        parser.Parse(data, True)
    except expat.ExpatError as exc:
        raise AssertionError(f"expat: {exc}: {data!r}") from exc
    (element,) = root[2]
    assert isinstance(element, tuple)
    return element


def _expanded(name: str) -> str:
    namespace, separator, local = name.rpartition("\x01")
    return f"{{{namespace}}}{local}" if separator else local


def tree_of(element: etree._Element) -> Tree:
    """The same tree as lxml sees it."""
    children: list[Tree | str] = [element.text] if element.text else []
    for child in element:
        assert isinstance(child.tag, str)
        children.append(tree_of(child))
        if child.tail:
            children.append(child.tail)
    return (str(element.tag), {str(k): str(v) for k, v in element.attrib.items()}, children)
