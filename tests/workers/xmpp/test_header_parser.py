"""The header of a TCP stream, and what comes in its place."""

import pytest

from tests.workers.xmpp.stream_parsing import GOOD, HEADER, LIMITS, bytewise, opened, whole
from workers.xmpp import namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.header_parser import HeaderParser
from workers.xmpp.parser import StreamFooter, StreamHeader, StreamParser
from workers.xmpp.stanza import Stanza


def test_it_takes_the_header_and_not_a_byte_more() -> None:
    for cut in range(len(HEADER)):
        parser = HeaderParser(1024, is_restart=False)
        assert parser.feed(HEADER[:cut]) is None
        found = parser.feed(HEADER[cut:] + GOOD)
        assert found is not None and found[1] == GOOD


def test_it_takes_no_more_than_it_may() -> None:
    HeaderParser(len(HEADER), is_restart=False).feed(HEADER)
    with pytest.raises(RemoteProtocolError) as caught:
        HeaderParser(len(HEADER) - 1, is_restart=False).feed(HEADER)
    assert caught.value.condition is StreamCondition.POLICY_VIOLATION


def test_header_attributes_are_reported() -> None:
    (header,) = StreamParser(LIMITS).feed(HEADER)
    assert header == StreamHeader(
        "capulet.example", "montague.example", "x1", "1.0", "en", True, namespaces.SERVER
    )


@pytest.mark.parametrize(
    ("header", "condition"),
    [
        (b"<!DOCTYPE a [<!ENTITY e 'x'>]>" + HEADER, StreamCondition.RESTRICTED_XML),
        (b"<!-- c -->" + HEADER[21:], StreamCondition.RESTRICTED_XML),
        (b"<?p i?>" + HEADER[21:], StreamCondition.RESTRICTED_XML),
        (HEADER.replace(b"etherx", b"other"), StreamCondition.INVALID_NAMESPACE),
        (b"<message xmlns='jabber:server'>", StreamCondition.BAD_FORMAT),
        (b"<stream:stream>", StreamCondition.NOT_WELL_FORMED),
        (b"GET / HTTP/1.1\r\n\r\n", StreamCondition.NOT_WELL_FORMED),
        (b"\xef\xbb\xbf" + HEADER, None),
        (HEADER.decode().encode("utf-16"), StreamCondition.UNSUPPORTED_ENCODING),
        (HEADER.replace(b"?>", b" encoding='latin-1'?>"), StreamCondition.UNSUPPORTED_ENCODING),
        (HEADER[:-1] + b" a='" + b"x" * 2000, StreamCondition.POLICY_VIOLATION),
        (
            HEADER[:-1] + b"".join(b" xmlns:p%d='u'" % n for n in range(20)) + b">",
            StreamCondition.POLICY_VIOLATION,
        ),
    ],
)
def test_bad_header_is_named(header: bytes, condition: StreamCondition | None) -> None:
    result = whole(header)
    assert result == bytewise(header)
    if condition is not None:
        assert result == [condition]


def test_greater_than_in_a_header_value_is_no_end() -> None:
    (header, stanza) = StreamParser(LIMITS, authenticated=True).feed(
        b"\n " + HEADER.replace(b" id='x1'", b" id='a>b'") + GOOD
    )
    assert isinstance(header, StreamHeader) and header.id == "a>b"
    assert isinstance(stanza, Stanza)


def test_restart_expects_a_new_header_or_the_end() -> None:
    parser = opened()
    parser.reset()
    assert [type(item) for item in parser.feed(HEADER + GOOD)] == [StreamHeader, Stanza]
    parser.reset()
    assert parser.feed(b"</stream:stream>") == [StreamFooter()]


def test_plain_prefix_and_other_content_namespace_are_reported() -> None:
    header = b"<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>"
    items = StreamParser(LIMITS).feed(header + b"</s:stream>")
    assert isinstance(items[0], StreamHeader) and items[0].namespace == "jabber:client"
    assert items[1:] == [StreamFooter()]
