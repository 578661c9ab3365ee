"""The journal's bookkeeping: what is unfinished, what Redis has confirmed, what to write next.

No clock, no loop, no Redis: `journal_writer.py` acts on it. A `Record` is one run of stanzas of a
domain pair; whatever records wait when an append begins become one entry of a Redis stream, which
is deleted when all of them are complete. Notes, which outlive what they tell of, form an entry of
their own. Only one append is in flight: what comes meanwhile goes together. The worker is the only
writer and numbers its entries itself, so an append whose answer never came is known by its number:
the next append deletes it, executed or not.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.routes import DomainPair

Kind = Literal["out", "in", "note", "barrier"]
"""Stanzas to a remote domain, stanzas to the local server, requests of either direction that may
have been executed already (only what names them); the answer to a ping of the worker in whose inbox
it is, of no use to any other."""

NOTE_SECONDS = 3.0
"""How long a note is of use once the sender was told that its requests are handled: what told it
may have been lost with the connection, and the sender does not ask for it later than that."""

MAX_ENTRY_BYTES = 262144
"""An entry is closed by the record that reaches this: a page of entries stays small to read."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[Kind, str, str, bytes]])


# A Struct, not a class with __init__: one is made for each stanza that comes alone.
class Record(Struct, eq=False):
    """One run of stanzas of one domain pair, in order, from `Journal.add` to `Journal.complete`.

    `size` in bytes is what counts for the bound.
    """

    kind: Kind
    size: int
    entry: "Entry | None" = None
    added_at: float = 0.0
    is_complete: bool = False
    is_kept: bool = False
    """Redis has confirmed it once."""

    def __repr__(self) -> str:
        """No names, and nothing of what it holds, which may be much."""
        return f"<{type(self).__name__} {self.kind}, {self.size} bytes>"

    def encode(self) -> tuple[str, str, bytes]:
        """Its domain pair and data: called once per write, and never when it is complete."""
        raise NotImplementedError

    def on_kept(self, is_kept: bool) -> Callable[[], None] | None:
        """Redis has confirmed it; or it is away and one must go on without (true may follow).

        What this returns is called when all who were kept with it have been told, once if several
        return the same. Nothing is said after completion.
        """
        raise NotImplementedError


class Entry:
    """A confirmed entry of the stream and how many of its records are unfinished."""

    __slots__ = ("number", "unfinished")

    def __init__(self, number: int, unfinished: int) -> None:
        self.number = number
        self.unfinished = unfinished


class Append(NamedTuple):
    """What to write next: a new entry (none if `payload` is empty) and the entries to delete.

    `notes`, if not empty, is another entry, with the number before.
    """

    number: int
    payload: bytes
    floor: int
    """All entries below this number are finished."""
    finished: list[int]
    """Finished entries above the floor."""
    notes: bytes = b""


class Dealt(NamedTuple):
    """A record as it is read back from Redis."""

    kind: Kind
    pair: DomainPair
    data: bytes


class InvalidEntry(Exception):
    """An entry of a stream is not what we write."""


def encode_entry(records: Iterable[Dealt]) -> bytes:
    """The payload of an entry."""
    return _encoder.encode([(kind, *pair, data) for kind, pair, data in records])


def decode_entry(payload: bytes) -> list[Dealt]:
    """The records of an entry; from Redis, so checked like any input: raises `InvalidEntry`."""
    try:
        return [
            Dealt(kind, DomainPair(normalise_domain(local), normalise_domain(remote)), data)
            for kind, local, remote, data in _decoder.decode(payload)
        ]
    except (msgspec.DecodeError, InvalidDomain) as exc:
        raise InvalidEntry(str(exc)[:200]) from exc


