"""What the generators send: stanzas with a number each, encoded before the clock starts."""

import re
from collections.abc import Sequence
from functools import lru_cache

SIZE = 300
"""Bytes of a stanza as it is in a WebSocket message."""
SMALLEST = 100
XMLNS = b" xmlns='jabber:server'"
# Of ten stanzas of mixed traffic.
_MIX = (*("message",) * 6, *("presence",) * 2, "get", "result")
_BODIES = {
    "message": ("message", "type='chat'", "<body>{}</body>"),
    "presence": ("presence", "", "<show>away</show><status>{}</status>"),
    "get": ("iq", "type='get'", "<query xmlns='jabber:iq:roster' ver='{}'/>"),
    "result": ("iq", "type='result'", "<vCard xmlns='vcard-temp'><DESC>{}</DESC></vCard>"),
}
_DIGITS = 8
_NUMBER = re.compile(rb" id=.n(\d+)")


def encode(
    sender: str, target: str, number: int, *, size: int = SIZE, mixed: bool = False
) -> bytes:
    """One stanza from `sender` to `target`, both domains, as it is in a WebSocket message.

    No longer than `SMALLEST` it has no users and no content: about so many bytes.
    """
    head, tail = _around_number(sender, target, _MIX[number % 10] if mixed else "message", size)
    return b"%b%0*d%b" % (head, _DIGITS, number, tail)


@lru_cache(maxsize=50_000)
def _around_number(sender: str, target: str, kind: str, size: int) -> tuple[bytes, bytes]:
    """What is before the number and behind it."""
    xmlns = XMLNS.decode()
    if size <= SMALLEST:
        return f"<message{xmlns} from='{sender}' to='{target}' id='n".encode(), b"'/>"
    name, attributes, payload = _BODIES[kind]
    head = f"<{name}{xmlns} from='juliet@{sender}/balcony' to='romeo@{target}/orchard' id='n"
    tail = f"' {attributes}>{payload}</{name}>"
    padding = max(1, size - len(head) - _DIGITS - len(tail) + len("{}"))
    return head.encode(), tail.format("w" * padding).encode()


def numbers(data: bytes) -> list[bytes]:
    """The numbers, as digits, of the stanzas in some bytes of a stream."""
    return _NUMBER.findall(data)


def in_stream(messages: Sequence[bytes]) -> bytes:
    """The same stanzas as they are inside a stream on TCP, whose header has the namespace."""
    return b"".join(message.replace(XMLNS, b"", 1) for message in messages)
