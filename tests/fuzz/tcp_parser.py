"""The parser of TCP legs: stanzas or one error, the same whole or split at any byte."""

from tests.fuzz.reading import ADDRESSES, HEADER, LIMITS, MESSAGE, pieces, summary
from workers.xmpp.parser import StreamParser

SEEDS = [
    MESSAGE.replace(b" xmlns='jabber:server'", b"") * 3,
    MESSAGE + b"<r xmlns='urn:xmpp:sm:3'/> \n" + MESSAGE,
    b"<a xmlns='urn:xmpp:sm:3' h='7'/><a h='8' xmlns='urn:xmpp:sm:3'/>" + MESSAGE,
    b"<iq" + ADDRESSES + b" type='get'><p:a p:b='1'><![CDATA[<x>]]></p:a></iq></stream:stream>",
    b"<presence" + ADDRESSES + b"/><db:result from='a.example' to='b.example'>key</db:result>",
    b"<message" + ADDRESSES + b"><a xmlns='a b' b='&lt;&#10;&quot;'>\xd0\xb6&amp;</a></message>",
    b"<message" + ADDRESSES + b"><![CDATA[a\0b]]></message>" + MESSAGE,
    b"<message" + ADDRESSES + b"><!-- c --><?d e?><!DOCTYPE f>&g;</message>",
    b"<message" + ADDRESSES + b"><a xmlns='jabber:server}message'/><b xmlns:c=''/></message>",
]


def assert_alike(one: list[object], other: list[object]) -> None:
    """Where both end with an error, one may have given up earlier: in doubt a read counts whole."""
    if one[-1:] == ["error"]:
        assert other[-1:] == ["error"]
        shorter = min(len(one), len(other)) - 1
        assert one[:shorter] == other[:shorter]
    else:
        assert one == other


def check(data: bytes) -> None:
    whole = StreamParser(LIMITS, authenticated=True)
    split = StreamParser(LIMITS, authenticated=True)
    one = whole.feed(HEADER) + whole.feed(data)
    other = split.feed(HEADER)
    for piece in pieces(data):
        other += split.feed(piece)
    assert_alike(summary(one), summary(other))
    stranger = StreamParser(LIMITS)
    summary(stranger.feed(data))  # before authentication, from the first byte
