"""Caps at their edges, and names that parsers read differently, alike on every leg."""

from collections.abc import Callable

import pytest

from coordinator.config import Limits
from workers.xmpp.component import ComponentParser
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.framing import StreamFraming
from workers.xmpp.message_parser import MessageParser
from workers.xmpp.parsed import Element, StreamHeader
from workers.xmpp.shape import Shape, is_beyond_ascii, is_unfit, odd_name
from workers.xmpp.stanza import RefusedStanza, Stanza
from workers.xmpp.stream_parser import StreamParser

LIMITS = Limits(depth=16, elements=100, attributes=40, name_bytes=300)
HEADER = StreamFraming().header("capulet.example", "montague.example")
COMPONENT = (
    b"<stream:stream xmlns='jabber:component:accept'"
    b" xmlns:stream='http://etherx.jabber.org/streams' from='montague.example' id='1'>"
)
Parse = Callable[[bytes], list[Element]]


def by_message(data: bytes) -> list[Element]:
    return MessageParser(LIMITS, authenticated=True).parse([data])


def by_stream(data: bytes) -> list[Element]:
    parser = StreamParser(LIMITS, authenticated=True)
    parser.feed(HEADER)
    return parser.feed(data)


def by_component(data: bytes) -> list[Element]:
    parser = ComponentParser(LIMITS, authenticated=True)
    parser.feed(COMPONENT)
    return parser.feed(data.replace(b"'jabber:server'", b"'jabber:component:accept'"))


LEGS = pytest.mark.parametrize("parse", [by_message, by_stream, by_component])


def stanza(inner: str = "", attributes: str = "") -> bytes:
    return (
        "<message xmlns='jabber:server' from='juliet@capulet.example'"
        f" to='romeo@montague.example'{attributes}>{inner}</message>"
    ).encode()


def attributes(count: int) -> str:
    return "".join(f" a{number}=''" for number in range(count))


def declarations(count: int) -> str:
    return "".join(f" xmlns:a{number}='urn:a'" for number in range(count))


EDGES = {
    "depth": (lambda n: "<a>" * n + "</a>" * n, 15, "nested too deeply"),
    "elements": (lambda n: "<a/>" * n, 99, "too many elements"),
    "attributes": (lambda n: f"<a{attributes(n)}/>", 40, "too many attributes"),
    "prefixes": (lambda n: f"<a{declarations(n)}/>", 40, "too many attributes"),
    "element name": (lambda n: f"<{'a' * n}/>", 300, "too long a name"),
    "attribute name": (lambda n: f"<a {'a' * n}=''/>", 300, "too long a name"),
    "prefixed name": (lambda n: f"<a:{'a' * (n - 2)} xmlns:a='urn:a'/>", 300, "too long a name"),
}


@LEGS
@pytest.mark.parametrize("cap", EDGES)
def test_a_cap_holds_at_its_edge(parse: Parse, cap: str) -> None:
    make, most, reason = EDGES[cap]
    for inner in (make(most), f"<b>{'x' * 1000}</b>{make(most)}"):
        if cap == "elements" and "<b>" in inner:
            continue
        (item,) = parse(stanza(inner))
        assert isinstance(item, Stanza), item
    (item,) = parse(stanza(make(most + 1)))
    assert isinstance(item, RefusedStanza) and item.reason == reason


@LEGS
def test_attributes_of_the_stanza_itself_are_capped(parse: Parse) -> None:
    (item,) = parse(stanza(attributes=attributes(36)))
    assert isinstance(item, Stanza)
    (item,) = parse(stanza(attributes=attributes(41)))
    assert isinstance(item, RefusedStanza)


@LEGS
def test_long_values_break_no_cap(parse: Parse) -> None:
    (item,) = parse(stanza(f"<a b='{'=&quot;' * 500}' c='{'x ' * 500}'/>{'=' * 1000}"))
    assert isinstance(item, Stanza)


@LEGS
def test_the_caps_hold_for_nonzas_too(parse: Parse) -> None:
    for inner in (f"<a{attributes(41)}/>", f"<{'a' * 301}/>"):
        nonza = (
            f"<error xmlns='http://etherx.jabber.org/streams'><undefined-condition/>{inner}</error>"
        )
        (item,) = parse(nonza.encode())
        assert isinstance(item, RemoteProtocolError)
        assert item.condition is StreamCondition.POLICY_VIOLATION


