"""What waits for a next hop and what it has been sent: pure bookkeeping, no I/O, no clock."""

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.accounts import ACKNOWLEDGED
from workers.gateway.batch import NO_QUEUE, Batch
from workers.gateway.replies import Failed
from workers.xmpp.stanza import Stanza, bytes_of


@dataclass(slots=True)
class _Barrier:
    token: str
    count: int
    sent_at: float


class Outbox:
    """What waits for a next hop, and what it has been sent and not acknowledged."""

    def __init__(self, busy: "set[Outbox] | None" = None) -> None:
        """It is in `busy` from the first stanza on, until `shrink` or `fail_all` finds it empty."""
        self._busy: set[Outbox] = set() if busy is None else busy
        self._waiting = self._sent = NO_QUEUE
        self._barriers: list[_Barrier] = []
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
    def has_ready(self) -> bool:
        """Something waits that may be sent now."""
        return bool(self._waiting) and not self._waiting[0].held

    @property
    def in_flight(self) -> int:
        return sum(batch.remaining for batch in self._waiting) + self.unacknowledged

    def push(self, batch: Batch) -> None:
        if self._waiting is NO_QUEUE:
            self._grow()
        self._waiting.append(batch)
        self.waiting_bytes += _size(batch)

    def push_sent(self, batch: Batch, size: int) -> None:
        """While nothing waits: as `push` and `take`. The batch is new, certain, of `size` bytes."""
        if self._waiting is NO_QUEUE:
            self._grow()
        self._sent.append(batch)
        count = len(batch.stanzas)
        self.unacknowledged += count
        self.unmarked += count
        self.unacknowledged_bytes += size

    def push_old(self, batch: Batch) -> None:
        """What came before all that waits, and is uncertain: only what is so, too, goes first."""
        at = next((n for n, each in enumerate(self._waiting) if not each.uncertain), None)
        if at is None:
            self.push(batch)
        else:
            self._waiting.insert(at, batch)
            self.waiting_bytes += _size(batch)

    def _grow(self) -> None:
        self._waiting, self._sent = deque(), deque()
        self._busy.add(self)

    def shrink(self) -> None:
        """An empty outbox holds no queues: 1.5 KiB."""
        if not self:
            self._waiting = self._sent = NO_QUEUE
            self._busy.discard(self)

    def take(
        self, mark_late: Callable[[Batch], list[Stanza]], most: int = sys.maxsize
    ) -> list[Stanza]:
        """What waits and may be sent, now considered sent: no more batches beyond `most` bytes.

        What is uncertain is sent as `mark_late` makes it.
        """
        waiting = self._waiting
        stanzas: list[Stanza] = []
        is_piece = self.waiting_bytes > most
        taken = 0
        while waiting and not waiting[0].held and taken < most:
            batch = waiting.popleft()
            if batch.uncertain:
                self.waiting_bytes -= _size(batch)
                batch.stanzas = mark_late(batch)
                self.waiting_bytes += _size(batch)
            stanzas += batch.stanzas
            self._sent.append(batch)
            if is_piece:
                taken += _size(batch)
        if not waiting:
            left = 0
        else:
            left = self.waiting_bytes - taken if is_piece else sum(map(_size, waiting))
        self.unacknowledged_bytes += self.waiting_bytes - left
        self.waiting_bytes = left
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
        # All of it, as a rule: nothing is to be added up.
        is_all = not self.unacknowledged
        freed = self.unacknowledged_bytes if is_all else 0
        self.unmarked = min(self.unmarked, self.unacknowledged)
        sent = self._sent
        origin = None
        runs: list[tuple[Batch, int]] = []
        while count:
            batch = sent[0]
            first, stanzas = batch.first, batch.stanzas
            taken = min(count, len(stanzas) - first)
            if not is_all:
                freed += bytes_of(stanzas[first : first + taken])
            batch.first += taken
            count -= taken
            if batch.first == len(stanzas):
                sent.popleft()
            # An origin hears once of all its batches in a row: 2 µs a stanza that came alone.
            if batch.origin is not origin:
                if origin is not None:
                    origin.settle_silently(runs, ACKNOWLEDGED, by)
                    origin.report()
                origin, runs = batch.origin, []
            runs.append((batch, taken))
        if origin is not None:
            origin.settle_silently(runs, ACKNOWLEDGED, by)
            origin.report()
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
            barrier = self._barriers.pop(0)
            count += barrier.count
            if barrier.token == token:
                break
        self.acknowledge(count, by)
        return True

    def acknowledge_all(self, by: int) -> None:
        """The next hop closed its stream after ours in order: it has processed everything."""
        self._barriers.clear()
        self.acknowledge(self.unacknowledged, by)

    @property
    def sent(self) -> list[Stanza]:
        """What was sent and is not acknowledged."""
        return [stanza for batch in self._sent for stanza in batch.stanzas[batch.first :]]

    def take_back_unsent(self) -> None:
        """The next hop has told exactly what arrived: all that was sent beyond it waits again."""
        for batch in reversed(self._sent):
            batch.stanzas = batch.stanzas[batch.first :]
            batch.first = 0
            self._waiting.appendleft(batch)
        self._forget_sent()

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
                    batch.origin.note_replayed(len(batch.stanzas))
        self._forget_sent()
        return requests

    def _forget_sent(self) -> None:
        if self._sent:
            self._sent = deque()
        self._barriers.clear()
        self.unacknowledged = self.unacknowledged_bytes = self.unmarked = 0
        self.waiting_bytes = sum(_size(batch) for batch in self._waiting)

    def remove_larger(self, limit: int) -> list[Failed]:
        """Take out of what waits the stanzas of more than `limit` bytes."""
        failed: list[Failed] = []
        for batch in self._waiting:
            large = [stanza for stanza in batch.stanzas if len(stanza.data) > limit]
            if large:
                failed += [Failed(stanza, batch) for stanza in large]
                batch.has_gaps = True
                batch.stanzas = [s for s in batch.stanzas if len(s.data) <= limit]
        if failed:
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
        self._waiting = self._sent = NO_QUEUE
        self._busy.discard(self)
        self._barriers.clear()
        self.waiting_bytes = self.unacknowledged_bytes = 0
        self.unacknowledged = self.unmarked = 0
        return failed


def _size(batch: Batch) -> int:
    return bytes_of(batch.stanzas[batch.first :])
