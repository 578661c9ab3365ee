"""What the generators send: stanzas with a number each, encoded before the clock starts."""

import re
from collections.abc import Sequence

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
_NUMBER = re.compile(rb" id=.n(\d+)")


def encode(
    sender: str, target: str, number: int, *, size: int = SIZE, mixed: bool = False
) -> bytes:
    """One stanza from `sender` to `target`, both domains, as it is in a WebSocket message.

    No longer than `SMALLEST` it has no users and no content: about so many bytes.
    """
    if size <= SMALLEST:
        return (
            f"<message{XMLNS.decode()} from='{sender}' to='{target}' id='n{number:08}'/>"
        ).encode()
    kind = _MIX[number % 10] if mixed else "message"
    name, attributes, payload = _BODIES[kind]
    head = (
        f"<{name}{XMLNS.decode()} from='juliet@{sender}/balcony' to='romeo@{target}/orchard'"
        f" id='n{number:08}' {attributes}>"
    )
    tail = f"</{name}>"
    padding = max(1, size - len(head) - len(payload) + 2 - len(tail))
    return f"{head}{payload.format('w' * padding)}{tail}".encode()


def numbers(data: bytes) -> list[bytes]:
    """The numbers, as digits, of the stanzas in some bytes of a stream."""
    return _NUMBER.findall(data)


def in_stream(messages: Sequence[bytes]) -> bytes:
    """The same stanzas as they are inside a stream on TCP, whose header has the namespace."""
    return b"".join(message.replace(XMLNS, b"", 1) for message in messages)
