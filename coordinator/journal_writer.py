"""Writes a worker's journal to Redis: all that was added since the last append, in one command.

The first record after a pause is written at the end of its loop turn. While an append is in flight
records gather, and after it until `WANTED_BYTES` are likely to be there, so between `MIN_INTERVAL`
and `MAX_INTERVAL` seconds after it began; at `HURRY_BYTES` no longer, and a note, for which
somebody waits, never longer than the former. For an append costs as much for one stanza as for ten:
without this the journal takes almost three times as much for 1000 stanzas a second of as many
domains (`loadtest/micro_journal.py`).

Completions ride along with appends, or follow after `FLUSH_DELAY`. An append without an answer in
`COMMAND_TIMEOUT`, or an attempt to connect that fails, means that Redis is away: those who wait go
on without, and what is unfinished is written when it is back. Whoever has not looked for `BELIEF`
seconds, because it stood still, does not know, and looks first.
"""

import asyncio
import logging
import math
import time
from collections import deque

from coordinator.config import Journal as JournalConfig
from coordinator.journal import NOTE_SECONDS, Journal, Record
from coordinator.journal_link import JournalLink
from coordinator.journal_store import JournalStore
from coordinator.redis_client import COMMAND_TIMEOUT, StoreUnavailable

log = logging.getLogger(__name__)

MIN_INTERVAL = 0.002
MAX_INTERVAL = 0.01
WANTED_BYTES = 4096
HURRY_BYTES = 65536
FLUSH_DELAY = 0.05
RETRY_INTERVAL = 0.5  # seconds between two attempts to reach a lost Redis
BELIEF = 2.0  # seconds; an attempt takes less, with its wait
FINISH_TIMEOUT = 1.0


