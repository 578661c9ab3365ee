"""A stanza as it travels: routed by its addresses, carried as the bytes our serializer wrote."""

from dataclasses import dataclass
from operator import attrgetter
from typing import final

from msgspec import Struct

from workers.xmpp.errors import StanzaCondition
from workers.xmpp.namespaces import DELAY, STANZA_ERRORS
from workers.xmpp.reader import read_own
from workers.xmpp.xml_text import attribute, character_data


# A Struct, not a class with __init__: one is made per stanza (0.06 against 0.15 µs). It holds only
# strings and bytes, so the garbage collector need not look at it.
@final
class Stanza(Struct, eq=False, gc=False):
    """One message, presence or iq.

    `data` is the whole element, self-sufficient on any leg: it begins with `<` and the plain name,
    declares `xmlns='jabber:server'` and every prefix it uses.
    """

    name: str
    data: bytes
    sender: str
    recipient: str
    id: str | None
    type: str | None
    sender_domain: str
    target_domain: str

    def __repr__(self) -> str:
        return f"<Stanza {self.name} type={self.type} {self.sender_domain}>{self.target_domain}>"

    @property
    def is_request(self) -> bool:
        """An iq that may be executed: it is never sent a second time (RFC 6120 §8.2.3)."""
        return self.name == "iq" and self.type in ("get", "set")


# For many at once, with `map`.
data_of = attrgetter("data")


def bytes_of(stanzas: list[Stanza]) -> int:
    """How large they are on a WebSocket, without the frames."""
    if len(stanzas) == 1:
        return len(stanzas[0].data)
    return sum(map(len, map(data_of, stanzas)))


@dataclass(slots=True)
class RefusedStanza:
    """A complete, well-formed stanza that is not passed on: it breaks a limit or a rule of ours.

    One user can make one; it must not end the stream that all users of a server share. `stanza` is
    fit to be bounced (policy-violation) and counted, and has no data. `reason` says what is wrong.
    """

    stanza: Stanza
    reason: str


def why_not_bounced(stanza: Stanza) -> str | None:
    """The drop reason of a stanza that RFC 6120 §8.3.1 forbids to answer; None if it may be."""
    if stanza.type == "error":
        return "type-error"
    if stanza.name == "iq" and stanza.type == "result":
        return "iq-result"
    return None


def bounce(stanza: Stanza, condition: StanzaCondition, text: str = "") -> Stanza | None:
    """Answer a stanza with an error (RFC 6120 §8.3); None if that is forbidden.

    The payload is not returned and there is no `by`: the error is sent in the target's name.
    """
    if why_not_bounced(stanza) is not None:
        return None
    told = f"<text xmlns='{STANZA_ERRORS}' xml:lang='en'>{character_data(text)}</text>"
    data = (
        f"<{stanza.name} xmlns='jabber:server' from={attribute(stanza.recipient)}"
        f" to={attribute(stanza.sender)}"
        f"{'' if stanza.id is None else f' id={attribute(stanza.id)}'} type='error'>"
        f"<error type='{condition.error_type}'><{condition.tag} xmlns='{STANZA_ERRORS}'/>"
        f"{told if text else ''}</error></{stanza.name}>"
    )
    return Stanza(
        stanza.name,
        data.encode(),
        stanza.recipient,
        stanza.sender,
        stanza.id,
        "error",
        stanza.target_domain,
        stanza.sender_domain,
    )


def with_delay(stanza: Stanza, stamp: str, from_domain: str) -> Stanza:
    """Mark a message or presence as late (XEP-0203); an iq is returned as it is.

    `stamp` is a UTC time in the form of XEP-0082. A stanza this domain has already marked keeps its
    first mark (XEP-0203 §2: one per entity).
    """
    if stanza.name == "iq" or has_delay(stanza.data, from_domain):
        return stanza
    mark = f"<delay xmlns='{DELAY}' from={attribute(from_domain)} stamp={attribute(stamp)}/>"
    data, end = stanza.data, f"</{stanza.name}>".encode()
    # Our serializer closes the element with `/>` only if it is empty, and leaves nothing after it.
    late = (
        data[:-2] + b">" + mark.encode() + end
        if data.endswith(b"/>")
        else data[: -len(end)] + mark.encode() + end
    )
    return Stanza(
        stanza.name,
        late,
        stanza.sender,
        stanza.recipient,
        stanza.id,
        stanza.type,
        stanza.sender_domain,
        stanza.target_domain,
    )


def has_delay(data: bytes, from_domain: str) -> bool:
    """Tell if a stanza carries this domain's mark of a late delivery (XEP-0203)."""
    if DELAY.encode() not in data:
        return False
    marks = read_own(data).findall(f"{{{DELAY}}}delay")
    return any(mark.get("from") == from_domain for mark in marks)
