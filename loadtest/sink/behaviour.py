"""What the sink makes of each stanza, by the local part of its address.

echo@sink                  the same back: messages, presence; a result for every request
room…@sink                 presence joins; what a member says is copied to every member
relay@sink/other.example   goes on to user@other.example, whoever sent it
sink                       answers pings and tallies (`loadtest.load.tally`)
"""

from collections import Counter, defaultdict

from loadtest.load import messages
from loadtest.load.tally import Refused, Tally
from workers.xmpp.stanza import Stanza

# Of the errors that come back for one domain, so many are told.
_MOST_REFUSED = 10_000


class Behaviour:
    """Pure: a stanza in, stanzas out. The domains of the answers are in them."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        """By name of element and, of errors, their condition."""
        self._members: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """Of each room: the full JID by domain."""
        self._copies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By domain: how many each room has sent it."""
        self._refused: defaultdict[str, list[Refused]] = defaultdict(list)

    def answer(self, stanza: Stanza) -> list[Stanza]:
        """What is sent because of it, in order."""
        if stanza.type == "error":
            self._on_error(stanza)
            return []
        self.received[stanza.name] += 1
        if stanza.name == "iq":
            return self._on_iq(stanza)
        local = messages.local_part(stanza.recipient)
        if local.startswith("room"):
            return self._on_room(stanza)
        if local == "relay":
            return self._on_relay(stanza)
        if local == "echo":
            return [self._back(stanza)]
        return []

    def _on_iq(self, iq: Stanza) -> list[Stanza]:
        if iq.type not in ("get", "set"):
            return []
        if messages.TALLY.encode() not in iq.data:
            return [messages.result(iq)]
        domain = iq.sender_domain
        tally = Tally(dict(self._copies[domain]), self._refused.pop(domain, []))
        return [messages.result(iq, tally.to_xml())]

    def _on_room(self, stanza: Stanza) -> list[Stanza]:
        room = stanza.recipient.partition("/")[0]
        members = self._members[room]
        if stanza.name == "presence":
            if stanza.type == "unavailable":
                members.pop(stanza.sender_domain, None)
            else:
                members[stanza.sender_domain] = stanza.sender
            return [self._back(stanza)]
        sender = f"{room}/{stanza.sender_domain}"
        copies = []
        for domain, member in members.items():
            number = self._copies[domain][room]
            self._copies[domain][room] += 1
            id = f"s.{number}.{stanza.id}"
            copies.append(messages.redirected(stanza, sender, member, id, "groupchat"))
        return copies

    def _on_relay(self, stanza: Stanza) -> list[Stanza]:
        bare, _, domain = stanza.recipient.partition("/")
        sender = f"{bare}/{stanza.sender_domain}"
        recipient = f"user@{domain}"
        return [messages.redirected(stanza, sender, recipient, stanza.id or "", stanza.type or "")]

    def _back(self, stanza: Stanza) -> Stanza:
        return messages.redirected(
            stanza, stanza.recipient, stanza.sender, stanza.id or "", stanza.type or ""
        )

    def _on_error(self, error: Stanza) -> None:
        """What we sent came back: its sender's domain learns with the next tally."""
        condition = messages.condition_of(error)
        self.received[f"error {condition}"] += 1
        refused = self._refused[error.sender_domain]
        if len(refused) < _MOST_REFUSED:
            address = error.recipient.partition("/")[0]
            refused.append(Refused(address, error.id or "", condition))
