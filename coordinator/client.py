"""What a worker uses of the control plane: its coordinator's socket and Redis; both may be away.

Static stability: without the coordinator, issued leaves go on until they expire; without Redis,
each worker owns what it has and takes what it is asked for (`Route.epoch` 0). On contact, routes
are claimed again and the loser is told.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from coordinator import control
from coordinator.authority import Leaf
from coordinator.config import Config
from coordinator.control import ControlProtocolError
from coordinator.routes import STATIC_EPOCH, DomainPair, Route
from coordinator.store import Store, StoreUnavailable, redis_url

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
HEARTBEAT_TTL = 5.0
RECONNECT_INTERVAL = 1.0
LEAF_TIMEOUT = 5.0
MAX_LEAVES = 4096  # strangers can name domains without end
LEAF_RENEWAL = 3600.0  # seconds before its end from which on a leaf is asked for again
MAX_BUFFERED_REPORT_BYTES = 4 * 1024 * 1024
_CANCEL_INTERVAL = 0.1


class ControlPlaneUnavailable(Exception):
    """The coordinator is away or refuses, and nothing usable is cached."""


class ControlPlane:
    """A worker's side of the control plane. Set the callbacks before `start`.

    `on_command(verb)`: "drain", "stop" or "reload". `on_route_lost(pair, route)`: Redis came back
    and another worker owns the pair, as `route` says; our session for it should drain.
    `degraded` holds "redis" and "coordinator" while they are away.
    """

    def __init__(self, config: Config, worker_id: str) -> None:
        self.worker_id = worker_id
        self.dialback_secret = b""
        self.on_command: Callable[[str], None] = lambda verb: None
        self.on_route_lost: Callable[[DomainPair, Route], None] = lambda pair, route: None
        self.degraded = {"redis", "coordinator"}
        self.draining = False
        self._path = control.socket_path(config.gateway.state_dir)
        self._store = Store(redis_url(config), config.cluster.name)
        self._live: dict[str, dict[str, Any]] = {}
        self._owned: dict[DomainPair, Route] = {}
        self._unreleased: dict[DomainPair, Route] = {}
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()
        self._leaf_requests: dict[str, asyncio.Task[Leaf]] = {}
        self._answers: dict[int, asyncio.Future[Leaf]] = {}
        self._next_request = 1
        self._writer: asyncio.StreamWriter | None = None
        self._welcomed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, timeout: float = 30.0) -> None:
        """Connect; afterwards `dialback_secret` is known. Redis may be away.

        Raises `ControlPlaneUnavailable` when no coordinator answers within `timeout` seconds.
        """
        self._spawn(self._stay_connected())
        await self._beat()
        self._spawn(self._keep_beating())
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
        await _end([*self._tasks, *self._leaf_requests.values()])
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
        leaf = self._leaves.get(domain)
        left = leaf.not_after - time.time() if leaf else 0.0
        if leaf and left > LEAF_RENEWAL:
            return leaf
        task = self._leaf_requests.get(domain)
        if task is None:
            task = asyncio.create_task(self._request_leaf(domain, purpose))
            self._leaf_requests[domain] = task
            task.add_done_callback(lambda done: self._on_leaf_answer(domain, done))
        try:
            return await asyncio.shield(task)
        except ControlPlaneUnavailable:
            if leaf and left > 60.0:
                return leaf
            raise

    async def acquire(self, pair: DomainPair) -> Route:
        """Own a domain pair, unless a live worker does: the route says who. Never fails."""
        try:
            route = await self._store.acquire(pair, self.worker_id, self._live)
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            route = self._owned.get(pair) or Route(self.worker_id, STATIC_EPOCH)
        self._unreleased.pop(pair, None)
        self._keep(pair, route)
        return route

    async def release(self, pair: DomainPair, route: Route) -> None:
        """Give a pair back; while Redis is away it is remembered and done later."""
        self._owned.pop(pair, None)
        if route.owner != self.worker_id:
            return
        try:
            await self._store.release(pair, self.worker_id, route.epoch)
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            self._unreleased[pair] = route

    def doubt(self, worker: str) -> None:
        """A worker did not answer: forget that it lives until the next heartbeat tells better.

        The next `acquire` of a pair it owns asks Redis, which the coordinator of a dead worker has
        told already.
        """
        self._live.pop(worker, None)

    def live_workers(self) -> list[str]:
        """The workers that may take routes, as of the last heartbeat: none that drains."""
        live = {worker for worker, info in self._live.items() if info.get("state") != "draining"}
        if not self.draining:
            live.add(self.worker_id)
        return sorted(live)

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

    def _keep(self, pair: DomainPair, route: Route) -> None:
        if route.owner == self.worker_id:
            self._owned[pair] = route
        else:
            self._owned.pop(pair, None)

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
            case control.Command(verb):
                self.draining = self.draining or verb == "drain"
                self.on_command(verb)
            case _:
                raise ControlProtocolError(f"unexpected {type(message).__name__}")

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
                leaf = await answer
        except TimeoutError:
            raise ControlPlaneUnavailable(
                f"no certificate for {domain}: the coordinator did not answer in {LEAF_TIMEOUT:g} s"
            ) from None
        finally:
            self._answers.pop(request, None)
        self._leaves[domain] = leaf
        self._leaves.move_to_end(domain)
        if len(self._leaves) > MAX_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _on_leaf_answer(self, domain: str, done: asyncio.Task[Leaf]) -> None:
        self._leaf_requests.pop(domain, None)
        if not done.cancelled():
            done.exception()  # seen by those who wait; nobody may be left to

    # Redis.

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            await self._beat()

    async def _beat(self) -> None:
        info = {"state": "draining" if self.draining else "running"}
        try:
            beat = await self._store.heartbeat(self.worker_id, HEARTBEAT_TTL, info)
            if "redis" in self.degraded or not beat.known:
                await self._claim_again()
        except StoreUnavailable as exc:
            self._on_redis_away(exc)
            return
        self._live = beat.workers
        self.degraded.discard("redis")

    async def _claim_again(self) -> None:
        """Redis is back, perhaps empty: memory is the truth for what we own."""
        for pair, route in list(self._unreleased.items()):
            await self._store.release(pair, self.worker_id, route.epoch)
            self._unreleased.pop(pair, None)
        for pair in list(self._owned):
            route = await self._store.acquire(pair, self.worker_id, ())
            if pair not in self._owned:  # released meanwhile
                await self._store.release(pair, self.worker_id, route.epoch)
                continue
            self._keep(pair, route)
            if route.owner != self.worker_id:
                self.on_route_lost(pair, route)

    def _on_redis_away(self, exc: StoreUnavailable) -> None:
        if "redis" not in self.degraded:
            log.warning("%s; going on without it", exc)
        self.degraded.add("redis")


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