@LEGS
@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        # In XML 1.0's fifth edition only; expat ends the stream.
        ("<\u0220/>", "a name that not all parsers read"),
        ("<\U00010400/>", "a name that not all parsers read"),
        ("<a \u0220='1'/>", "a name that not all parsers read"),
        ("<a b='1' c\u0220='1'/>", "a name that not all parsers read"),
        ("<a xmlns:\u0220='urn:x'/>", "a name that not all parsers read"),
        # What namespace and local name are parted by.
        ("<a xmlns='jabber:server}message'/>", "a namespace name that not all parsers read alike"),
        ("<a xmlns:p='urn:}' p:b='1'/>", "a namespace name that not all parsers read alike"),
        ("<a xmlns='urn:a&#10;b'/>", "a namespace name that not all parsers read alike"),
        ("<a xmlns='urn:a&#9;b'/>", "a namespace name that not all parsers read alike"),
        ("<a xmlns='urn:a\x7fb'/>", "a namespace name that not all parsers read alike"),
        ("<a xmlns='urn:a\u0085b'/>", "a namespace name that not all parsers read alike"),
    ],
)
def test_names_that_another_parser_reads_otherwise_do_not_pass(
    parse: Parse, inner: str, reason: str
) -> None:
    for text in ("", "<body>hi</body>", f"<body>{'ж ' * 500}</body>"):
        (item,) = parse(stanza(text + inner))
        assert isinstance(item, RefusedStanza) and item.reason == reason


@LEGS
@pytest.mark.parametrize(
    "inner",
    [
        "<привет/>",
        "<a привет='1'/>",
        "<a b='\u0220'/>",
        '<body>{"json": \'}\'} \u0220="</body>',
        "<body>xmlns='}' \u0220</body>",
        "<a b='xmlns=}'/>",
        "<a xmlns='a b'/>",
        "<a xmlns='urn:é'/>",
    ],
)
def test_names_that_all_parsers_read_alike_pass(parse: Parse, inner: str) -> None:
    (item,) = parse(stanza(inner))
    assert isinstance(item, Stanza), item


@pytest.mark.parametrize("declaration", ["xmlns:a='urn:}'", "xmlns:\u0220='urn:a'"])
def test_headers_bind_no_such_names_either(declaration: str) -> None:
    header = HEADER.replace(b" xml:lang", f" {declaration} xml:lang".encode())
    (item,) = StreamParser(LIMITS).feed(header)
    assert isinstance(item, RemoteProtocolError)
    assert item.condition is StreamCondition.POLICY_VIOLATION
    framing = "urn:ietf:params:xml:ns:xmpp-framing-server"
    (item,) = MessageParser(LIMITS).parse([f"<open xmlns='{framing}' {declaration}/>".encode()])
    assert isinstance(item, RemoteProtocolError)
    assert item.condition is StreamCondition.POLICY_VIOLATION


def test_headers_bind_few_prefixes() -> None:
    framing = "urn:ietf:params:xml:ns:xmpp-framing-server"
    for count, kind in ((16, StreamHeader), (17, RemoteProtocolError)):
        data = f"<open xmlns='{framing}'{declarations(count)}/>".encode()
        (item,) = MessageParser(LIMITS).parse([data])
        assert isinstance(item, kind)


def test_what_is_plain_is_known_by_its_size() -> None:
    assert Shape(LIMITS).plain_size(100) == 7 * 16
    assert Shape(Limits()).plain_size(10000) == 7 * 64


def test_only_tags_beyond_ascii_are_looked_into() -> None:
    assert not is_beyond_ascii(b'<a b="c">text</a>')
    assert not is_beyond_ascii("<a>ж</a>".encode())
    assert is_beyond_ascii('<a b="ж"/>'.encode())
    assert is_beyond_ascii("<a>x</a><ж/>".encode())
    assert odd_name('<a b="ж \u0220=">\u0220="</a>'.encode()) == ""


def test_unfit_namespaces() -> None:
    assert [is_unfit(name) for name in ("a}b", "a\nb", "a\x80b", "a b", "é")] == [
        *(True, True, True),
        *(False, False),
    ]
