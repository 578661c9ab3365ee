"""Requests that may come twice: an iq of type get or set is never executed a second time.

A previous hop with XEP-0198 sends what it has no acknowledgement for again, requests too, and says
nothing (Prosody marks late messages only). What this worker has taken is remembered; what a dead
worker may have sent is told by its journal. Pure: time comes in, in seconds.
"""

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum

from coordinator.routes import DomainPair
from workers.xmpp.stanza import Stanza

# Prosody remembers at most 500 stanzas (attach.md: its ring), and resends within seconds.
MAX_REQUESTS = 500
MAX_AGE = 60.0

Key = tuple[str, str | None]
"""Sender and id."""


class Repeat(Enum):
    """What is known about a request that came before."""

    TAKEN = "taken"
    """This worker has it or has settled it: its sender gets the one answer there is."""
    UNCERTAIN = "uncertain"
    """A dead worker may have sent it: nobody knows if it was executed."""


class Requests:
    """The requests of each domain pair that may be sent again."""

    def __init__(self) -> None:
        self._known: dict[DomainPair, OrderedDict[Key, tuple[float, Repeat]]] = {}
        self._uncertain: dict[DomainPair, float] = {}

    def remember(self, pair: DomainPair, requests: Iterable[Stanza], now: float) -> None:
        """This worker has taken these."""
        keys = [(request.sender, request.id) for request in requests]
        self._note(pair, keys, now, Repeat.TAKEN)

    def suspect(self, pair: DomainPair, keys: Iterable[Key], now: float) -> None:
        """A dead worker may have sent these."""
        self._note(pair, keys, now, Repeat.UNCERTAIN)
        self._uncertain[pair] = now

    def is_suspicious(self, pair: DomainPair) -> bool:
        """A dead worker had requests of this pair: look at each that comes."""
        return pair in self._uncertain

    def judge(self, pair: DomainPair, stanza: Stanza, now: float) -> Repeat | None:
        """Whether a stanza is a request that came before; None if it did not."""
        if not stanza.is_request:
            return None
        known = self._known.get(pair)
        entry = known.get((stanza.sender, stanza.id)) if known else None
        return entry[1] if entry is not None and now - entry[0] < MAX_AGE else None

    def forget_old(self, now: float) -> None:
        """Call now and then: what nobody will send again is dropped."""
        for pair, known in list(self._known.items()):
            while known and now - next(iter(known.values()))[0] > MAX_AGE:
                known.popitem(last=False)
            if not known:
                del self._known[pair]
        for pair, at in list(self._uncertain.items()):
            if now - at > MAX_AGE:
                del self._uncertain[pair]

    def _note(self, pair: DomainPair, keys: Iterable[Key], now: float, repeat: Repeat) -> None:
        known = self._known.setdefault(pair, OrderedDict())
        for key in keys:
            if key[1] is None:
                continue  # without an id two requests cannot be told from one
            known[key] = (now, repeat)
            known.move_to_end(key)
        while len(known) > MAX_REQUESTS:
            known.popitem(last=False)
