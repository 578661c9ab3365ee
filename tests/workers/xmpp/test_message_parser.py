"""WebSocket legs: one message, one element, whatever else is in the read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from coordinator.config import Limits
from workers.xmpp import message_parser, namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.parser import Element, MessageParser, Request, StreamFooter, StreamHeader
from workers.xmpp.stanza import RefusedStanza, Stanza

LIMITS = Limits(stanza_bytes=4096, preauth_bytes=1024, depth=16, elements=100)
OPEN = WebSocketFraming().header("capulet.example", "montague.example", "x1", response=True)
GOOD = (
    b"<message xmlns='jabber:server' from='juliet@capulet.example' to='romeo@montague.example'>"
    b"<body>hi</body></message>"
)


def parse(*messages: bytes) -> list[Element]:
    return MessageParser(LIMITS, authenticated=True).parse(list(messages))


def condition_of(*messages: bytes) -> StreamCondition:
    """The error after which nothing comes; everything before it must have been delivered."""
    *good, error = parse(*messages)
    assert isinstance(error, RemoteProtocolError)
    assert len(good) == len(messages) - 1
    return error.condition


def test_a_read_of_plain_messages() -> None:
    items = parse(OPEN, GOOD, b"<r xmlns='urn:xmpp:sm:3'/>", GOOD, WebSocketFraming().footer())
    assert [type(item) for item in items] == [
        StreamHeader,
        Stanza,
        Request,
        Stanza,
        StreamFooter,
    ]
    assert isinstance(items[1], Stanza)
    assert items[1].data.startswith(b"<message xml:lang='en' xmlns=\"jabber:server\" from=")


@pytest.mark.parametrize(
    "inner", [b"<body>hi</body>", b"", b"<b>\xc3\xa9</b>", b"<x a=' \xd0\xb6'/>"]
)
@pytest.mark.parametrize("around", [(b"", b""), (b"", b" \n"), (b" ", b"")])
def test_a_message_alone_is_read_as_among_others(inner: bytes, around: tuple[bytes, bytes]) -> None:
    message = GOOD.replace(b"<body>hi</body>", inner)
    (alone,) = parse(around[0] + message + around[1])
    _, among = parse(GOOD, message)
    assert isinstance(alone, Stanza) and isinstance(among, Stanza)
    assert alone.data == among.data


def test_header_as_xmpp_proxy_writes_it() -> None:
    """Protocol §1.3: dialback declaration mangled by string replacement."""
    (header,) = parse(
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server'"
        b" xmlns:stream='http://etherx.jabber.org/streams'"
        b" xmlns:db='urn:ietf:params:xml:ns:xmpp-framing-server:dialback'"
        b" from='a.example' to='b.example' version='1.0' xml:lang='en'/>"
    )
    assert header == StreamHeader(
        "a.example", "b.example", None, "1.0", "en", True, namespaces.FRAMING_SERVER
    )


def test_header_and_footer_of_clients_are_reported_as_such() -> None:
    header, footer = parse(
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='b.example'/>",
        b'<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />',
    )
    assert isinstance(header, StreamHeader)
    assert header.namespace == namespaces.FRAMING_CLIENT and not header.dialback
    assert footer == StreamFooter()


def test_see_other_uri_is_read() -> None:
    assert parse(WebSocketFraming().footer("wss://gw2.example/s2s?a&b")) == [
        StreamFooter("wss://gw2.example/s2s?a&b")
    ]


@pytest.mark.parametrize(
    ("message", "tag"),
    [
        (b"<db:result from='a' to='b' xmlns='jabber:server'>K</db:result>", namespaces.RESULT),
        (b"<stream:features xmlns='jabber:server'/>", namespaces.FEATURES),
        (b"<features xmlns='http://etherx.jabber.org/streams'/>", namespaces.FEATURES),
        (b"<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
         namespaces.STREAM_ERROR),
    ],
)  # fmt: skip
def test_prefixes_left_undeclared_by_peers_are_understood(message: bytes, tag: str) -> None:
    first, item, last = parse(GOOD, message, GOOD)
    assert isinstance(first, Stanza) and isinstance(last, Stanza)
    assert isinstance(item, etree._Element) and item.tag == tag


def test_cdata_whitespace_and_declaration_are_accepted() -> None:
    first, second = parse(
        b" \n",
        b"<?xml version='1.0'?>" + GOOD,
        b"\n" + GOOD.replace(b"hi", b"<![CDATA[<!-- <b> -->]]>") + b"\n",
    )
    assert isinstance(first, Stanza) and isinstance(second, Stanza)
    assert b"<body>&lt;!-- &lt;b&gt; --&gt;</body>" in second.data


@pytest.mark.parametrize(
    ("bad", "condition"),
    [
        (GOOD + GOOD, StreamCondition.NOT_WELL_FORMED),
        (GOOD + b"text", StreamCondition.NOT_WELL_FORMED),
        (b"text", StreamCondition.NOT_WELL_FORMED),
        (b"\xef\xbb\xbf" + GOOD, StreamCondition.NOT_WELL_FORMED),
        (b"<message>", StreamCondition.NOT_WELL_FORMED),
        (b"</message>", StreamCondition.NOT_WELL_FORMED),
        (b"</r>", StreamCondition.NOT_WELL_FORMED),
        (b"</r><r>", StreamCondition.NOT_WELL_FORMED),
        (b"<message/>\n<message>", StreamCondition.NOT_WELL_FORMED),
        (b"</stream:stream>", StreamCondition.NOT_WELL_FORMED),
        (GOOD.replace(b"hi", b"<x:a/>"), StreamCondition.NOT_WELL_FORMED),
        (GOOD.replace(b"hi", b"&nbsp;"), StreamCondition.NOT_WELL_FORMED),
        (GOOD.replace(b"hi", b"\xc0\x80"), StreamCondition.NOT_WELL_FORMED),
        (GOOD.replace(b"hi", b"\x00"), StreamCondition.NOT_WELL_FORMED),
        (GOOD.replace(b"hi", b"<!-- c -->"), StreamCondition.RESTRICTED_XML),
        (b"<!-- c -->" + GOOD, StreamCondition.RESTRICTED_XML),
        (GOOD + b"<!-- c -->", StreamCondition.RESTRICTED_XML),
        (GOOD.replace(b"hi", b"<?p i?>"), StreamCondition.RESTRICTED_XML),
        (b"<!DOCTYPE a [<!ENTITY e 'evil'>]>" + GOOD, StreamCondition.RESTRICTED_XML),
        (GOOD.decode().encode("utf-16"), StreamCondition.UNSUPPORTED_ENCODING),
        (b"<?xml version='1.0' encoding='latin-1'?>" + GOOD, StreamCondition.UNSUPPORTED_ENCODING),
        (GOOD.replace(b" xmlns='jabber:server'", b""), StreamCondition.INVALID_NAMESPACE),
        (GOOD.replace(b":server", b":client"), StreamCondition.INVALID_NAMESPACE),
        (b"<open xmlns='jabber:server'/>", StreamCondition.INVALID_NAMESPACE),
        (b"<x xmlns='u'/>", StreamCondition.UNSUPPORTED_STANZA_TYPE),
        (b"<s:iq xmlns:s='jabber:server' from='a.b' to='b.c'/>",
         StreamCondition.BAD_NAMESPACE_PREFIX),
        (GOOD.replace(b"from", b"form"), StreamCondition.IMPROPER_ADDRESSING),
        (GOOD.replace(b" to=", b" ot="), StreamCondition.IMPROPER_ADDRESSING),
        (GOOD.replace(b"romeo@", b"@"), StreamCondition.IMPROPER_ADDRESSING),
    ],
)  # fmt: skip
def test_bad_message_is_named_and_ends_the_stream(bad: bytes, condition: StreamCondition) -> None:
    assert condition_of(bad) is condition
    assert condition_of(GOOD, GOOD, bad) is condition
    items = parse(GOOD, bad, GOOD)
    assert [type(item) for item in items] == [Stanza, RemoteProtocolError]


@pytest.mark.parametrize(
    "inner",
    [
        b"<a>" * 20 + b"</a>" * 20,
        b"<a>" * 300 + b"</a>" * 300,
        b"<a/>" * 100,
        b"<![CDATA[x]]>" + b"<a/>" * 100,
    ],
)
def test_stanza_over_the_caps_is_refused_alone(inner: bytes) -> None:
    bad = GOOD.replace(b"hi", inner)
    items = parse(GOOD, bad, GOOD)
    assert [type(item) for item in items] == [Stanza, RefusedStanza, Stanza]


def test_what_a_stranger_sends_is_limited_in_sum() -> None:
    for message, count in ((OPEN, 129), (b"<x xmlns='u'/>" + b" " * 500, 17), (b" " * 1000, 9)):
        parser = MessageParser(LIMITS)
        items = [item for _ in range(count) for item in parser.parse([message])]
        assert isinstance(items[-1], RemoteProtocolError)


def test_secret_of_the_batch_is_the_whole_protection() -> None:
    """Trap 6: whoever knew it could close an element early; whoever does not, cannot."""
    forged = b"<message xmlns='jabber:server'/>%s<message xmlns='jabber:server'>"
    items = parse(forged % (b"0" * 32), b"</message>")
    assert isinstance(items[0], RemoteProtocolError)
    assert message_parser._SECRET not in str(items[0])


def test_size_cap_is_exact() -> None:
    padding = 4096 - len(GOOD) + 2
    assert isinstance(parse(GOOD.replace(b"hi", b"x" * padding))[0], Stanza)
    too_large = GOOD.replace(b"hi", b"x" * (padding + 1))
    assert condition_of(GOOD, too_large) is StreamCondition.POLICY_VIOLATION


def test_caps_are_tight_before_authentication() -> None:
    parser = MessageParser(LIMITS)
    assert isinstance(parser.parse([OPEN])[0], StreamHeader)
    parser.authenticated = True
    assert isinstance(parser.parse([GOOD.replace(b"hi", b"x" * 2000)])[0], Stanza)
    parser.authenticated = False
    assert isinstance(parser.parse([GOOD.replace(b"hi", b"x" * 2000)])[0], RemoteProtocolError)
    assert parser.parse([GOOD]) == []


def test_one_parser_leaves_no_trace_in_the_next_message() -> None:
    parser = MessageParser(LIMITS, authenticated=True)
    for _ in range(50):
        (stanza,) = parser.parse([GOOD])
        assert isinstance(stanza, Stanza) and b"<body>hi</body>" in stanza.data


@pytest.mark.parametrize(
    "bad",
    [b"<message><a", b"<message>", b"</r><r>", b"<!DOCTYPE a [<!ENTITY e 'evil'>]>" + GOOD, b"&e;"],
)
def test_one_session_leaves_no_trace_in_the_next_message_of_another(bad: bytes) -> None:
    """Trap 4, across sessions: they share what libxml2 parses with."""
    other = MessageParser(LIMITS, authenticated=True)
    for _ in range(3):
        assert isinstance(parse(GOOD, bad)[-1], RemoteProtocolError)
        (stanza,) = other.parse([GOOD])
        assert isinstance(stanza, Stanza) and b"<body>hi</body>" in stanza.data
        assert isinstance(parse(GOOD.replace(b"hi", b"&e;"))[-1], RemoteProtocolError)


FRAGMENTS = st.sampled_from(
    [
        GOOD,
        *(b"<message xmlns='jabber:server'", b" from='a.example' to='b.example'", b">", b"/>"),
        *(b"</message>", b"</r>", b"<r>", b"<![CDATA[", b"]]>", b"<!-- -->", b"<?x ?>", b"\n"),
        *(b"text", b"<db:x/>", b"<y:z/>", b"&amp;", b"&x;", b"\xff", OPEN, b"<a/>" * 30),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FRAGMENTS, max_size=5).map(b"".join), max_size=6))
def test_messages_together_are_the_messages_alone(messages: list[bytes]) -> None:
    """One stanza in is one stanza out, and no message changes how another is read."""
    together = parse(*messages)
    parser = MessageParser(LIMITS, authenticated=True)
    alone = [item for message in messages for item in parser.parse([message])]
    assert [describe(item) for item in together] == [describe(item) for item in alone]
    assert sum(not isinstance(item, RemoteProtocolError) for item in together) <= len(messages)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_bytes_give_elements_or_an_error(messages: list[bytes]) -> None:
    for item in parse(*messages)[:-1]:
        assert not isinstance(item, RemoteProtocolError)


def describe(item: Element) -> object:
    if isinstance(item, Stanza):
        return item.data
    if isinstance(item, RemoteProtocolError):
        return item.condition
    return etree.tostring(item) if isinstance(item, etree._Element) else item


def test_namespace_name_that_is_no_uri_is_let_through() -> None:
    """Namespaces in XML 1.0 §7; a user must not be able to end the session of all."""
    odd = GOOD.replace(b"hi", b"<x xmlns='a b'/>")
    items = parse(GOOD, odd, GOOD)
    assert [type(item) for item in items] == [Stanza] * 3
    assert b'<x xmlns="a b"/>' in items[1].data  # type: ignore[union-attr]
    assert condition_of(GOOD, odd.replace(b"</body>", b"<x:a/></body>")) is (
        StreamCondition.NOT_WELL_FORMED
    )
    assert condition_of(odd + odd) is StreamCondition.NOT_WELL_FORMED
