"""Responsibility for stanzas between two hops: pure bookkeeping, no I/O, no clock.

An `Origin` is the stream stanzas came from, an `Outbox` (outbox.py) the way to their next hop. They
meet in a `Batch` (batch.py): a run of stanzas from one read to the same next hop. Work is done per
batch, not per stanza. The next hop acknowledges in order, so an outbox settles its batches from the
front; an origin is told in its own order, however many outboxes its batches went to.

Every stanza of a batch ends exactly once: acknowledged, bounced, dropped or returned. The account
(`coordinator/accounts.py`) is moved in the same call. Until then it is *ours*, lost if we die, or
*resendable*: the previous hop sends it again, or the journal, once Redis has confirmed its record.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from coordinator.accounts import (
    ACCEPTED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
    REPLAYED,
)
from coordinator.journal import Kind, Record
from workers.gateway.batch import NO_QUEUE, Batch
from workers.gateway.claims import Claim, Note, pair_of
from workers.xmpp.stanza import Stanza, bytes_of

Counters = memoryview
"""One direction of an `Account`."""

# Prosody keeps the last 500 stanzas it has no acknowledgement for, in a ring that overwrites
# silently: what is older than these many stanzas or seconds is journaled and acknowledged.
MAX_UNACKNOWLEDGED_RING = 200
MAX_UNACKNOWLEDGED_AGE = 10.0


_NO_STANZAS = cast("list[Stanza]", ())


class JournalPort(Protocol):
    """What is needed of the journal (`coordinator/journal_writer.py`)."""

    @property
    def available(self) -> bool:
        """Redis answers: records will be kept soon."""

    @property
    def is_full(self) -> bool:
        """It takes no more."""

    def add(self, record: Record) -> None: ...

    def complete(self, record: Record) -> None: ...

    def complete_later(self, record: Record) -> None: ...

    def each_second(self) -> None: ...


class Origin:
    """The stream stanzas came from.

    `on_handled(count)` is called when responsibility for the next `count` stanzas, in the order of
    their arrival, has passed on: they are settled, or kept by the journal.
    """

    __slots__ = (
        "_busy",
        "_exposed",
        "_journal",
        "_on_handled",
        "_pending",
        "_ring",
        "_unreported",
        "accepted",
        "counters",
        "has_ring",
        "kind",
        "lost",
        "on_requests",
        "repeats_requests",
        "resendable",
    )

    def __init__(
        self,
        counters: Counters,
        on_handled: Callable[[int], None],
        *,
        kind: Kind = "out",
        journal: JournalPort | None = None,
        busy: "set[Origin] | None" = None,
    ) -> None:
        """It is in `busy` while it holds anything; `rest` takes it out."""
        self.counters = counters
        self.kind: Kind = kind
        self.resendable = False
        """The previous hop keeps what it sends from now on until we acknowledge it (XEP-0198)."""
        self.repeats_requests = False
        """And it sends requests again, too: our successor must know those we have sent."""
        self.on_requests: Callable[[list[Stanza]], None] = _ignore
        """Told of those requests as they are accepted."""
        self.has_ring = False
        """It keeps only so many of them (Prosody)."""
        self.lost = False
        self.accepted = 0
        """Stanzas accepted so far."""
        self._on_handled = on_handled
        self._journal = journal
        self._busy: set[Origin] = set() if busy is None else busy
        self._pending = self._unreported = self._ring = NO_QUEUE
        """Batches that only the previous hop's ring can send again, and some that are done."""
        self._exposed = 0
        """How many stanzas of them it must still hold."""

    @property
    def in_flight(self) -> int:
        """Stanzas accepted and not yet settled: counted, not computed from the ledger."""
        return sum(batch.size - batch.settled for batch in self._pending)

    @property
    def unreported(self) -> int:
        """Stanzas that the previous hop has not been told to be handled."""
        return sum(batch.size - batch.reported for batch in self._unreported)

    def count(self) -> tuple[int, int]:
        """What is in flight as (ours, resendable)."""
        counts = [0, 0]
        for batch in self._pending:
            counts[batch.flight == IN_FLIGHT_RESENDABLE] += batch.size - batch.settled
        return counts[0], counts[1]

    def accept(self, stanzas: list[Stanza], now: float = 0.0) -> Batch:
        """Take responsibility for stanzas, of one domain pair, that were just read.

        `now` in seconds on any clock that `journal_old` is given, too.
        """
        flight = IN_FLIGHT_RESENDABLE if self.resendable else IN_FLIGHT_OURS
        size = len(stanzas)
        batch = Batch(stanzas, size, self, flight)
        if self._pending is NO_QUEUE:
            self._pending, self._unreported, self._ring = deque(), deque(), deque()
            self._busy.add(self)
        self._pending.append(batch)
        self._unreported.append(batch)
        self.accepted += size
        self.counters[ACCEPTED] += size
        self.counters[flight] += size
        if not self.resendable:
            if self._journal is not None:
                self._keep(batch)
            return batch
        if self.repeats_requests:
            self._note_requests(batch)
        if self.has_ring:
            batch.accepted_at = now
            ring = self._ring
            ring.append(batch)
            self._exposed += size
            if ring[0].reported == ring[0].size or self._exposed > MAX_UNACKNOWLEDGED_RING:
                self._relieve_ring(MAX_UNACKNOWLEDGED_RING)
        return batch

    def insert(self, head: Batch, *, before: Batch) -> None:
        """`head` was split from a batch: all that arrived earlier in that batch is settled."""
        self._pending.insert(self._pending.index(before), head)
        if before.reported < before.size:
            self._unreported.insert(self._unreported.index(before), head)

    def settle(self, batch: Batch, count: int, outcome: int, by: int | None = None) -> None:
        """`count` more stanzas of the batch have ended as `outcome`, an index of the account.

        `by`: how they were acknowledged, an ACK_* index.
        """
        self.settle_silently(((batch, count),), outcome, by)
        self.report()

    def settle_silently(
        self, runs: Iterable[tuple[Batch, int]], outcome: int, by: int | None = None
    ) -> None:
        """The same for so many stanzas of each of several batches; `report` is for the caller."""
        counters = self.counters
        total = 0
        for batch, count in runs:
            total += count
            counters[batch.flight] -= count
            batch.settled += count
            if batch.claim is not None:
                self._settle_claim(batch.claim, count)
        counters[outcome] += total
        if by is not None:
            counters[by] += total
        pending = self._pending
        while pending and pending[0].settled == pending[0].size:
            pending.popleft()

    def note_replayed(self, count: int) -> None:
        """So many stanzas will be sent a second time."""
        self.counters[REPLAYED] += count

    def journal_old(self, now: float) -> None:
        """Call each second: what the previous hop's ring has held for too long is journaled."""
        ring = self._ring
        while ring and now - ring[0].accepted_at > MAX_UNACKNOWLEDGED_AGE:
            self._keep_exposed(ring.popleft())

    def rest(self) -> None:
        """Hold no queues, which take 2 KiB, if nothing is under way and all of it is told."""
        if not self._pending and (self.lost or not self._unreported):
            self._pending = self._unreported = self._ring = NO_QUEUE
            self._busy.discard(self)

    def keep_all(self) -> None:
        """The previous hop may soon be asked what it must send again: the journal takes over."""
        if self._journal is None or self.lost:
            return
        for batch in self._pending:
            if batch.claim is None and batch.settled < batch.size:
                self._keep(batch)

    def lose(self) -> None:
        """The previous hop is gone: if we die now, nobody we know of will send this again."""
        self.lost = True
        self._on_handled, self.on_requests = _tell_nobody, _ignore
        if self._ring:
            self._ring = deque()
        for batch in self._pending:
            if batch.kept or batch.settled == batch.size:
                continue
            count = batch.size - batch.settled
            self.counters[batch.flight] -= count
            batch.flight = IN_FLIGHT_OURS
            self.counters[batch.flight] += count
            if batch.claim is None and self._journal is not None:
                self._keep(batch)

    def report(self) -> None:
        """Tell what is handled now."""
        handled = 0
        queue = self._unreported
        while queue:
            head = queue[0]
            is_done = head.kept or head.settled == head.size
            if is_done or not head.has_gaps:
                before = head.reported
                head.reported = head.size if is_done else head.settled
                handled += head.reported - before
                if head.claim is None and head.flight == IN_FLIGHT_RESENDABLE:
                    self._exposed -= head.reported - before
            if not is_done:
                break
            queue.popleft()
            if head.note is not None:
                self._note_told(head.note, head.size)
        if handled and not self.lost:
            self._on_handled(handled)

    # The journal.

    def _keep(self, batch: Batch) -> None:
        """Ask the journal to keep the stanzas of the batch that are not settled."""
        assert self._journal is not None
        unsettled = batch.stanzas[batch.first :] if batch.first else batch.stanzas
        if not unsettled:
            return  # all of it has failed, and the replies are under way
        batch.claim = claim = Claim(
            self.kind,
            bytes_of(unsettled),
            origin=self,
            stanzas=unsettled,
            batches=[batch],
            left=batch.size - batch.settled,
            has_gaps=batch.has_gaps,
        )
        self._journal.add(claim)

    def _relieve_ring(self, most: int) -> None:
        """The oldest beyond what the previous hop keeps for sure go into the journal."""
        ring = self._ring
        while ring and ring[0].reported == ring[0].size:
            ring.popleft()
        while ring and self._exposed > most:
            self._keep_exposed(ring.popleft())

    def _keep_exposed(self, batch: Batch) -> None:
        if batch.settled == batch.size:
            return  # only what came before it is awaited: its record would never be complete
        if batch.reported < batch.size and batch.claim is None and self._journal is not None:
            self._keep(batch)
            if batch.claim is not None:  # else replies are awaited, and `report` counts it
                self._exposed -= batch.size - batch.reported

    def _note_requests(self, batch: Batch) -> None:
        """A successor must know which requests may have been executed, before they are sent."""
        requests = []
        for stanza in batch.stanzas:  # none, as a rule
            if stanza.name == "iq" and stanza.is_request:
                requests.append(stanza)
        if not requests:
            return
        self.on_requests(requests)
        if self._journal is None or not self._journal.available:
            return

        names = [(stanza.sender, stanza.id) for stanza in requests]
        batch.note = note = Note(
            "note",
            sum([len(sender) + len(id or "") for sender, id in names]),
            pair=pair_of(self.kind, requests[0]),
            names=names,
            batches=[batch],
            left=batch.size,
        )
        batch.held = True
        self._journal.add(note)

    def _settle_claim(self, claim: Claim, count: int) -> None:
        claim.left -= count
        if claim.left <= 0 and self._journal is not None:
            self._journal.complete(claim)
            # No circle is left for the garbage collector: it cost a quarter of a lone stanza's way.
            claim.batches.clear()
            claim.stanzas = _NO_STANZAS

    def _note_told(self, note: Note, count: int) -> None:
        """The sender is told that these are handled; if it does not hear of it they come again."""
        note.left -= count
        if note.left <= 0 and self._journal is not None:
            self._journal.complete_later(note)
            note.batches.clear()


def _tell_nobody(count: int) -> None:
    """The previous hop is gone."""


def _ignore(requests: list[Stanza]) -> None:
    """Nobody wants to be told."""
