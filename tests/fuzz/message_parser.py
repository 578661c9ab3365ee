"""The parser of WebSocket legs: the same for messages together or one by one, and never two."""

from tests.fuzz.reading import ADDRESSES, LIMITS, MESSAGE, SEPARATOR, WS_OPEN, summary
from workers.xmpp.parser import MessageParser

SEEDS = [
    SEPARATOR.join((MESSAGE, MESSAGE, b"<r xmlns='urn:xmpp:sm:3'/>")),
    SEPARATOR.join((WS_OPEN, MESSAGE, b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")),
    MESSAGE + MESSAGE + SEPARATOR + b"</r><r>",
    b"<message" + ADDRESSES + b"/>" + SEPARATOR + b"<body>" + SEPARATOR + b"</message>",
    b"<db:result xmlns='jabber:server'" + ADDRESSES + b">key</db:result>",
    b"<a xmlns='urn:xmpp:sm:3' h='7'/>" + SEPARATOR + MESSAGE,
    b"<?xml version='1.0'?>" + MESSAGE.replace(b"hi", b"<![CDATA[<x>]]>"),
    MESSAGE.replace(b"hi", b"<a xmlns:b='c d' b:e=''/>&#xd;\xd0\xb6") + SEPARATOR + b" ",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + MESSAGE.replace(b"hi", b"&b;"),
]


def check(data: bytes) -> None:
    messages = data.split(SEPARATOR)
    together, alone = (MessageParser(LIMITS, authenticated=True) for _ in range(2))
    one = together.parse(messages)
    other = [item for message in messages for item in alone.parse([message])]
    assert summary(one) == summary(other)
    assert len(one) <= len(messages)
    summary(MessageParser(LIMITS).parse(messages))  # before authentication
    # Whatever it was, it reaches nobody else's parse.
    (item,) = MessageParser(LIMITS, authenticated=True).parse([MESSAGE])
    assert summary([item])[0][1] == MESSAGE.replace(b"'jabber", b'"jabber').replace(  # type: ignore[index]
        b"'", b'"'
    )
