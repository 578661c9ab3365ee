"""What the journal keeps of a batch: its stanzas, or what names its requests."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from coordinator.accounts import IN_FLIGHT_OURS, IN_FLIGHT_RESENDABLE
from coordinator.journal import Kind, Record
from workers.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from workers.gateway.batch import Batch
    from workers.gateway.flow import Origin

_encode = msgspec.msgpack.Encoder().encode


class Claim(Record, eq=False, kw_only=True):
    """A batch's stanzas, also when the batch was split since."""

    origin: "Origin"
    stanzas: list[Stanza]
    batches: "list[Batch]"
    left: int
    """Stanzas not settled: the record is complete at 0."""
    has_gaps: bool
    """Some of its stanzas are not in the record: they have failed, and await their replies."""

    def encode(self) -> tuple[str, str, bytes]:
        return *pair_of(self.kind, self.stanzas[0]), encoded(self.stanzas)

    def on_kept(self, is_kept: bool) -> Callable[[], None] | None:
        if not is_kept or self.has_gaps:
            return None  # Redis is away, or not all of it is there: it goes on as ours
        counters = self.origin.counters
        for batch in self.batches:
            if batch.flight == IN_FLIGHT_OURS:
                count = batch.size - batch.settled
                counters[IN_FLIGHT_OURS] -= count
                counters[IN_FLIGHT_RESENDABLE] += count
                batch.flight = IN_FLIGHT_RESENDABLE
            batch.kept = True
        return self.origin.report  # once for all that an append has kept


class Note(Record, eq=False, kw_only=True):
    """A batch's requests, whose sender may send them again: they may have been executed.

    Names alone: the note outlives its stanzas, whose bytes it must not hold that long.
    """

    pair: tuple[str, str]
    names: list[tuple[str, str | None]]
    """Sender and id of each."""
    batches: "list[Batch]"
    left: int
    """Stanzas that their sender was not told to be handled: the note is of no use at 0."""

    def encode(self) -> tuple[str, str, bytes]:
        return *self.pair, _encode(self.names)

    def on_kept(self, is_kept: bool) -> None:
        for batch in self.batches:
            batch.release()


def pair_of(kind: Kind, stanza: Stanza) -> tuple[str, str]:
    """Our domain and the remote one: not a `DomainPair`, which takes 0.2 µs."""
    sender, target = stanza.sender_domain, stanza.target_domain
    return (sender, target) if kind == "out" else (target, sender)


def encoded(stanzas: list[Stanza]) -> bytes:
    """A record's data, as `replay.py` reads it."""
    return _encode([stanza.data for stanza in stanzas])
