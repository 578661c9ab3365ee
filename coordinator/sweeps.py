"""Sweeps: what dead workers held is dealt to live ones, what they owned is freed.

Every coordinator sweeps, for its own dead workers at once and for those of silent machines after a
while; a lease in Redis keeps two from doing the same at the same time. A sweeper may die at any
line: what it dealt and did not delete is dealt again, and arrives twice, marked as late.

Routes need no such haste, since whoever wants one takes it from a dead owner. A page of them is
looked at per sweep: upkeep costs the same for any number of routes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from coordinator.accounts import Account, account_path
from coordinator.config import Config
from coordinator.journal import Dealt
from coordinator.journal_store import StoredEntry
from coordinator.placement import heir_for
from coordinator.routes import DomainPair, WorkerInfo, gateway_of, worker_info
from coordinator.store import ScanCursor, Store, StoreUnavailable

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
ABSENT_SWEEPS = 3
"""In how many sweeps in a row a worker of another machine must be missing before it is dead: Redis
may have lost the heartbeats, or have stood still."""
ROUTES_PER_SWEEP = 20
OWNERS_AT_ONCE = 16
MAX_DEALT_BYTES = 262144


def process_lives(config: Config, worker: str) -> bool:
    """Tell if a worker of this machine still runs, by its account."""
    try:
        account = Account.open(account_path(config.gateway.state_dir, worker))
    except (OSError, ValueError):
        return False
    try:
        return account.process.is_alive()
    finally:
        account.close()


class Sweeper:
    """The sweeps of one coordinator, whose gateway is `gateway`.

    `lives(worker)` tells if a process of this machine runs, whatever its heartbeat says.
    """

    def __init__(self, store: Store, gateway: str, lives: Callable[[str], bool]) -> None:
        self._store = store
        self._gateway = gateway
        self._lives = lives
        self._sightings: deque[dict[str, WorkerInfo]] = deque(maxlen=ABSENT_SWEEPS)
        self._leaving: set[str] = set()
        self._cursor: ScanCursor = None
        self._lock = asyncio.Lock()

    async def worker_exited(self, worker: str) -> None:
        """A worker of this machine has ended: free what it held, now or in the next sweep."""
        self._leaving.add(worker)
        await self._sweep_alone()

    async def sweep(self) -> None:
        """Do all there is to do, to be called about once a second; nothing if one is under way.

        What Redis does not answer is left for the next sweep.
        """
        if not self._lock.locked():
            await self._sweep_alone()

    async def _sweep_alone(self) -> None:
        async with self._lock:
            try:
                await self._sweep()
            except StoreUnavailable as exc:
                self._sightings.clear()
                log.debug("sweep: %s", exc)

    async def _sweep(self) -> None:
        for worker in list(self._leaving):
            await self._store.leave(worker)
            self._leaving.discard(worker)
        live = {name: worker_info(shown) for name, shown in (await self._store.workers()).items()}
        self._sightings.append(live)
        listed = await self._store.journals()
        for worker in listed:
            if live and self._is_dead(worker):
                await self._deal_all(worker, live)
        self._cursor, routes = await self._store.route_page(self._cursor, ROUTES_PER_SWEEP)
        for pair, route in routes:
            # A journal not dealt yet finds its new owner by the route: it is freed afterwards.
            if route.owner not in listed and self._is_dead(route.owner):
                await self._store.release(pair, route.owner, route.epoch)

    def _is_dead(self, worker: str) -> bool:
        if worker in self._sightings[-1]:
            return False
        if gateway_of(worker) == self._gateway:
            return not self._lives(worker)
        is_absent = all(worker not in live for live in self._sightings)
        return is_absent and len(self._sightings) == ABSENT_SWEEPS

    async def _deal_all(self, worker: str, live: dict[str, WorkerInfo]) -> None:
        """Deal everything of a dead worker: first what it was dealt and had not journaled yet."""
        store, count = self._store, 0
        if not await store.seal(worker, self._gateway, LEASE_SECONDS):
            return
        for read, clear in (
            (store.read_inbox, store.clear_inbox),
            (store.read_sealed, store.clear_sealed),
        ):
            while entries := await read(worker):
                count += await self._deal(worker, entries, live)
                await clear(worker, [entry.id for entry in entries])
                if not await store.seal(worker, self._gateway, LEASE_SECONDS):
                    return
        if await store.finish(worker, self._gateway):
            log.info("dealt %d records of %s to live workers", count, worker)

    async def _deal(
        self, worker: str, entries: Sequence[StoredEntry], live: dict[str, WorkerInfo]
    ) -> int:
        """Put the records of a page into their new owners' inboxes, in order; returns how many."""
        records = [
            record
            for entry in entries
            for record in entry.records
            if record.data and record.kind != "barrier"
        ]
        pairs = list({record.pair for record in records if record.kind != "in"})
        owners: dict[DomainPair, str] = {}
        for start in range(0, len(pairs), OWNERS_AT_ONCE):
            some = pairs[start : start + OWNERS_AT_ONCE]
            asked = (self._owner(pair, worker, live) for pair in some)
            for pair, found in zip(
                some, await asyncio.gather(*asked, return_exceptions=True), strict=True
            ):
                if isinstance(found, BaseException):
                    raise found  # none of the others still runs
                owners[pair] = found
        dealt: dict[str, list[Dealt]] = {}
        for record in records:
            # What is for the local server may reach it through any worker of the machine.
            is_inbound = record.kind == "in"
            owner = heir_for(record.pair, worker, live) if is_inbound else owners[record.pair]
            dealt.setdefault(owner, []).append(record)
        for owner, share in dealt.items():
            for part in _parts(share):
                await self._store.deal(owner, part)
        return len(records)

    async def _owner(self, pair: DomainPair, worker: str, live: dict[str, WorkerInfo]) -> str:
        """The live owner of a pair; without one, its heir becomes the owner."""
        heir = heir_for(pair, worker, live)
        route = await self._store.take(pair, heir, None)
        if route.owner not in live:
            route = await self._store.take(pair, heir, route)
        return route.owner


def _parts(records: list[Dealt]) -> Iterator[list[Dealt]]:
    """Runs of records that are small enough for one entry, or a single one."""
    part: list[Dealt] = []
    size = 0
    for record in records:
        if part and size + len(record.data) > MAX_DEALT_BYTES:
            yield part
            part, size = [], 0
        part.append(record)
        size += len(record.data)
    if part:
        yield part
