"""A journal without Redis, as its tests use it."""

from collections.abc import Callable

from coordinator.journal import Append, Journal, Kind, Record, decode_entry
from coordinator.routes import DomainPair

PAIR = DomainPair("a.example", "b.example")


def _unheard(is_kept: bool) -> None:
    """Nobody wants to be told."""


class AnyRecord(Record, eq=False, kw_only=True):
    """A record that a test writes and is told of."""

    pair: DomainPair = PAIR
    write: Callable[[], bytes]
    tell: Callable[[bool], Callable[[], None] | None] = _unheard

    def encode(self) -> tuple[str, str, bytes]:
        return *self.pair, self.write()

    def on_kept(self, is_kept: bool) -> Callable[[], None] | None:
        return self.tell(is_kept)


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

        def tell(is_kept: bool) -> None:
            self.told.append((name, is_kept))

        record = AnyRecord(kind, size, write=encode, tell=tell)
        self.journal.add(record, now)
        return record

    def append(self) -> Append:
        append = self.journal.next_append()
        assert append is not None
        return append

    def written(self, append: Append) -> list[str]:
        return [dealt.data.decode() for dealt in decode_entry(append.payload)]
