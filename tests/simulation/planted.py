"""Bugs to plant in the code under test: the simulation must find each of them.

Each is a function that damages one rule, in this process, for good.
"""

from collections.abc import Callable
from typing import Any

from coordinator.inbox import Inbox
from coordinator.journal_writer import JournalWriter
from coordinator.ownership import Ownership
from coordinator.routes import Take, Wait
from coordinator.sweeps import Sweeper
from tests.simulation import script_twins
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.hop import Hop
from workers.gateway.outbox import Outbox
from workers.gateway.replay import Replay
from workers.gateway.requests import Requests
from workers.gateway.source import Source


def acknowledge_too_early() -> None:
    """The previous hop is told when a stanza is read, not when somebody has it."""

    def report(self: Any) -> None:
        handled = sum(batch.size - batch.reported for batch in self._unreported)
        for batch in self._unreported:
            batch.reported = batch.size
        self._unreported.clear()
        if handled and not self.lost:
            self._on_handled(handled)

    accept = Origin.accept

    def accept_and_report(self: Any, *arguments: Any) -> Batch:
        batch = accept(self, *arguments)
        report(self)
        return batch

    Origin.accept = accept_and_report  # type: ignore[method-assign]


def skip_the_seal() -> None:
    """A dead worker's journal is not set apart, so nobody deals it."""

    def seal(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
        return 1

    for text, twin in script_twins.TWINS.items():
        if twin is script_twins.seal:
            script_twins.TWINS[text] = seal


def ignore_the_predecessor() -> None:
    """A new owner reads while the old one still drains."""
    from coordinator import ownership

    decide = ownership.decide

    def hasty(*arguments: Any, **options: Any) -> Any:
        decision = decide(*arguments, **options)
        return Take(decision.route) if isinstance(decision, Wait) else decision

    ownership.decide = hasty  # type: ignore[assignment]


def ignore_the_journals() -> None:
    """A new owner reads before it has what its dead predecessor left."""

    async def own(self: Any, pair: Any, route: Any) -> None:
        self.owned[pair] = route

    Ownership._own = own  # type: ignore[method-assign]


def send_again_unmarked() -> None:
    Hop._mark_late = lambda self, batch: batch.stanzas  # type: ignore[method-assign]


def repeat_requests() -> None:
    """After a lost connection requests are sent again like all else."""
    take_back = Outbox.take_back

    def careless(self: Any) -> Any:
        for batch in self._sent:
            for stanza in batch.stanzas[batch.first :]:
                if stanza.name == "iq":
                    stanza.type = "result"
        return take_back(self)

    Outbox.take_back = careless  # type: ignore[method-assign]


def forget_notes() -> None:
    """A successor does not look for requests that a dead worker may have sent."""
    Requests.suspect = lambda self, pair, keys, now: None  # type: ignore[method-assign]


def lose_what_was_dealt() -> None:
    Replay._on_stanzas = lambda self, kind, pair, data: None  # type: ignore[method-assign]


def believe_what_is_not_kept() -> None:
    """A record counts as kept before Redis has it."""
    add = JournalWriter.add

    def add_and_believe(self: Any, record: Any) -> None:
        add(self, record)
        if record.on_kept is not None and (report := record.on_kept(True)) is not None:
            report()

    JournalWriter.add = add_and_believe  # type: ignore[method-assign]


def clear_before_dealing() -> None:
    """The sweeper deletes entries first: if it dies then, they are gone."""

    async def deal(self: Any, worker: str, entries: Any, live: Any) -> int:
        return len(entries)

    Sweeper._deal = deal  # type: ignore[method-assign]


def clear_the_inbox_at_once() -> None:
    """What was dealt is deleted before the new owner's journal has it."""

    async def is_kept(self: Any) -> bool:
        return True

    Inbox._is_kept = is_kept  # type: ignore[method-assign]
    take_in = Inbox._take_in

    async def forgetful(self: Any, entry: Any, on_dealt: Any) -> None:
        await self._store.clear_inbox(self._worker_id, [entry.id])
        await take_in(self, entry, on_dealt)

    Inbox._take_in = forgetful  # type: ignore[method-assign]


def miscount() -> None:
    """A taken-back stanza is counted as settled."""
    take_back = Outbox.take_back

    def counting(self: Any) -> Any:
        for batch in self._sent:
            if isinstance(batch.origin, Origin):
                batch.origin.counters[1] += 1
        return take_back(self)

    Outbox.take_back = counting  # type: ignore[method-assign]


def settle_in_silence() -> None:
    """A stanza leaves the queues and not the counters."""
    acknowledge = Outbox.acknowledge

    def forgetful(self: Any, count: int, by: int) -> None:
        if count > 3:
            count -= 1
        acknowledge(self, count, by)

    Outbox.acknowledge = forgetful  # type: ignore[method-assign]


def close_without_keeping() -> None:
    """A drained stream ends unacknowledged while its stanzas are still delivered."""
    Origin.keep_all = lambda self: None  # type: ignore[method-assign]


def cut_what_was_not_read() -> None:
    """Streams are cut instead of closed in order."""
    Source._close_session = lambda self: self._session.abort("done")  # type: ignore[method-assign]


def same_epoch_twice() -> None:
    """A change of owner keeps the epoch."""

    def acquire(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
        owner, epoch = redis.hmget(keys[0], "owner", "epoch")
        if owner is None or (owner == argv[1] and epoch == argv[2]):
            owner, epoch = argv[0], epoch or b"1800000000000000"
            redis.hset(keys[0], "owner", owner, "epoch", epoch)
        return [owner, epoch]

    for text, twin in script_twins.TWINS.items():
        if twin is script_twins.acquire:
            script_twins.TWINS[text] = acquire


_DEATHS = ("kill_worker", "kill_machine", "cut_wire")
_DEALING = ("kill_worker", "kill_heir", "kill_sweeper")
_DRAINS = ("drain_worker", "replace_worker", "remote_stops_reading")

BUGS: dict[Callable[[], None], tuple[str, ...]] = {
    acknowledge_too_early: _DEATHS,
    skip_the_seal: _DEATHS,
    ignore_the_predecessor: _DRAINS,
    ignore_the_journals: _DEATHS,
    send_again_unmarked: ("cut_wire",),
    repeat_requests: ("cut_wire",),
    forget_notes: ("kill_worker",),
    lose_what_was_dealt: _DEATHS,
    believe_what_is_not_kept: ("kill_worker", "redis_stalls"),
    clear_before_dealing: _DEATHS,
    clear_the_inbox_at_once: ("kill_heir",),
    miscount: ("cut_wire",),
    settle_in_silence: _DRAINS,
    close_without_keeping: _DRAINS,
    cut_what_was_not_read: ("drain_worker", "replace_worker"),
    same_epoch_twice: _DEALING,
}
"""With the faults in which each shows."""

QUICK = 25
"""Most are found within so many seeds; `make simulate` looks for all."""
SLOW = frozenset(
    {ignore_the_predecessor, ignore_the_journals, believe_what_is_not_kept, forget_notes}
    | {clear_the_inbox_at_once, close_without_keeping, cut_what_was_not_read}
)
