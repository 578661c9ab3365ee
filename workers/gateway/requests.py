"""Requests that may come twice: an iq of type get or set is never executed a second time.

A previous hop with XEP-0198 sends what it has no acknowledgement for again, requests too, and says
nothing (Prosody marks late messages only). What a lost stream had brought is remembered as far as
it can come again; what a dead worker may have sent is told by its journal. A request that was
acknowledged is not: clients may use an id anew. Pure: time comes in, in seconds.
"""

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum

from coordinator.routes import DomainPair
from workers.xmpp.stanza import Stanza

# Prosody remembers at most 500 stanzas (attach.md: its ring), and resends within seconds.
MAX_REQUESTS = 500
MAX_AGE = 60.0
# An acknowledgement that was written may be lost with its stream; what arrived longer ago than
# this, in seconds, has been acknowledged for so long that the sender knows.
RECENT = 10.0

Key = tuple[str, str | None]
"""Sender and id."""


class Repeat(Enum):
    """What is known about a request that came before."""

    TAKEN = "taken"
    """A stream of this worker brought it: its sender gets the one answer there is."""
    UNCERTAIN = "uncertain"
    """A dead worker may have sent it: nobody knows if it was executed."""


class Taken:
    """The requests that one stream has brought and that may come again when it ends."""

    def __init__(self) -> None:
        self._runs: list[tuple[float, int, list[Key]]] = []

    def add(self, requests: Iterable[Stanza], accepted: int, now: float) -> None:
        """They are among the first `accepted` stanzas of the stream."""
        keys = [(request.sender, request.id) for request in requests]
        self._runs.append((now, accepted, keys))

    def forget_handled(self, handled: int, now: float) -> None:
        """The sender knows for long that the first `handled` stanzas are acknowledged."""
        known = 0
        for at, accepted, _ in self._runs:
            if accepted > handled or now - at <= RECENT:
                break
            known += 1
        if known:
            del self._runs[:known]

    def left(self, handled: int, now: float, *, is_clean: bool) -> list[Key]:
        """What may come again. `is_clean`: the sender has all our acknowledgements."""
        return [
            key
            for at, accepted, keys in self._runs
            if accepted > handled or (not is_clean and now - at <= RECENT)
            for key in keys
        ]


class Requests:
    """The requests of each domain pair that may be sent again."""

    def __init__(self) -> None:
        self._known: dict[DomainPair, OrderedDict[Key, tuple[float, Repeat]]] = {}
        self.suspicious: dict[DomainPair, float] = {}
        """A dead worker had requests of these pairs: look at each that comes. Since when."""

    def remember(self, pair: DomainPair, keys: Iterable[Key], now: float) -> None:
        """A stream that has ended brought these, and they may come again."""
        self._note(pair, keys, now, Repeat.TAKEN)

    def suspect(self, pair: DomainPair, keys: Iterable[Key], now: float) -> None:
        """A dead worker may have sent these."""
        self._note(pair, keys, now, Repeat.UNCERTAIN)
        self.suspicious[pair] = now

    def expects(self, pair: DomainPair) -> bool:
        """Something of the pair may come a second time."""
        return pair in self._known

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
        for pair, at in list(self.suspicious.items()):
            if now - at > MAX_AGE:
                del self.suspicious[pair]

    def _note(self, pair: DomainPair, keys: Iterable[Key], now: float, repeat: Repeat) -> None:
        known = self._known.setdefault(pair, OrderedDict())
        for key in list(keys)[-MAX_REQUESTS:]:
            if key[1] is None:
                continue  # without an id two requests cannot be told from one
            known[key] = (now, repeat)
            known.move_to_end(key)
        while len(known) > MAX_REQUESTS:
            known.popitem(last=False)
