"""Stanzas of load servers and of the sink, as text; the ids are the ledger's."""

import re

from workers.xmpp.namespaces import DELAY, STANZA_ERRORS
from workers.xmpp.stanza import Stanza
from workers.xmpp.xml_text import attribute

TALLY = "urn:fedgate:load"
"""A question to the sink: how many copies it has sent to the domain that asks."""

_DELAY = DELAY.encode()
_CONDITION = re.compile(rb"<([a-z-]+) xmlns=['\"]" + STANZA_ERRORS.encode() + rb"['\"]")
_WORDS = "But soft what light through yonder window breaks It is the east and Juliet is the sun "


def body(size: int) -> str:
    """Text of so many bytes."""
    return (_WORDS * (size // len(_WORDS) + 1))[:size]


def stanza(
    name: str, sender: str, recipient: str, id: str, type: str = "", content: str = ""
) -> Stanza:
    """A stanza with ready-made content. Addresses and id are ours: nothing in them is hostile."""
    kind = f" type='{type}'" if type else ""
    data = (
        f"<{name} xmlns='jabber:server' from={attribute(sender)} to={attribute(recipient)}"
        f" id={attribute(id)}{kind}>{content}</{name}>"
    )
    return Stanza(
        name,
        data.encode(),
        sender,
        recipient,
        id,
        type or None,
        domain_part(sender),
        domain_part(recipient),
    )


def redirected(original: Stanza, sender: str, recipient: str, id: str, type: str) -> Stanza:
    """The same content with other addresses: what an echo sends back."""
    _, _, content = original.data.partition(b">")
    content = content.removesuffix(b">").rpartition(b"</")[0]
    # An element without content has no closing tag, and nothing is left of it here.
    return stanza(original.name, sender, recipient, id, type, content.decode())


def message(sender: str, recipient: str, id: str, text: str, type: str = "chat") -> Stanza:
    return stanza("message", sender, recipient, id, type, f"<body>{text}</body>")


def presence(sender: str, recipient: str, id: str, type: str = "") -> Stanza:
    return stanza("presence", sender, recipient, id, type)


def ping(sender: str, recipient: str, id: str) -> Stanza:
    """XEP-0199."""
    return stanza("iq", sender, recipient, id, "get", "<ping xmlns='urn:xmpp:ping'/>")


def result(request: Stanza, content: str = "") -> Stanza:
    return stanza("iq", request.recipient, request.sender, request.id or "", "result", content)


def is_marked(received: Stanza) -> bool:
    """Whether somebody marked it as late (XEP-0203)."""
    return _DELAY in received.data


def condition_of(error: Stanza) -> str:
    """The condition of a stanza error (RFC 6120 §8.3.3)."""
    found = _CONDITION.search(error.data)
    return found[1].decode() if found else "undefined-condition"


def domain_part(address: str) -> str:
    return address.partition("/")[0].rpartition("@")[2]


def local_part(address: str) -> str:
    local, at, _ = address.partition("/")[0].rpartition("@")
    return local if at else ""
