"""Stanzas that fail: bounced with an error reply, dropped or returned; see `flow.py`."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.accounts import ACKNOWLEDGED, BOUNCED, RETURNED, drop_index
from workers.gateway.batch import Batch
from workers.xmpp.stanza import Stanza


@dataclass(slots=True)
class Failed:
    """A stanza that will not be sent: whoever holds it bounces it, then calls a `settle_…`."""

    stanza: Stanza
    batch: Batch


class Replies:
    """The origin of error replies: what failed is bounced when the reply to it is acknowledged.

    Until then it stays in flight: if we die, whoever holds it sends it again, and it fails again.
    """

    def __init__(self, failed: list[Failed]) -> None:
        self._failed = deque(failed)

    def settle(self, batch: Batch, count: int, outcome: int, by: int | None = None) -> None:
        """A reply that cannot be delivered either is dropped, and so is what it answers."""
        end = BOUNCED if outcome == ACKNOWLEDGED else drop_index("bounce-undeliverable")
        for _ in range(count):
            _settle(self._failed.popleft(), end)

    def settle_silently(
        self, runs: Iterable[tuple[Batch, int]], outcome: int, by: int | None = None
    ) -> None:
        for batch, count in runs:
            self.settle(batch, count, outcome, by)

    def report(self) -> None:
        """Each reply has reported by itself."""

    def insert(self, head: Batch, *, before: Batch) -> None:
        """A split changes nothing here."""

    def note_replayed(self, count: int) -> None:
        """Replies are no stanzas of the ledger."""


def settle_dropped(failed: Failed, reason: str) -> None:
    """RFC 6120 forbids to tell the sender, or nobody can be told; counted by reason."""
    _settle(failed, drop_index(reason))


def settle_returned(failed: Failed) -> None:
    """Another worker goes on with it; to whom an error reply answers counts as told."""
    is_reply = isinstance(failed.batch.origin, Replies)
    _settle(failed, ACKNOWLEDGED if is_reply else RETURNED)


def _settle(failed: Failed, outcome: int) -> None:
    if failed.batch.origin is not None:
        failed.batch.origin.settle(failed.batch, 1, outcome)
