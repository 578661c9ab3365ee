"""What the sink tells a domain at the end: how much it has sent it, and what came back to it.

In order behind everything else, so whoever has the answer has all that was not lost.
"""

from dataclasses import dataclass, field

from lxml import etree

from loadtest.load.messages import TALLY
from workers.xmpp.stanza import Stanza
from workers.xmpp.xml_text import attribute


@dataclass(frozen=True, slots=True)
class Refused:
    """A stanza of the sink's that was returned to it with an error."""

    address: str
    """The bare JID that had sent it."""
    id: str
    condition: str


@dataclass(slots=True)
class Tally:
    copies: dict[str, int] = field(default_factory=dict)
    """Sent to this domain, by the bare JID of the sender."""
    refused: list[Refused] = field(default_factory=list)

    def to_xml(self) -> str:
        """The content of an iq."""
        children = [
            f"<copies from={attribute(address)} sent='{count}'/>"
            for address, count in self.copies.items()
        ]
        children += [
            f"<refused from={attribute(each.address)} id={attribute(each.id)}"
            f" condition={attribute(each.condition)}/>"
            for each in self.refused
        ]
        return f"<tally xmlns='{TALLY}'>{''.join(children)}</tally>"

    @classmethod
    def from_stanza(cls, stanza: Stanza) -> "Tally":
        """What a result says; nothing if it was another server that answered."""
        tally = cls()
        for child in etree.fromstring(stanza.data).iterfind(f"{{{TALLY}}}tally/*"):
            address = child.get("from", "")
            if child.tag == f"{{{TALLY}}}copies":
                tally.copies[address] = int(child.get("sent", "0"))
            elif child.tag == f"{{{TALLY}}}refused":
                refused = Refused(address, child.get("id", ""), child.get("condition", ""))
                tally.refused.append(refused)
        return tally
