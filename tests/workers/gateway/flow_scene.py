"""An origin, its outbox, and a journal that keeps nothing until the test says so."""

from coordinator.accounts import IN_FLIGHT_OURS, IN_FLIGHT_RESENDABLE
from coordinator.journal import Record
from coordinator.routes import DomainPair
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.outbox import Outbox
from workers.xmpp.stanza import Stanza

PAIR = DomainPair("a.example", "b.example")


class Journal:
    """Keeps nothing until the test says so."""

    def __init__(self) -> None:
        self.available = True
        self.records: list[Record] = []
        self.completed: list[Record] = []
        self.told: list[Record] = []

    def add(self, record: Record) -> None:
        self.records.append(record)

    def complete(self, record: Record) -> None:
        self.completed.append(record)

    def complete_later(self, record: Record) -> None:
        self.told.append(record)

    def each_second(self) -> None: ...

    def answer(self, *, is_kept: bool = True) -> None:
        for record in self.records:
            if (report := record.on_kept(is_kept)) is not None:
                report()


class Scene:
    def __init__(self) -> None:
        self.counters = memoryview(bytearray(32 * 8)).cast("Q")
        self.handled = 0
        self.journal = Journal()
        self.origin = Origin(self.counters, self._on_handled, journal=self.journal)
        self.outbox = Outbox()

    def _on_handled(self, count: int) -> None:
        self.handled += count

    def accept(self, *stanzas: Stanza, now: float = 0.0) -> Batch:
        batch = self.origin.accept(list(stanzas), now)
        self.outbox.push(batch)
        return batch

    def take(self) -> list[str | None]:
        return [stanza.id for stanza in self.outbox.take(lambda batch: batch.stanzas)]

    @property
    def flights(self) -> tuple[int, int]:
        return self.counters[IN_FLIGHT_OURS], self.counters[IN_FLIGHT_RESENDABLE]


def message(id: str) -> Stanza:
    return _stanza("message", id, None)


def request(id: str) -> Stanza:
    return _stanza("iq", id, "set")


def _stanza(name: str, id: str, type: str | None) -> Stanza:
    data = f"<{name} id='{id}'/>".encode()
    return Stanza(name, data, "x@a.example", "y@b.example", id, type, *PAIR)
