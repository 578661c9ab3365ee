"""What a worker uses of the control plane: its coordinator's socket and Redis; both may be away.

Static stability: without the coordinator, issued leaves go on until they expire; without Redis,
each worker owns what it has, and new pairs go where the last known workers place them
(`Route.epoch` 0). On contact, routes are claimed again and the loser is told.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from coordinator import control
from coordinator.authority import Leaf
from coordinator.config import Config
from coordinator.control import ControlProtocolError
from coordinator.inbox import Inbox, OnDealt
from coordinator.journal import Dealt, Kind
from coordinator.journal_writer import JournalWriter
from coordinator.leaves import ControlPlaneUnavailable as ControlPlaneUnavailable
from coordinator.leaves import Leaves
from coordinator.lost_sessions import LostSessions
from coordinator.ownership import Ownership
from coordinator.reach import reachable_address
from coordinator.routes import (
    DRAINING,
    RUNNING,
    DomainPair,
    HandTo,
    Route,
    Serve,
    SpliceTo,
    worker_info,
)
from coordinator.store import Store, StoreUnavailable, redis_url

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
HEARTBEAT_TTL = 5.0
MAX_PAUSE = 2.5  # seconds between two heartbeats after which others may have doubted us
RECONNECT_INTERVAL = 1.0
LEAF_TIMEOUT = 5.0
MAX_BUFFERED_REPORT_BYTES = 4 * 1024 * 1024
_CANCEL_INTERVAL = 0.1

Rows = list[dict[str, Any]]


class ControlPlane:
    """A worker's side of the control plane. Set the callbacks before `start`.

    `on_command(verb)`: "drain", "stop" or "reload". `on_request(verb, argument)` answers what
    `control.Request` asks, one record per session. `on_route_lost(pair, route)`: another worker
    owns the pair now, as `route` says; our session for it should drain. `on_wait(pair, owner)`: a
    stream waits for a draining owner. `is_used(pair)`: a pair of ours must stay ours; once it is
    set, pairs that nobody uses are given back. `degraded` holds "redis" and "coordinator" while
    they are away. `journal` exists from `start` on.
    """

    lost_sessions: LostSessions | None = None

    def __init__(self, config: Config, worker_id: str) -> None:
        self.worker_id = worker_id
        self.dialback_secret = b""
        self.on_command: Callable[[str], None] = lambda verb: None
        self.on_request: Callable[[str, str], Awaitable[Rows]] = _no_rows
        self.on_route_lost: Callable[[DomainPair, Route], None] = lambda pair, route: None
        self._on_dealt: OnDealt | None = None
        self.on_wait: Callable[[DomainPair, str], None] = lambda pair, owner: None
        self.is_used: Callable[[DomainPair], bool] | None = None
        self.degraded = {"redis", "coordinator"}
        self._path = control.socket_path(config.gateway.state_dir)
        self._store = Store(redis_url(config), config.cluster.name)
        self._local = reachable_address(config)
        self.lost_sessions = LostSessions(self._store, self._on_redis_away)
        self._ownership = Ownership(self._store, worker_id)
        self._ownership.on_lost = lambda pair, route: self.on_route_lost(pair, route)
        self._ownership.on_wait = lambda pair, owner: self.on_wait(pair, owner)
        self._ownership.is_used = lambda pair: self.is_used is not None and self.is_used(pair)
        self._ownership.on_away = self._on_redis_away
        self._ownership.refresh = self._beat
        self._journal_options = config.journal
        self._inbox: Inbox | None = None
        self._beaten_at = 0.0
        self._leaves = Leaves(self._request_leaf)
        self._answers: dict[int, asyncio.Future[Leaf]] = {}
        self._next_request = 1
        self._writer: asyncio.StreamWriter | None = None
        self._welcomed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._requests: set[asyncio.Task[None]] = set()

    async def start(self, *, timeout: float = 30.0) -> None:
        """Connect; afterwards `dialback_secret` is known. Redis may be away.

        Raises `ControlPlaneUnavailable` when no coordinator answers within `timeout` seconds.
        """
        self._spawn(self._stay_connected())
        await self._beat()
        # Only now: a journal of somebody who does not live would be sealed by others.
        self.journal = JournalWriter(self._store, self.worker_id, self._journal_options)
        ownership = self._ownership
        self._inbox = Inbox(
            self._store, self.worker_id, self.journal, ownership.adopt, ownership.view
        )
        self._inbox.on_dealt = self._on_dealt
        ownership.receive = self._settle
        await self.journal.start()
        self._spawn(self._keep_beating())
        self._spawn(self._keep_receiving())
        try:
            async with asyncio.timeout(timeout):
                await self._welcomed.wait()
        except TimeoutError:
            raise ControlPlaneUnavailable(
                f"no coordinator answers on {self._path}; start `fedgate coordinator` with the "
                "same gateway.state_dir"
            ) from None

    async def close(self) -> None:
        """Leave the live workers and close all connections."""
        await _end([*self._tasks, *self._requests, *self._leaves.requests.values()])
        if self._inbox is not None:
            await self.journal.close()
        try:
            await self._store.leave(self.worker_id)
        except StoreUnavailable:
            pass  # the heartbeat runs out by itself
        await self._store.close()

    async def leaf(self, domain: str, purpose: str = "route") -> Leaf:
        """A certificate to speak as `domain` to the local server; cached until near its end.

        `purpose`: "route", or "session" (the domain has authenticated here).
        Raises `ControlPlaneUnavailable`.
        """
        return await self._leaves.get(domain, purpose)

    @property
    def draining(self) -> bool:
        """This worker takes no new routes; the next heartbeat tells the others."""
        return self._ownership.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._ownership.draining = draining

    @property
    def on_dealt(self) -> OnDealt | None:
        """Takes what dead workers' journals left for us, one record each; set it at any time."""
        return self._on_dealt

    @on_dealt.setter
    def on_dealt(self, on_dealt: OnDealt | None) -> None:
        self._on_dealt = on_dealt
        if self._inbox is not None:
            self._inbox.on_dealt = on_dealt

    async def announce(self) -> None:
        """Tell the other workers at once what the next heartbeat would: our state."""
        await self._beat()

    @property
    def owned(self) -> Mapping[DomainPair, Route]:
        """The pairs that are ours, as far as we know."""
        return self._ownership.owned

    async def place(
        self, pair: DomainPair, *, passed: int = 0, from_gateway: bool = False
    ) -> Serve | HandTo | SpliceTo:
        """Where a stream of the pair is served; on `Serve` it is ours. Never fails.

        `passed` counts how often the stream changed hands on this machine; `from_gateway`: it came
        from another one. May take `ownership.PREDECESSOR_TIMEOUT` and `inbox.SWEEP_TIMEOUT`.
        """
        return await self._ownership.place(pair, passed=passed, from_gateway=from_gateway)

    async def acquire(self, pair: DomainPair, *, if_free: bool = False) -> Route:
        """Own a domain pair, unless a live worker does: the route says who. Never fails.

        With `if_free` a draining owner is not waited for. Whoever acquires a pair uses it (see
        `is_used`) before the next await, and releases it when it is not used any more.
        """
        return await self._ownership.acquire(pair, if_free=if_free)

    async def release(self, pair: DomainPair) -> None:
        """Give a pair back if nobody uses it; while Redis is away that is done later."""
        await self._ownership.release(pair)

    async def verify(self, pair: DomainPair) -> None:
        """Look if the pair is still ours: somebody doubted us."""
        await self._ownership.verify(pair)

    async def poll_inbox(self) -> None:
        """Take in what dead workers' journals left for us; nothing while Redis is away."""
        try:
            if self._inbox is not None:
                await self._inbox.poll()
        except StoreUnavailable as exc:
            self._on_redis_away(exc)

    def doubt(self, worker: str) -> None:
        """A worker did not answer: for some seconds it counts as dead."""
        self._ownership.doubt(worker)

    def note_draining(self, worker: str) -> None:
        """A worker has said itself that it drains, before its heartbeat."""
        self._ownership.note_draining(worker)

    def live_workers(self) -> list[str]:
        """The workers that may take routes, as of the last heartbeat: none that drains."""
        view = self._ownership.view()
        return sorted(worker for worker, info in view.items() if info.state == RUNNING)

    def known_workers(self) -> list[str]:
        """All workers of the last heartbeat, those that drain too."""
        return sorted(self._ownership.workers)

    async def pass_on(self, worker: str, kind: Kind, pair: DomainPair, data: bytes) -> bool:
        """Put a record into another worker's inbox; False: Redis did not say that it is there."""
        try:
            await self._store.deal(worker, [Dealt(kind, pair, data)])
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            return False
        return True

    async def load_discovery(self, domain: str) -> bytes | None:
        """What any worker has learned about a remote domain; None while Redis is away."""
        try:
            return await self._store.get_discovery(domain)
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            return None

    async def save_discovery(self, domain: str, payload: bytes, keep_seconds: float) -> None:
        """Share what was learned about a remote domain; nothing happens while Redis is away."""
        try:
            await self._store.put_discovery(domain, payload, keep_seconds)
        except StoreUnavailable as exc:
            self._on_redis_away(exc)

    def report(self, snapshot: dict[str, Any]) -> None:
        """Tell the coordinator what we do, each second; skipped while it is away or busy."""
        writer = self._writer
        if writer is None or not self.dialback_secret:
            return
        if writer.transport.get_write_buffer_size() < MAX_BUFFERED_REPORT_BYTES:
            writer.write(control.encode(control.Report(snapshot)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    # The coordinator.

    async def _stay_connected(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
                await self._converse(reader, writer)
            except (OSError, EOFError, ControlProtocolError) as exc:
                if "coordinator" not in self.degraded:
                    log.warning("the coordinator is away (%s); going on without it", exc)
                self.degraded.add("coordinator")
            await asyncio.sleep(RECONNECT_INTERVAL)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            writer.write(control.encode(control.Hello(self.worker_id, os.getpid())))
            while True:
                self._on_message(await control.read_message(reader))
        finally:
            self._writer = None
            writer.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ControlPlaneUnavailable("the coordinator went away"))
            self._answers.clear()

    def _on_message(self, message: control.Message) -> None:
        match message:
            case control.Welcome(dialback_secret=secret):
                self.dialback_secret = secret
                self.degraded.discard("coordinator")
                self._welcomed.set()
            case control.LeafIssued(request, certificate_pem, key_pem, not_after):
                answer = self._answers.pop(request, None)
                if answer and not answer.done():
                    answer.set_result(Leaf(certificate_pem, key_pem, not_after))
            case control.LeafRefused(request, reason):
                answer = self._answers.pop(request, None)
                if answer and not answer.done():
                    answer.set_exception(ControlPlaneUnavailable(reason))
            case control.Request(number, verb, argument):
                task = asyncio.create_task(self._answer(number, verb, argument))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
            case control.Command(verb):
                self.draining = self.draining or verb == "drain"
                self.on_command(verb)
            case _:
                raise ControlProtocolError(f"unexpected {type(message).__name__}")

    async def _answer(self, number: int, verb: str, argument: str) -> None:
        rows = await self.on_request(verb, argument)
        if self._writer is not None:
            self._writer.write(control.encode(control.Answer(number, rows)))

    async def _request_leaf(self, domain: str, purpose: str) -> Leaf:
        if self._writer is None:
            raise ControlPlaneUnavailable(
                f"no certificate for {domain}: the coordinator is away and none is cached"
            )
        request, self._next_request = self._next_request, self._next_request + 1
        answer: asyncio.Future[Leaf] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._writer.write(control.encode(control.LeafRequest(request, domain, purpose)))
        try:
            async with asyncio.timeout(LEAF_TIMEOUT):
                return await answer
        except TimeoutError:
            raise ControlPlaneUnavailable(
                f"no certificate for {domain}: the coordinator did not answer in {LEAF_TIMEOUT:g} s"
            ) from None
        finally:
            self._answers.pop(request, None)

    # Redis.

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            await self._beat()
            if "redis" not in self.degraded:
                try:
                    await self._ownership.verify_some(releasing=self.is_used is not None)
                except StoreUnavailable as exc:
                    self._on_redis_away(exc)

    async def _keep_receiving(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            if not self.draining and "redis" not in self.degraded:
                await self.poll_inbox()

    async def _settle(self) -> None:
        if self._inbox is not None:
            await self._inbox.settle()

    async def _beat(self) -> None:
        state = DRAINING if self.draining else RUNNING
        info = {"state": state, "local": self._local}
        now = time.monotonic()
        is_late = now - self._beaten_at > MAX_PAUSE
        try:
            beat = await self._store.heartbeat(self.worker_id, HEARTBEAT_TTL, info)
            shown = {worker: worker_info(info) for worker, info in beat.workers.items()}
            self._ownership.see(shown)
            self._beaten_at = now
            if not beat.known and self._inbox is not None:
                self.journal.doubt()
            if "redis" in self.degraded or is_late or not beat.known:
                await self._ownership.claim_again()
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            return
        self.degraded.discard("redis")

    def _on_redis_away(self, exc: StoreUnavailable) -> None:
        if "redis" not in self.degraded:
            log.warning("%s; going on without it", exc)
        self.degraded.add("redis")


async def _no_rows(verb: str, argument: str) -> Rows:
    return []


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough before Python 3.12: `asyncio.wait_for`, with which redis-py writes, forgets a
    cancellation that comes together with the result.
    """
    waiting = set(tasks)
    ending = asyncio.gather(*waiting, return_exceptions=True)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_CANCEL_INTERVAL)
    await ending
