"""Responsibility for stanzas between two hops: pure bookkeeping, no I/O, no clock.

An `Origin` is the stream stanzas came from, an `Outbox` the way to their next hop. They meet in a
`Batch`: a run of stanzas from one read to the same next hop. Work is done per batch, not per
stanza. The next hop acknowledges in order, so an outbox settles its batches from the front; an
origin is told in its own order, however many outboxes its batches went to.

Every stanza of a batch ends exactly once: acknowledged, bounced, dropped or returned. The account
(`coordinator/accounts.py`) is moved in the same call.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.accounts import (
    ACCEPTED,
    ACKNOWLEDGED,
    BOUNCED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
    REPLAYED,
    RETURNED,
    drop_index,
)
from workers.xmpp.stanza import Stanza

Counters = memoryview
"""One direction of an `Account`."""


class Batch:
    """A run of stanzas from one origin to one next hop, settled from the front."""

    __slots__ = (
        "first",
        "flight",
        "has_gaps",
        "origin",
        "reported",
        "settled",
        "size",
        "stanzas",
        "uncertain",
    )

    def __init__(self, stanzas: list[Stanza], origin: "Origin | None" = None) -> None:
        self.stanzas = stanzas
        """What is still to be sent or acknowledged, together with what `first` skips."""
        self.first = 0
        """Index of the first stanza that the next hop has not acknowledged."""
        self.uncertain = False
        """Already sent once to a hop that was lost: it may arrive twice."""
        self.has_gaps = False
        """Stanzas from its middle were settled: what is settled is not its beginning any more."""
        self.origin = origin
        self.size = len(stanzas)
        self.settled = 0
        self.reported = 0
        self.flight = IN_FLIGHT_OURS

    @property
    def remaining(self) -> int:
        return len(self.stanzas) - self.first

    def split(self) -> "Batch":
        """Cut off the first of several stanzas that wait; returned as a batch of its own."""
        head = Batch([self.stanzas[0]], self.origin)
        head.uncertain, head.flight = self.uncertain, self.flight
        self.stanzas = self.stanzas[1:]
        self.size -= 1
        if self.origin is not None:
            self.origin.insert(head, before=self)
        return head


class Origin:
    """The stream stanzas came from.

    `on_handled(count)` is called when responsibility for the next `count` stanzas, in the order of
    their arrival, has passed on. Batches without an origin (our own bounces) are not counted.
    """

    def __init__(self, counters: Counters, on_handled: Callable[[int], None]) -> None:
        self.counters = counters
        self.resendable = False
        """The previous hop keeps what it sends from now on until we acknowledge it (XEP-0198)."""
        self.lost = False
        self._on_handled = on_handled
        self._pending: deque[Batch] = deque()

    @property
    def in_flight(self) -> int:
        """Stanzas accepted and not yet settled: counted, not computed from the ledger."""
        return sum(batch.size - batch.settled for batch in self._pending)

    def count(self) -> tuple[int, int]:
        """What is in flight as (ours, resendable)."""
        counts = [0, 0]
        for batch in self._pending:
            counts[batch.flight == IN_FLIGHT_RESENDABLE] += batch.size - batch.settled
        return counts[0], counts[1]

    def accept(self, stanzas: list[Stanza]) -> Batch:
        """Take responsibility for stanzas that were just read."""
        batch = Batch(stanzas, self)
        if self.resendable:
            batch.flight = IN_FLIGHT_RESENDABLE
        self._pending.append(batch)
        self.counters[ACCEPTED] += batch.size
        self.counters[batch.flight] += batch.size
        return batch

    def insert(self, head: Batch, *, before: Batch) -> None:
        """`head` was split from a batch: all that arrived earlier in that batch is settled."""
        self._pending.insert(self._pending.index(before), head)

    def settle(self, batch: Batch, count: int, outcome: int) -> None:
        """`count` more stanzas of the batch have ended as `outcome`, an index of the account."""
        counters = self.counters
        counters[outcome] += count
        counters[batch.flight] -= count
        batch.settled += count
        handled = 0
        pending = self._pending
        while pending:
            head = pending[0]
            is_done = head.settled == head.size
            if is_done or not head.has_gaps:
                handled += head.settled - head.reported
                head.reported = head.settled
            if not is_done:
                break
            pending.popleft()
        if handled and not self.lost:
            self._on_handled(handled)

    def lose(self) -> None:
        """The previous hop is gone: if we die now, nobody we know of will send this again."""
        self.lost = True
        for batch in self._pending:
            count = batch.size - batch.settled
            self.counters[batch.flight] -= count
            batch.flight = IN_FLIGHT_OURS
            self.counters[batch.flight] += count


@dataclass(slots=True)
class Failed:
    """A stanza that will not be sent: whoever holds it bounces it, then calls `Origin.settle`."""

    stanza: Stanza
    batch: Batch


@dataclass(slots=True)
class _Barrier:
    token: str
    count: int
    sent_at: float


class Outbox:
    """What waits for a next hop, and what it has been sent and not acknowledged."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._sent: deque[Batch] = deque()
        self._barriers: deque[_Barrier] = deque()
        self.waiting_bytes = 0
        self.unacknowledged = 0
        self.unacknowledged_bytes = 0
        self.acknowledged = 0
        """Stanzas acknowledged so far, over all sessions."""
        self.unmarked = 0
        """Sent stanzas that no barrier covers yet."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._sent)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def in_flight(self) -> int:
        return sum(batch.remaining for batch in self._waiting) + self.unacknowledged

    def push(self, batch: Batch) -> None:
        self._waiting.append(batch)
        self.waiting_bytes += _size(batch)

    def take(self, mark_late: Callable[[Batch], list[Stanza]]) -> list[Stanza]:
        """Everything that waits, now considered sent; what is uncertain as `mark_late` makes it."""
        waiting = self._waiting
        stanzas: list[Stanza] = []
        while waiting:
            batch = waiting.popleft()
            if batch.uncertain:
                self.waiting_bytes -= _size(batch)
                batch.stanzas = mark_late(batch)
                self.waiting_bytes += _size(batch)
            stanzas += batch.stanzas
            self._sent.append(batch)
        self.unacknowledged_bytes += self.waiting_bytes
        self.waiting_bytes = 0
        self.unacknowledged += len(stanzas)
        self.unmarked += len(stanzas)
        return stanzas

    def take_one(self, mark_late: Callable[[Batch], list[Stanza]]) -> list[Stanza]:
        """Like `take`, the first stanza alone."""
        self._separate_first()
        others, self._waiting = self._waiting, deque([self._waiting.popleft()])
        others_bytes = self.waiting_bytes - _size(self._waiting[0])
        self.waiting_bytes -= others_bytes
        stanzas = self.take(mark_late)
        self._waiting, self.waiting_bytes = others, others_bytes
        return stanzas

    def fail_one(self) -> list[Failed]:
        """Take the first stanza that waits out of the outbox: it will not be sent any more."""
        self._separate_first()
        batch = self._waiting.popleft()
        self.waiting_bytes -= _size(batch)
        return [Failed(stanza, batch) for stanza in batch.stanzas]

    @property
    def uncertain(self) -> int:
        """How many stanzas wait that were sent before to a hop that was lost."""
        return sum(batch.remaining for batch in self._waiting if batch.uncertain)

    def _separate_first(self) -> None:
        """Give the first stanza that waits a batch of its own."""
        batch = self._waiting[0]
        if batch.remaining > 1:
            self._waiting.appendleft(batch.split())

    def acknowledge(self, count: int, by: int) -> None:
        """The next hop has taken the first `count` sent stanzas; `by` is an ACK_* index."""
        count = min(count, self.unacknowledged)
        self.unacknowledged -= count
        self.acknowledged += count
        freed = 0
        self.unmarked = min(self.unmarked, self.unacknowledged)
        sent = self._sent
        while count:
            batch = sent[0]
            taken = min(count, batch.remaining)
            first = batch.first
            freed += sum(len(each.data) for each in batch.stanzas[first : first + taken])
            batch.first += taken
            count -= taken
            if not batch.remaining:
                sent.popleft()
            if batch.origin is not None:
                batch.origin.counters[by] += taken
                batch.origin.settle(batch, taken, ACKNOWLEDGED)
        self.unacknowledged_bytes -= freed

    def mark(self, token: str, now: float) -> None:
        """A barrier was written behind everything sent so far."""
        self._barriers.append(_Barrier(token, self.unmarked, now))
        self.unmarked = 0

    @property
    def barrier_pending(self) -> bool:
        return bool(self._barriers)

    def is_overdue(self, now: float, timeout: float) -> bool:
        """A barrier has waited longer than `timeout` seconds for its answer."""
        return bool(self._barriers) and now - self._barriers[0].sent_at > timeout

    def pass_barrier(self, token: str, by: int) -> bool:
        """The answer to a barrier came: all that was sent before it is acknowledged."""
        if all(token != barrier.token for barrier in self._barriers):
            return False
        count = 0
        while self._barriers:
            barrier = self._barriers.popleft()
            count += barrier.count
            if barrier.token == token:
                break
        self.acknowledge(count, by)
        return True

    def acknowledge_all(self, by: int) -> None:
        """The next hop closed its stream after ours in order: it has processed everything."""
        self._barriers.clear()
        self.acknowledge(self.unacknowledged, by)

    def take_back(self) -> list[Failed]:
        """The connection is lost. What was sent waits again, first in line and marked uncertain.

        Requests whose fate is unknown are never repeated: they are returned, to be bounced.
        """
        requests: list[Failed] = []
        for batch in reversed(self._sent):
            unsettled = batch.stanzas[batch.first :]
            requests[:0] = [Failed(stanza, batch) for stanza in unsettled if stanza.is_request]
            batch.stanzas = [stanza for stanza in unsettled if not stanza.is_request]
            batch.has_gaps |= len(batch.stanzas) < len(unsettled)
            batch.first = 0
            batch.uncertain = True
            if batch.stanzas:
                self._waiting.appendleft(batch)
                if batch.origin is not None:
                    batch.origin.counters[REPLAYED] += len(batch.stanzas)
        self._sent.clear()
        self._barriers.clear()
        self.unacknowledged = self.unacknowledged_bytes = self.unmarked = 0
        self.waiting_bytes = sum(_size(batch) for batch in self._waiting)
        return requests

    def remove_larger(self, limit: int) -> list[Failed]:
        """Take out of what waits the stanzas of more than `limit` bytes."""
        failed: list[Failed] = []
        for batch in self._waiting:
            large = [stanza for stanza in batch.stanzas if len(stanza.data) > limit]
            if large:
                failed += [Failed(stanza, batch) for stanza in large]
                batch.has_gaps = True
                batch.stanzas = [s for s in batch.stanzas if len(s.data) <= limit]
        self._waiting = deque(batch for batch in self._waiting if batch.stanzas)
        self.waiting_bytes = sum(_size(batch) for batch in self._waiting)
        return failed

    def fail_all(self) -> list[Failed]:
        """Empty the outbox: nothing of it will be sent any more."""
        failed = [
            Failed(stanza, batch)
            for queue in (self._sent, self._waiting)
            for batch in queue
            for stanza in batch.stanzas[batch.first :]
        ]
        self._sent.clear()
        self._waiting.clear()
        self._barriers.clear()
        self.waiting_bytes = self.unacknowledged_bytes = 0
        self.unacknowledged = self.unmarked = 0
        return failed


def _size(batch: Batch) -> int:
    return sum(len(stanza.data) for stanza in batch.stanzas[batch.first :])


def settle_bounced(failed: Failed) -> None:
    """The sender has been told."""
    _settle(failed, BOUNCED)


def settle_dropped(failed: Failed, reason: str) -> None:
    """RFC 6120 forbids to tell the sender, or nobody can be told; counted by reason."""
    _settle(failed, drop_index(reason))


def settle_returned(failed: Failed) -> None:
    """The previous hop will send it again."""
    _settle(failed, RETURNED)


def _settle(failed: Failed, outcome: int) -> None:
    if failed.batch.origin is not None:
        failed.batch.origin.settle(failed.batch, 1, outcome)