class Journal:
    """All unfinished records of a worker, bounded by `max_bytes` and `max_age` (s)."""

    def __init__(self, max_bytes: int, max_age: float) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.bytes = 0
        """The size of all unfinished records."""
        self.waiting_bytes = 0
        """The size of those no append has taken; some may be complete by now."""
        # By age. Not a plain dict: finding its first key costs more with each deletion before it.
        self._unfinished: OrderedDict[Record, None] = OrderedDict()
        self._waiting: deque[Record] = deque()
        self._flying: list[tuple[int, list[Record]]] | None = None
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._finished: list[int] = []
        self._deleting: list[int] = []
        self._number = 0
        self._confirmed = 0

    def __len__(self) -> int:
        """How many entries in Redis have unfinished records."""
        return len(self._entries)

    @property
    def records(self) -> int:
        """How many records are unfinished."""
        return len(self._unfinished)

    @property
    def is_in_flight(self) -> bool:
        """An append was begun and neither confirmed nor given up."""
        return self._flying is not None

    @property
    def has_waiting(self) -> bool:
        """Records wait for an append; they may be complete by now."""
        return bool(self._waiting)

    @property
    def has_work(self) -> bool:
        """There is something that `next_append` might return."""
        return bool(self._waiting or self._finished)

    def add(self, record: Record, now: float) -> None:
        """Begin to hold a record. The bounds are the caller's to ask for."""
        record.added_at = now
        self._unfinished[record] = None
        self._waiting.append(record)
        self.bytes += record.size
        self.waiting_bytes += record.size

    def complete(self, record: Record) -> None:
        """All stanzas of the record are settled. May be repeated."""
        if record.is_complete:
            return
        self.retire(record)
        record.is_complete = True
        entry = record.entry
        if entry is not None:
            entry.unfinished -= 1
            if not entry.unfinished and self._entries.pop(entry.number, None) is not None:
                self._finished.append(entry.number)

    def retire(self, record: Record) -> None:
        """It stays where it is until `complete`, but counts for no bound and is not written again.

        May be repeated.
        """
        if record in self._unfinished:
            del self._unfinished[record]
            self.bytes -= record.size

    @property
    def is_large(self) -> bool:
        """Too much is unfinished: accept nothing more that needs the journal."""
        return self.bytes > self.max_bytes

    def is_old(self, now: float) -> bool:
        """Something is unfinished for too long: accept nothing more, likewise."""
        oldest = next(iter(self._unfinished), None)
        return oldest is not None and now - oldest.added_at > self.max_age

    def next_append(self) -> Append | None:
        """Begin the next append; None while one is in flight, or if there is nothing to write.

        Afterwards call `appended` or `lose_contact`.
        """
        if self._flying is not None:
            return None
        notes: list[Record] = []
        others: list[Record] = []
        size, waiting = 0, self._waiting
        while waiting and size < MAX_ENTRY_BYTES:
            record = waiting.popleft()
            self.waiting_bytes -= record.size
            if not record.is_complete:
                (notes if record.kind == "note" else others).append(record)
                size += record.size
        if not notes and not others and not self._finished:
            return None
        floor = next(iter(self._entries), self._number + 1)
        finished = [number for number in self._finished if number > floor]
        self._deleting, self._finished = self._finished, []
        self._flying, payloads = [], [b""]
        for taken in (notes, others):
            if taken:
                self._number += 1
                self._flying.append((self._number, taken))
                payloads.append(_encoded(taken))
        notes_payload = payloads[1] if len(self._flying) > 1 else b""
        return Append(self._number, payloads[-1], floor, finished, notes_payload)

    def appended(self) -> None:
        """Redis has done the append in flight: tell those who wait for it."""
        flying, self._flying = self._flying or [], None
        for number, taken in flying:
            self._confirmed = number
            unfinished = [record for record in taken if not record.is_complete]
            if unfinished:
                entry = Entry(number, len(unfinished))
                self._entries[number] = entry
                for record in unfinished:
                    record.entry = entry
            else:
                self._finished.append(number)
        # A dictionary keeps their order. Stanzas that come one by one, some sixty to an append, are
        # of one stream as a rule, whose report takes 1 µs each time.
        afterwards: dict[Callable[[], None], None] = {}
        for _, taken in flying:
            for record in taken:
                if not record.is_complete and not record.is_kept:
                    record.is_kept = True
                    if (told := record.on_kept(True)) is not None:
                        afterwards[told] = None
        for told in afterwards:
            told()

    def lose_contact(self) -> None:
        """Redis does not answer: those who wait go on without. Call it again for what is added.

        Nothing more is written before `regain_contact`.
        """
        waiting = [*self._give_up_append(), *self._waiting]
        self._waiting.clear()
        self.waiting_bytes = 0
        for record in waiting:
            if not record.is_kept and not record.is_complete:
                record.on_kept(False)

    def regain_contact(self, last: int | None, *, is_sealed: bool = False) -> None:
        """Redis answers again, and `last` is the newest number it knows; None: the stream is new.

        What is missing there is written again; `is_sealed`: others took what was there and will
        send it, so that is not written again.
        """
        self._give_up_append()
        self._number = max(self._number, last or 0)
        if is_sealed:
            for record in self._unfinished:
                if record.entry is not None:
                    record.entry = _ELSEWHERE
            self._entries.clear()
            self._finished.clear()
        elif (last or 0) < self._confirmed:
            self._lose_entries(last or 0)
        self._confirmed = last or 0
        self._waiting = deque(record for record in self._unfinished if record.entry is None)
        self.waiting_bytes = sum(record.size for record in self._waiting)

    def _lose_entries(self, last: int) -> None:
        """What Redis has is older than what it had confirmed: all up to entry `last`."""
        for record in self._unfinished:
            if record.entry is not None and record.entry.number > last:
                record.entry = None
        while self._entries and next(reversed(self._entries)) > last:
            self._entries.popitem()

    def _give_up_append(self) -> list[Record]:
        """Nobody knows whether the append in flight, if any, was executed; returns its records."""
        flying, self._flying = self._flying, None
        if flying is None:
            return []
        self._finished += self._deleting
        self._finished += [number for number, _ in flying]
        return [record for _, taken in flying for record in taken]


def _encoded(records: Iterable[Record]) -> bytes:
    return _encoder.encode([(record.kind, *record.encode()) for record in records])


_ELSEWHERE = Entry(0, 0)  # never reaches 0 again: its count only falls
