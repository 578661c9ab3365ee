"""Stanzas, an origin whose ledger is looked at, and a journal that keeps when told to."""

import msgspec

from coordinator.accounts import (
    ACKNOWLEDGED,
    BOUNCED,
    DROPPED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
)
from coordinator.journal import Record
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.xmpp.stanza import Stanza

LARGE = 100


def a_stanza(id: str, *, request: bool = False, large: bool = False) -> Stanza:
    name, type = ("iq", "get") if request else ("message", None)
    size = LARGE + 1 if large else 10
    return Stanza(
        name,
        id.ljust(size).encode(),
        "a@a.example",
        "b@b.example",
        id,
        type,
        "a.example",
        "b.example",
    )


def some(count: int) -> list[Stanza]:
    return [a_stanza(str(at)) for at in range(count)]


def same(batch: Batch) -> list[Stanza]:
    return batch.stanzas


class Journal:
    """Keeps what it is asked to keep when the test says so."""

    available = True

    def __init__(self) -> None:
        self.asked: list[Record] = []
        self.completed: set[Record] = set()

    def add(self, record: Record) -> None:
        self.asked.append(record)

    def complete(self, record: Record) -> None:
        assert record not in self.completed
        self.completed.add(record)

    def complete_later(self, record: Record) -> None:
        self.complete(record)

    def each_second(self) -> None: ...

    def keep(self, count: int) -> list[str]:
        """Returns the ids of the stanzas that are kept now."""
        kept, self.asked = self.asked[:count], self.asked[count:]
        ids: list[str] = []
        for record in kept:
            if record not in self.completed:
                ids += [
                    data.decode().strip() for data in msgspec.msgpack.decode(record.encode()[2])
                ]
                report = record.on_kept(True)
                assert report is not None
                report()
        return ids


class Told:
    """An origin, its counters, and how much it was told to be handled."""

    def __init__(self) -> None:
        self.counters = memoryview(bytearray(32 * 8)).cast("Q")
        self.handled = 0
        self.journal = Journal()
        self.origin = Origin(self.counters, self._on_handled, journal=self.journal)

    def _on_handled(self, count: int) -> None:
        self.handled += count

    def ends(self) -> int:
        dropped = sum(self.counters[DROPPED : DROPPED + 16].tolist())
        return sum(self.counters[at] for at in (ACKNOWLEDGED, BOUNCED)) + dropped

    def in_flight(self) -> int:
        return self.counters[IN_FLIGHT_OURS] + self.counters[IN_FLIGHT_RESENDABLE]
