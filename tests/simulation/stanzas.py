"""The stanzas of the simulation, and reading XML as far as its servers need to.

An id tells all: `o2-17` is the 17th stanza of pair 2 towards the remote, `i2-17` towards the local
server. Servers here read with a regular expression: a second opinion beside the code under test.
"""

import re
from typing import NamedTuple

_IDS = re.compile(rb"<(?:message|presence|iq)\b[^>]*?\bid=[\"']([oi]\d+-\d+)[\"']")
_ATTRIBUTE = re.compile(rb"\b(id|type|from|to|h)=[\"']([^\"']*)[\"']")
_TAG = re.compile(rb"<(/?)([a-zA-Z:?]+)([^>]*?)(/?)>")
_WHOLE = frozenset({b"stream:stream", b"?xml"})
DELAY = b"<delay xmlns='urn:xmpp:delay' from='%s' stamp='2027-01-15T08:00:00Z'/>"

MESSAGE = "message"
REQUEST = "request"
RESULT = "result"
ERROR = "error"
PRESENCE = "presence"


class Token(NamedTuple):
    """One element as it was read: its name, the text of its opening tag, all of it."""

    name: str
    attributes: dict[str, str]
    data: bytes


class Reader:
    """Cuts what arrives into top-level elements."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Token]:
        data = self._rest + data if self._rest else data
        tokens: list[Token] = []
        at = 0
        while at < len(data):
            found = _TAG.search(data, at)
            if found is None:
                break
            closing, name, attributes, empty = found.groups()
            end = found.end()
            if not closing and not empty and name not in _WHOLE:
                stop = data.find(b"</" + name + b">", end)
                if stop < 0:
                    break
                end = stop + len(name) + 3
            tokens.append(
                Token(
                    ("/" if closing else "") + name.decode(),
                    {key.decode(): value.decode() for key, value in _ATTRIBUTE.findall(attributes)},
                    data[at:end],
                )
            )
            at = end
        self._rest = data[at:]
        return tokens


def ids_in(data: bytes) -> tuple[str, ...]:
    """The ids of the simulation's stanzas in a piece of a stream."""
    return tuple(id.decode() for id in _IDS.findall(data))


def write(kind: str, id: str, sender: str, target: str) -> bytes:
    """A stanza as a stock server writes it."""
    addresses = f"from='u@{sender}' to='v@{target}' id='{id}'"
    if kind == MESSAGE:
        return f"<message {addresses} type='chat'><body>{id}</body></message>".encode()
    if kind == PRESENCE:
        return f"<presence {addresses}><show>away</show></presence>".encode()
    if kind == ERROR:
        return (
            f"<message {addresses} type='error'><error type='cancel'><gone "
            "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        ).encode()
    if kind == RESULT:
        return f"<iq {addresses} type='result'><q xmlns='urn:q'/></iq>".encode()
    return f"<iq {addresses} type='set'><q xmlns='urn:q'/></iq>".encode()


def delayed(data: bytes, domain: str) -> bytes:
    """Marked as sent again (XEP-0203), which no iq can be."""
    if data.startswith(b"<iq") or b"urn:xmpp:delay" in data:
        return data
    at = data.rindex(b"</")
    return data[:at] + DELAY % domain.encode() + data[at:]


def is_marked(data: bytes) -> bool:
    return b"urn:xmpp:delay" in data
