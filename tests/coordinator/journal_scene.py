"""A journal without Redis, as its tests use it."""

from coordinator.journal import Append, Journal, Kind, Record, decode_entry
from coordinator.routes import DomainPair

PAIR = DomainPair("a.example", "b.example")


class Scene:
    """A journal, and what its records were told."""

    def __init__(self, max_bytes: int = 1000, max_age: float = 60.0) -> None:
        self.journal = Journal(max_bytes, max_age)
        self.journal.regain_contact(None)
        self.told: list[tuple[str, bool]] = []
        self.encoded: list[str] = []

    def add(self, name: str, *, size: int = 10, now: float = 0.0, kind: Kind = "out") -> Record:
        def encode() -> bytes:
            self.encoded.append(name)
            return name.encode()

        record = Record(kind, PAIR, encode, size, lambda kept: self.told.append((name, kept)))
        self.journal.add(record, now)
        return record

    def append(self) -> Append:
        append = self.journal.next_append()
        assert append is not None
        return append

    def written(self, append: Append) -> list[str]:
        return [dealt.data.decode() for dealt in decode_entry(append.payload)]
