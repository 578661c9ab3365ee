"""The domain pairs of one worker: what it owns, and where the streams of other pairs go.

The rules are `routes.py`'s and `placement.py`'s; here they meet Redis, which may be away: then a
worker owns what it has, and what is new goes where placement has it among the last known workers of
its machine. One pair is looked after by one task at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.keyed_lock import KeyedLock
from coordinator.placement import heir_for
from coordinator.routes import (
    DRAINING,
    RUNNING,
    STATIC_EPOCH,
    DomainPair,
    HandTo,
    Route,
    Serve,
    ServeBeside,
    SpliceTo,
    Take,
    Wait,
    WorkerInfo,
    Workers,
    decide,
    gateway_of,
    reconcile,
)
from coordinator.store import Store, StoreUnavailable

log = logging.getLogger(__name__)

PREDECESSOR_TIMEOUT = 5.0
"""Seconds a new owner waits for a draining or dead predecessor before it reads."""
POLL_INTERVAL = 0.03
DOUBT_TIME = 5.0
"""Seconds for which a worker that did not answer counts as dead, whatever its heartbeat says."""
MAX_AGE = 0.05
"""Seconds after which the view of the live workers is renewed before an owner counts as dead, even
one that was missing in a view before."""
MAX_MISSING = 1000
VERIFIED_AT_ONCE = 32


class Ownership:
    """Routes as one worker has them. Set the callbacks before the first call.

    `on_lost(pair, route)`: another owner is newer, drain. `on_away(exc)`: Redis did not answer.
    `on_wait(pair, owner)`: a draining owner keeps a stream of the pair waiting.
    `refresh()` renews `workers`; `receive()` returns when what former owners left has come in.
    """

    def __init__(self, store: Store, worker_id: str) -> None:
        self.worker_id = worker_id
        self.draining = False
        self.workers: dict[str, WorkerInfo] = {}
        """All live workers as of the last heartbeat."""
        self.owned: dict[DomainPair, Route] = {}
        self.on_lost: Callable[[DomainPair, Route], None] = lambda pair, route: None
        self.on_away: Callable[[StoreUnavailable], None] = lambda exc: None
        self.on_wait: Callable[[DomainPair, str], None] = lambda pair, owner: None
        self.is_used: Callable[[DomainPair], bool] = lambda pair: False
        self.refresh: Callable[[], Awaitable[None]] = _nothing
        self.receive: Callable[[], Awaitable[None]] = _nothing
        self._store = store
        self._seen_at = float("-inf")
        self._doubted: dict[str, float] = {}
        self._missing: set[str] = set()
        """Owners that were looked for and did not live; ids are never used again."""
        self._adopted: set[DomainPair] = set()
        """Pairs of ours of whose former owners more may come in."""
        self._unreleased: dict[DomainPair, Route] = {}
        self._unverified: list[DomainPair] = []
        self._busy: KeyedLock[DomainPair] = KeyedLock()

    # Who lives.

    def see(self, workers: dict[str, WorkerInfo]) -> None:
        """A heartbeat told who lives."""
        self.workers = workers
        self._seen_at = _now()

    def view(self) -> Workers:
        """The live workers as we judge them: without the doubted, and ourselves as we are."""
        now = _now()
        self._doubted = {worker: end for worker, end in self._doubted.items() if end > now}
        view = {
            worker: info for worker, info in self.workers.items() if worker not in self._doubted
        }
        view[self.worker_id] = WorkerInfo(DRAINING if self.draining else RUNNING)
        return view

    def doubt(self, worker: str) -> None:
        """A worker did not answer: for a while it counts as dead."""
        self._doubted[worker] = _now() + DOUBT_TIME

    def note_draining(self, worker: str) -> None:
        """A worker has said that it drains: no stream is passed to it from now on."""
        if worker in self.workers:
            self.workers[worker] = self.workers[worker]._replace(state=DRAINING)

    async def _view_with(self, owner: str) -> Workers:
        """The live workers; a stranger is looked for once more before it counts as dead.

        However new the view is: it may be older than the route, whose owner has just begun.
        """
        view = self.view()
        if owner in view or owner in self._doubted:
            return view
        if owner not in self._missing or _now() - self._seen_at > MAX_AGE:
            await self.refresh()
            view = self.view()
            if owner not in view:
                if len(self._missing) >= MAX_MISSING:
                    self._missing.clear()
                self._missing.add(owner)
        return view

    # Where a stream goes, and what we own.

    async def place(
        self, pair: DomainPair, *, passed: int = 0, from_gateway: bool = False
    ) -> Serve | HandTo | SpliceTo:
        """Where a stream of the pair is served. On `Serve` it may be read at once.

        `passed`, `from_gateway`: how the stream came here (`routes.decide`). A draining or dead
        predecessor is waited for, at most `PREDECESSOR_TIMEOUT` seconds. Of what is served the
        pair is ours (`owned`), unless the stream is served beside its owner.
        """
        async with self._busy.hold(pair):
            try:
                return await self._place(pair, passed, from_gateway)
            except StoreUnavailable as exc:
                self.on_away(exc)
                return self._place_alone(pair, passed)

    async def _place(
        self, pair: DomainPair, passed: int, from_gateway: bool
    ) -> Serve | HandTo | SpliceTo:
        deadline = _now() + PREDECESSOR_TIMEOUT
        waits_for = ""
        while True:
            view = self.view()
            heir = heir_for(pair, self.worker_id, view)
            route = await self._look(pair, view, take=heir == self.worker_id)
            if route is not None:
                view = await self._view_with(route.owner)
                heir = heir_for(pair, self.worker_id, view)
            decision = decide(
                route, self.worker_id, view, heir=heir, passed=passed, from_gateway=from_gateway
            )
            if isinstance(decision, Wait):
                if _now() < deadline:
                    if waits_for != decision.route.owner:
                        waits_for = decision.route.owner
                        self.on_wait(pair, waits_for)
                    await asyncio.sleep(POLL_INTERVAL)
                    continue
                log.warning("%s → %s: %s does not let go", *pair, decision.route.owner)
                decision = Take(decision.route)
            if isinstance(decision, Take):
                route = await self._store.take(pair, self.worker_id, decision.replacing)
                if route.owner != self.worker_id:
                    continue  # somebody was faster
                decision = Serve(route)
            if isinstance(decision, Serve):
                await self._own(pair, decision.route)
            elif route is not None:
                self._note(pair, route)
            if isinstance(decision, ServeBeside):
                log.info("%s → %s: served beside %s", *pair, decision.route.owner)
                return Serve(Route(self.worker_id, STATIC_EPOCH))
            return decision

    async def _look(self, pair: DomainPair, view: Workers, *, take: bool) -> Route | None:
        """The route; one that nobody has is taken in the same step by its heir."""
        if take and view[self.worker_id].state == RUNNING:
            return await self._store.take(pair, self.worker_id, None)
        return await self._store.lookup(pair)

    def _place_alone(self, pair: DomainPair, passed: int) -> Serve | HandTo | SpliceTo:
        gateway = gateway_of(self.worker_id)
        view = {w: info for w, info in self.view().items() if gateway_of(w) == gateway}
        heir = heir_for(pair, self.worker_id, view)
        known = self.owned.get(pair)
        decision = decide(known, self.worker_id, view, heir=heir, passed=passed)
        if isinstance(decision, HandTo):
            return decision
        return Serve(self.owned.setdefault(pair, Route(self.worker_id, STATIC_EPOCH)))

    async def acquire(self, pair: DomainPair, *, if_free: bool = False) -> Route:
        """Own a pair, unless a live worker does: the route says who. Never fails.

        A draining owner is waited for, but not with `if_free`, with which a draining worker takes
        nothing either.
        """
        async with self._busy.hold(pair):
            try:
                return await self._acquire(pair, if_free)
            except StoreUnavailable as exc:
                self.on_away(exc)
                return self.owned.setdefault(pair, Route(self.worker_id, STATIC_EPOCH))

    async def _acquire(self, pair: DomainPair, if_free: bool) -> Route:
        if if_free and self.draining and pair not in self.owned:
            heir = heir_for(pair, self.worker_id, self.view())
            return await self._store.lookup(pair) or Route(heir, STATIC_EPOCH)
        deadline = _now() + PREDECESSOR_TIMEOUT
        replacing: Route | None = None
        while True:
            route = await self._store.take(pair, self.worker_id, replacing)
            if route.owner == self.worker_id:
                await self._own(pair, route)
                return route
            owner = (await self._view_with(route.owner)).get(route.owner)
            if owner is None:
                replacing = route
            elif owner.state == RUNNING or if_free:
                self._note(pair, route)
                return route
            elif _now() >= deadline:
                replacing = route
            else:
                await asyncio.sleep(POLL_INTERVAL)

    def _note(self, pair: DomainPair, route: Route) -> None:
        """Redis says who owns a pair that is not served here now: ours to give back, or lost."""
        if route.owner == self.worker_id:
            self.owned[pair] = route
        elif self._disown(pair) is not None:
            self.on_lost(pair, route)

    def _disown(self, pair: DomainPair) -> Route | None:
        """The pair is not ours any more; returns the route if it was."""
        self._adopted.discard(pair)
        return self.owned.pop(pair, None)

    async def _own(self, pair: DomainPair, route: Route) -> None:
        """The pair is ours; if it is new to us, first comes what its former owners left."""
        is_new = pair not in self.owned or pair in self._adopted
        self.owned[pair] = route
        self._unreleased.pop(pair, None)
        if is_new:
            await self.receive()
            self._adopted.discard(pair)

    async def adopt(self, pair: DomainPair) -> str:
        """A journal's records of the pair came to us: own it if we can; returns the owner.

        For use inside `receive`, where the pair may be busy already.
        """
        if pair in self.owned:
            return self.worker_id
        route = await self._store.take(pair, self.worker_id, None)
        if route.owner != self.worker_id:
            if route.owner in await self._view_with(route.owner):
                return route.owner
            route = await self._store.take(pair, self.worker_id, route)
        if route.owner == self.worker_id:
            self.owned[pair] = route
            self._adopted.add(pair)
        return route.owner

    async def release(self, pair: DomainPair) -> None:
        """Give a pair back unless it is in use; while Redis is away that is done later."""
        async with self._busy.hold(pair):
            if self.is_used(pair) or (route := self._disown(pair)) is None:
                return
            try:
                await self._store.release(pair, self.worker_id, route.epoch)
            except StoreUnavailable as exc:
                self.on_away(exc)
                self._unreleased[pair] = route

    # Contact again.

    async def claim_again(self) -> None:
        """Redis is back, perhaps empty, or we were: memory is the truth for what we own."""
        for pair, route in list(self._unreleased.items()):
            await self._store.release(pair, self.worker_id, route.epoch)
            self._unreleased.pop(pair, None)
        pairs = list(self.owned)
        for start in range(0, len(pairs), VERIFIED_AT_ONCE):
            await self._verify(pairs[start : start + VERIFIED_AT_ONCE])

    async def verify_some(self, *, releasing: bool) -> None:
        """Compare some of our routes with Redis: as many, and as cheap, for any number of them.

        `releasing`: give back those that nobody uses.
        """
        if not self._unverified:
            self._unverified = list(self.owned)
        some = self._unverified[-VERIFIED_AT_ONCE:]
        del self._unverified[-VERIFIED_AT_ONCE:]
        await self._verify(some)
        for pair in some:
            if releasing and pair not in self._busy:
                await self.release(pair)

    async def verify(self, pair: DomainPair) -> None:
        """Somebody may have taken the pair from us: see."""
        try:
            await self._verify([pair])
        except StoreUnavailable as exc:
            self.on_away(exc)

    async def _verify(self, pairs: list[DomainPair]) -> None:
        results = await asyncio.gather(*map(self._verify_one, pairs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _verify_one(self, pair: DomainPair) -> None:
        if pair in self._busy:
            return  # who is at it knows what Redis says
        async with self._busy.hold(pair):
            ours = self.owned.get(pair)
            if ours is None:
                return
            found = await self._store.lookup(pair)
            view = await self._view_with(found.owner) if found else self.view()
            decision = reconcile(ours, found, self.worker_id, view)
            route = decision.route if not isinstance(decision, Take) else None
            if isinstance(decision, Take):
                route = await self._store.take(pair, self.worker_id, decision.replacing)
            assert route is not None
            if route.owner == self.worker_id:
                self.owned[pair] = route
                return
            self._disown(pair)
        self.on_lost(pair, route)


async def _nothing() -> None: ...


def _now() -> float:
    return asyncio.get_running_loop().time()
