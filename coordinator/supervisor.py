"""The coordinator process: brings everything up, watches it, takes it down.

Rules of the file: handlers (signals, ends of processes, timers, the control socket) only queue an
event; `_act` alone acts on them, one at a time. What `_open` brought up goes down in reverse order.
What becomes of workers is in crew.py.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from coordinator import accounts, logs, orders, reload, startup
from coordinator.admin.overview import Overview
from coordinator.admin.server import AdminServer
from coordinator.adoption import Inheritance, take_over
from coordinator.config import Config
from coordinator.configfile import find
from coordinator.control import Order, Reply
from coordinator.crew import Crew
from coordinator.embedded import EmbeddedRedis
from coordinator.events import (
    Event,
    OrderReceived,
    RedisExited,
    Signalled,
    TimerRanOut,
    WorkerConnected,
    WorkerExited,
    WorkerReady,
)
from coordinator.exits import ExitCode
from coordinator.orders import Orders
from coordinator.reception import Reception
from coordinator.rediskeeper import RedisKeeper
from coordinator.reload import ReloadRefused
from coordinator.silence import TICK
from coordinator.startup import StartFailed
from coordinator.store import Store, StoreUnavailable, redis_url
from coordinator.sweeps import Sweeper, process_lives
from coordinator.workforce import Incarnation, Workforce

log = logging.getLogger(__name__)


def run(config: Config, config_path: str | None, *, workers: int | None = None) -> int:
    """Run the coordinator in the foreground until it is told to stop; returns the exit code.

    `workers` overrides the configured number; 0 starts none (they are started elsewhere).
    """
    logs.set_up(config.gateway.log_level)
    if workers is None:
        workers = config.gateway.workers or len(os.sched_getaffinity(0))
    try:
        return uvloop.run(Supervisor(config, str(find(config_path).resolve()), workers).run())
    except StartFailed as exc:
        if str(exc):
            print(f"fedgate: {exc}", file=sys.stderr)
        return exc.code


class Supervisor:
    """One coordinator. `run` returns the exit code or raises `StartFailed`."""

    def __init__(self, config: Config, config_path: str, workers: int) -> None:
        self.config = config
        self._config_path = config_path
        self._count = workers
        self._state_dir = Path(config.gateway.state_dir)
        self._run_dir = self._state_dir / "run"
        self._accepted = self._run_dir / "accepted.toml"
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timers: set[asyncio.TimerHandle] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._store = Store(redis_url(config), config.cluster.name)
        self._sweeper = Sweeper(
            self._store, config.gateway.name, lambda worker: process_lives(config, worker)
        )
        self._embedded = None if config.redis.url else EmbeddedRedis(self._state_dir)
        self._keeper: RedisKeeper | None = None
        self._workforce: Workforce
        self._crew: Crew
        self._orders: Orders
        self._reception: Reception
        self._overview: Overview
        self._is_looking = False
        self._is_over = False
        self._failure = StartFailed("", ExitCode.OK)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, self._events.put_nowait, Signalled(signum))
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            while not self._is_over:
                await self._act(await self._events.get())
        if self._failure.code != ExitCode.OK:
            raise self._failure
        return ExitCode.OK

    # Up and down.

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        startup.prepare(self._state_dir)
        stack.enter_context(startup.locked(self._state_dir))
        reload.write_accepted(self._accepted, self.config)
        stack.callback(self._accepted.unlink, missing_ok=True)
        inheritance = await take_over(self.config, self._run_dir, wanted=self._count > 0)
        stack.callback(inheritance.listeners.close)
        startup.remove_stale_sockets(self._run_dir)
        accounts.close_dead_accounts(self._state_dir / "ledger")
        authority = startup.authority(self.config)
        stack.push_async_callback(self._store.close)
        await self._open_redis(stack)
        self._reception = Reception(self._state_dir, authority)
        self._reception.on_hello = lambda link: self._events.put_nowait(WorkerConnected(link))
        self._reception.on_ready = lambda link: self._events.put_nowait(WorkerReady(link))
        self._reception.on_order = self._on_order
        await self._reception.start()
        stack.push_async_callback(self._reception.close)
        await self._open_workers(stack, inheritance)

    async def _open_redis(self, stack: contextlib.AsyncExitStack) -> None:
        if self._embedded is not None:
            stack.push_async_callback(self._embedded.stop)
        await startup.connect(self._store, self._embedded)
        await startup.forget_dead_workers(self._store, self.config)
        if self._embedded is not None:
            self._keeper = RedisKeeper(
                self._embedded, self._after, lambda: self._events.put_nowait(RedisExited())
            )
            stack.callback(self._keeper.close)
            self._keeper.watch()

    async def _open_workers(
        self, stack: contextlib.AsyncExitStack, inheritance: Inheritance
    ) -> None:
        listeners = inheritance.listeners
        shared = ["--sockets", listeners.argument()] if self._count else []
        self._workforce = Workforce(
            self._count,
            self._run_dir,
            ["--config", str(self._accepted), *shared],
            listeners.descriptors(),
            lambda gone, code: self._events.put_nowait(WorkerExited(gone, code)),
        )
        stack.push_async_callback(self._workforce.close)
        stack.callback(self._workforce.kill_all)
        self._overview = Overview(
            self.config, listeners, self._workforce, self._reception, self._store
        )
        self._reception.on_gone = self._overview.keep_errors
        admin = AdminServer(self._overview, listeners.admin)
        await admin.start()
        stack.push_async_callback(admin.close)
        stack.callback(self._cancel_timers_and_chores)
        self._make_crew()
        self._crew.adopt(inheritance.orphans)
        await self._crew.fill()
        self._after(TICK, self._tick)
        self._note_ready()  # without workers of our own we are

    def _make_crew(self) -> None:
        crew = self._crew = Crew(self._workforce, self._reception, self.config, self._after)
        crew.on_trouble = self._overview.note_error
        crew.on_hopeless = self._give_up
        crew.on_gone = self._finish
        self._orders = Orders(crew, self._workforce, self._reload, self._drain_all)

    def _cancel_timers_and_chores(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._chores:
            task.cancel()

    # The loop.

    async def _act(self, event: Event) -> None:
        match event:
            case Signalled(signal.SIGHUP):
                log.info("reload: %s", self._reload().text)
            case Signalled():
                self._on_stop_signal()
            case WorkerConnected(link):
                self._crew.on_connected(link)
            case WorkerReady(link):
                self._crew.on_ready(link)
                self._note_ready()
            case WorkerExited(gone, code):
                self._on_worker_exited(gone, code)
            case OrderReceived(order, reply):
                if not reply.done():
                    reply.set_result(await self._orders.obey(order))
            case RedisExited():
                self._on_redis_exited()
            case TimerRanOut(action):
                outcome = action()
                if asyncio.iscoroutine(outcome):
                    await outcome

    def _after(self, delay: float, action: Callable[[], Any]) -> None:
        """Queue `action` in `delay` seconds; it may be a coroutine function."""

        def ran_out() -> None:
            self._timers.discard(timer)
            self._events.put_nowait(TimerRanOut(action))

        timer = asyncio.get_running_loop().call_later(delay, ran_out)
        self._timers.add(timer)

    def _chore(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _tick(self) -> None:
        self._after(TICK, self._tick)
        await self._crew.tick(time.time())
        self._chore(self._sweeper.sweep())
        # Beside the loop: a Redis that stands still must not hold up what becomes of workers.
        if not self._is_looking:
            self._chore(self._look_at_redis())

    async def _look_at_redis(self) -> None:
        self._is_looking = True
        try:
            await self._store.ping()
            self._overview.redis_up = True
        except StoreUnavailable as exc:
            if self._overview.redis_up:
                log.warning("%s; sessions go on without it", exc)
                self._overview.note_error("redis", str(exc))
            self._overview.redis_up = False
        finally:
            self._is_looking = False

    # Stopping.

    def _on_stop_signal(self) -> None:
        if self._overview.state == "running":
            self._drain_all()
        else:
            self._overview.state = "stopping"
            self._crew.stop_all()

    def _drain_all(self) -> None:
        timeout = self.config.gateway.drain_timeout
        log.info("draining, for at most %g s; a second signal stops at once", timeout)
        self._overview.state = "draining"
        self._crew.drain_all()

    def _give_up(self, failure: str, code: int) -> None:
        self._failure = StartFailed(failure, code)
        self._overview.state = "stopping"
        self._crew.stop_all()

    def _finish(self) -> None:
        self._is_over = True

    # Workers.

    def _note_ready(self) -> None:
        if not self._crew.was_ready and self._crew.has_all():
            self._crew.was_ready = True
            log.info("ready, listening on %s", self._overview.listening())

    def _on_worker_exited(self, gone: Incarnation, code: int | None) -> None:
        accounts.close_dead_accounts(self._state_dir / "ledger")
        if gone.worker:
            startup.remove_socket(self._run_dir, gone.worker)
            self._chore(self._sweeper.worker_exited(gone.worker))
        self._crew.on_exited(gone, code)

    # Orders and Redis.

    async def _on_order(self, order: Order) -> Reply:
        if order.verb in orders.ASKED:
            return await orders.ask_workers(self._reception, order)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(OrderReceived(order, reply))
        return await reply

    def _reload(self) -> Reply:
        """Read the files again; what is broken is refused, and everything stays as it is."""
        try:
            new = reload.read(self._config_path)
        except ReloadRefused as exc:
            log.error("the configuration stays as it is: %s", exc)
            self._overview.note_error("reload", str(exc))
            self._overview.reloaded = False
            return Reply(False, f"nothing was changed: {exc}")
        change = reload.changed(self.config, new)
        self.config = reload.merged(self.config, new, "live", "inner")
        reload.write_accepted(self._accepted, self.config)
        logs.set_level(self.config.gateway.log_level)
        self._crew.config = self._overview.settings = self.config
        self._overview.reloaded = True
        self._reception.command_all("reload")
        return Reply(True, f"certificates and configuration were read again; {change}")

    def _on_redis_exited(self) -> None:
        self._overview.redis_up = False
        if self._keeper is not None:
            self._overview.note_error("redis", self._keeper.restart_soon())
