"""What dead workers' journals left for this worker: read in order, handed on, cleared when kept.

An entry is cleared once this worker's own journal has what came of it. If the worker dies before,
a sweep deals the entry again: twice is possible, never is not.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from coordinator.journal import Dealt, Kind, Record
from coordinator.journal_store import StoredEntry
from coordinator.journal_writer import JournalWriter
from coordinator.routes import DomainPair
from coordinator.store import Store

log = logging.getLogger(__name__)

SWEEP_TIMEOUT = 9.0
"""Seconds a new owner waits until the journals of dead workers are dealt."""
POLL_INTERVAL = 0.03
KEPT_TIMEOUT = 1.0

OnDealt = Callable[[Kind, DomainPair, bytes], None]
"""`on_dealt(kind, pair, data)`: one record; it is journaled anew before this returns."""


class Inbox:
    """One worker's inbox. `adopt(pair)` makes this worker the pair's owner or says who is.

    `live()` names the live workers. Nothing is read before `on_dealt` is set.
    """

    def __init__(
        self,
        store: Store,
        worker_id: str,
        journal: JournalWriter,
        adopt: Callable[[DomainPair], Awaitable[str]],
        live: Callable[[], Collection[str]],
    ) -> None:
        self.on_dealt: OnDealt | None = None
        self._store = store
        self._worker_id = worker_id
        self._journal = journal
        self._adopt = adopt
        self._live = live
        self._given_up: set[str] = set()
        self._handled: set[bytes] = set()
        self._reading = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        """Return when what dead workers held has come to its new owners, or waiting is of no use.

        Called for every new pair: those who ask while one round runs share the next. Raises
        `StoreUnavailable`.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._settle_after(self._settling))
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)

    async def _settle_after(self, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await asyncio.wait([former])
        self._settling, self._next = self._next, None
        await self._await_sweeps()
        await self.poll()

    async def _await_sweeps(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SWEEP_TIMEOUT
        while True:
            listed = set(await self._store.journals())
            self._given_up &= listed
            left = listed - self._given_up - {*self._live(), self._worker_id}
            if not left:
                return
            if loop.time() >= deadline:
                self._given_up |= left
                log.warning("nobody deals the journal of %s; going on", ", ".join(sorted(left)))
                return
            await asyncio.sleep(POLL_INTERVAL)

    async def poll(self) -> None:
        """Take in all that is there. Raises `StoreUnavailable`."""
        if self.on_dealt is None:
            return
        async with self._reading:
            while True:
                page = await self._store.read_inbox(self._worker_id)
                if not page:
                    self._handled.clear()
                    return
                for entry in page:
                    if entry.id not in self._handled:
                        await self._take_in(entry, self.on_dealt)
                        self._handled.add(entry.id)
                if not await self._is_kept():
                    return  # later: what was handled is known
                await self._store.clear_inbox(self._worker_id, [entry.id for entry in page])

    async def _take_in(self, entry: StoredEntry, on_dealt: OnDealt) -> None:
        others: dict[str, list[Dealt]] = {}
        for record in entry.records:
            if not record.data:
                continue  # a marker, see `_is_kept`
            is_ours = record.kind in ("in", "barrier")
            owner = self._worker_id if is_ours else await self._adopt(record.pair)
            if owner == self._worker_id:
                on_dealt(record.kind, record.pair, record.data)
            else:
                others.setdefault(owner, []).append(record)
        for owner, records in others.items():
            await self._store.deal(owner, records)

    async def _is_kept(self) -> bool:
        """Wait until our journal has all that was added so far; False if Redis is too slow."""
        # Entries are confirmed in their order: an empty record behind all others tells of them.
        marker = _Marker("in", 0, kept=asyncio.get_running_loop().create_future())
        self._journal.add(marker)
        try:
            async with asyncio.timeout(KEPT_TIMEOUT):
                return await marker.kept
        except TimeoutError:
            return False
        finally:
            self._journal.complete(marker)


class _Marker(Record, eq=False, kw_only=True):
    kept: asyncio.Future[bool]

    def encode(self) -> tuple[str, str, bytes]:
        return *_NOBODY, b""

    def on_kept(self, is_kept: bool) -> None:
        if not self.kept.done():
            self.kept.set_result(is_kept)


_NOBODY = DomainPair("fedgate.invalid", "fedgate.invalid")


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # seen by those who wait; nobody may be left to