class JournalWriter:
    """One worker's journal. `add` and `complete` may be called at any time, also before `start`."""

    def __init__(self, store: JournalStore, worker: str, config: JournalConfig) -> None:
        self._store = store
        self._worker = worker
        self._journal = Journal(config.max_bytes, config.max_age)
        self._link: JournalLink | None = None
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._is_awaited = self._was_old = False
        self._interval = MIN_INTERVAL
        self._watch: asyncio.TimerHandle | None = None
        self._told: deque[tuple[float, Record]] = deque()
        self._sent_at = 0.0
        self._late_looks = 0
        self._tried_at = 0.0
        self._found_away_at = -math.inf

    @property
    def available(self) -> bool:
        """Redis is not known to be away; if it is records are not kept, as `on_kept(False)` says"""
        return self._link is not None or not self._is_away

    @property
    def _is_away(self) -> bool:
        return time.monotonic() - self._found_away_at < BELIEF

    @property
    def bytes(self) -> int:
        """The size of all unfinished records."""
        return self._journal.bytes

    @property
    def entries(self) -> int:
        """How many entries in Redis have unfinished records."""
        return len(self._journal)

    @property
    def is_full(self) -> bool:
        """More than max_bytes are unfinished, or something is for longer than max_age.

        The latter is looked for by `each_second`, since each stanza that comes alone asks this;
        that it is over is seen at once.
        """
        journal = self._journal
        return journal.is_large or (self._was_old and journal.is_old(time.monotonic()))

    async def start(self) -> None:
        """Open the journal if Redis is there; if not, it is opened when it comes."""
        await self._open()
        self._task = asyncio.create_task(self._stay_open())

    async def close(self) -> None:
        """Write what waits and, when all is complete, leave nothing in Redis."""
        if self._task is not None:
            # Repeatedly: before Python 3.12, redis may forget a cancellation while it writes.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=FLUSH_DELAY)
        if self._link is not None:
            try:
                await self._flush()
                if not self._journal.records:
                    await self._store.finish(self._worker, "")
            except (StoreUnavailable, TimeoutError):
                pass  # a sweep finds what is left
        self._drop_link()
        for handle in (self._timer, self._watch):
            if handle is not None:
                handle.cancel()

    def add(self, record: Record) -> None:
        """Hold a record from now on: it is written soon, unless it is complete before."""
        self._journal.add(record, time.monotonic())
        if record.kind == "note":
            self._is_awaited = True
            self._schedule(MIN_INTERVAL)
        elif self._timer is None or self._journal.waiting_bytes >= HURRY_BYTES:
            self._schedule(self._interval)

    def complete(self, record: Record) -> None:
        """All stanzas of the record are settled. May be repeated."""
        self._journal.complete(record)
        if self._watch is None:  # as a rule it is there: a call less for each stanza
            self._keep_watch()

    def complete_later(self, record: Record) -> None:
        """As `complete`, but if we die within `NOTE_SECONDS` it will still be found."""
        self._journal.retire(record)
        self._told.append((time.monotonic() + NOTE_SECONDS, record))

    def each_second(self) -> None:
        """Call it about so often: notes of no use any more are deleted, and ages looked at."""
        told, now = self._told, time.monotonic()
        self._was_old = self._journal.is_old(now)
        while told and told[0][0] <= now:
            self.complete(told.popleft()[1])

    # The connection.

    async def _stay_open(self) -> None:
        while True:
            if self._link is not None:
                await self._lost.wait()
            # Also after a loss: a Redis that takes connections and no data is asked as rarely.
            await asyncio.sleep(max(0.0, self._tried_at + RETRY_INTERVAL - time.monotonic()))
            await self._open()

    async def _open(self) -> None:
        self._tried_at = time.monotonic()
        try:
            # In this order: a Cluster's client learns by commands which server has the key now.
            opened = await self._store.open_journal(self._worker)
            link = await self._store.link_journal(self._worker, self)
            if link.is_closed:
                raise StoreUnavailable("the connection is lost already")
        except StoreUnavailable as exc:
            log.debug("journal: %s", exc)
            self._tell_away()
            return
        if opened.is_sealed:
            log.warning("the journal was taken over by others while this worker was silent")
        self._lost.clear()
        self._link = link
        self._journal.regain_contact(opened.last, is_sealed=opened.is_sealed)
        self._schedule(self._interval)

    def doubt(self) -> None:
        """Redis may have lost its data: see, and write what is unfinished again if it has."""
        if self._link is not None:
            self.link_lost()

    def link_lost(self) -> None:
        """The connection is gone, or the journal behind it is not what we know."""
        self._drop_link()
        self._lost.set()

    def _tell_away(self) -> None:
        self._found_away_at = time.monotonic()
        self._schedule(self._interval)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    # Appends.

    def append_answered(self, *, done: bool) -> None:
        """The append in flight was done, or found no journal: sealed, or lost with Redis' data."""
        if not done:
            self.link_lost()
            return
        self._journal.appended()
        if self._journal.has_waiting:
            self._schedule(MIN_INTERVAL if self._is_awaited else self._interval)

    def _schedule(self, interval: float) -> None:
        """Call `_turn` `interval` seconds after the last append began: in this loop turn or later.

        While an append is in flight, nothing: its answer comes here again.
        """
        now = due = time.monotonic()
        if self._link is not None:
            if self._journal.is_in_flight:
                return
            if self._journal.waiting_bytes < HURRY_BYTES:
                due = max(now, self._sent_at + interval)
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        loop = asyncio.get_running_loop()
        if due > now:
            self._timer = loop.call_later(due - now, self._turn)
        else:
            self._timer = loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._timer = None
        if self._link is None:
            if self._is_away:
                self._journal.lose_contact()
        elif (append := self._journal.next_append()) is not None:
            now = time.monotonic()
            if append.payload:
                pace = (now - self._sent_at) / (len(append.payload) + len(append.notes))
                self._interval = min(MAX_INTERVAL, max(MIN_INTERVAL, pace * WANTED_BYTES))
            self._sent_at = now
            self._is_awaited = False
            self._late_looks = 0
            self._link.send(append)
            self._keep_watch()

    def _on_watch(self) -> None:
        """Every `FLUSH_DELAY` while there is something to watch: lateness, and completions."""
        self._watch = None
        if self._link is None:
            return
        # Looks are counted, since time also passes while this process stands still.
        self._late_looks = self._late_looks + 1 if self._journal.is_in_flight else 0
        if self._late_looks * FLUSH_DELAY >= COMMAND_TIMEOUT:
            log.warning("the journal's append has had no answer for %g s", COMMAND_TIMEOUT)
            self.link_lost()
            self._tell_away()
        elif self._journal.is_in_flight or self._journal.has_work:
            self._turn_now()
            self._keep_watch()

    def _keep_watch(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(FLUSH_DELAY, self._on_watch)

    def _turn_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._turn()

    async def _flush(self) -> None:
        """Write what waits, as long as Redis answers."""
        async with asyncio.timeout(FINISH_TIMEOUT):
            while self._link is not None and (self._journal.has_work or self._journal.is_in_flight):
                self._turn_now()
                await asyncio.sleep(MIN_INTERVAL)
