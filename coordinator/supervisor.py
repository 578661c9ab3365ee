"""The coordinator process: brings everything up, watches it, takes it down.

Rules of the file: handlers (signals, ends of processes, timers, the control socket) only queue an
event; `_act` alone acts on them, one at a time. What `_open` brought up goes down in reverse order.
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

from coordinator import accounts, logs, startup
from coordinator.admin.overview import Overview
from coordinator.admin.server import AdminServer
from coordinator.config import Config
from coordinator.configfile import find
from coordinator.control import Order, Reply
from coordinator.embedded import EmbeddedProblem, EmbeddedRedis
from coordinator.events import (
    Event,
    OrderReceived,
    RedisExited,
    Signalled,
    TimerRanOut,
    WorkerConnected,
    WorkerExited,
)
from coordinator.exits import ExitCode
from coordinator.listeners import Listeners
from coordinator.reception import Link, Reception
from coordinator.startup import StartFailed
from coordinator.store import Store, StoreUnavailable, redis_url
from coordinator.workforce import (
    Slot,
    Workforce,
    count_death,
    is_boot_error,
    is_crash_loop,
    restart_delay,
    stop_orphans,
)

log = logging.getLogger(__name__)

TICK = 1.0
BOOT_TIMEOUT = 30.0
KILL_AFTER = 3.0  # seconds between telling a worker to stop now and killing it
MAX_REDIS_DELAY = 5.0


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
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timers: set[asyncio.TimerHandle] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._store = Store(redis_url(config), config.cluster.name)
        self._embedded = None if config.redis.url else EmbeddedRedis(self._state_dir)
        self._redis_failures = 0
        self._listeners = Listeners()
        self._workforce: Workforce
        self._reception: Reception
        self._overview: Overview
        self._is_over = False
        self._failure = StartFailed("", ExitCode.OK)
        self._was_ready = False

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
        await stop_orphans(self._run_dir)
        accounts.close_dead_accounts(self._state_dir / "ledger")
        self._listeners = await startup.bind(self.config, shared=self._count > 0)
        stack.callback(self._listeners.close)
        authority = startup.authority(self.config)
        stack.push_async_callback(self._store.close)
        await self._open_redis(stack)
        self._reception = Reception(self._state_dir, authority)
        self._reception.on_hello = lambda link: self._events.put_nowait(WorkerConnected(link))
        self._reception.on_order = self._on_order
        await self._reception.start()
        stack.push_async_callback(self._reception.close)
        await self._open_workers(stack)

    async def _open_redis(self, stack: contextlib.AsyncExitStack) -> None:
        if self._embedded is not None:
            stack.push_async_callback(self._embedded.stop)
        await startup.connect(self._store, self._embedded)
        await startup.forget_dead_workers(self._store, self.config)
        if self._embedded is not None:
            self._chore(self._watch_redis(self._embedded))

    async def _open_workers(self, stack: contextlib.AsyncExitStack) -> None:
        shared = ["--sockets", self._listeners.argument()] if self._count else []
        self._workforce = Workforce(
            self._count,
            self._run_dir,
            ["--config", self._config_path, *shared],
            self._listeners.descriptors(),
            lambda slot, code: self._events.put_nowait(WorkerExited(slot, code)),
        )
        stack.push_async_callback(self._workforce.close)
        stack.callback(self._workforce.kill_all)
        self._overview = Overview(
            self.config, self._listeners, self._workforce, self._reception, self._store
        )
        self._reception.on_gone = self._overview.keep_errors
        admin = AdminServer(self._overview, self._listeners.admin)
        await admin.start()
        stack.push_async_callback(admin.close)
        stack.callback(self._cancel_timers_and_chores)
        for slot in self._workforce.slots:
            await self._start_worker(slot)
        self._after(TICK, self._tick)
        self._note_ready()  # without workers of our own we are

    def _cancel_timers_and_chores(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._chores:
            task.cancel()

    # The loop.

    async def _act(self, event: Event) -> None:
        match event:
            case Signalled(signal.SIGHUP):
                log.info("reload requested")
                self._reception.command_all("reload")
            case Signalled():
                self._on_stop_signal()
            case WorkerConnected(link):
                self._on_worker_connected(link)
            case WorkerExited(slot, code):
                self._on_worker_exited(slot, code)
            case OrderReceived(order, reply):
                if not reply.done():
                    reply.set_result(self._obey(order))
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
        try:
            await self._store.ping()
            self._overview.redis_up = True
        except StoreUnavailable as exc:
            if self._overview.redis_up:
                log.warning("%s; sessions go on without it", exc)
                self._overview.note_error("redis", str(exc))
            self._overview.redis_up = False

    # Stopping.

    def _on_stop_signal(self) -> None:
        if self._overview.state == "running":
            self._drain_all()
        else:
            self._stop_all()

    def _drain_all(self) -> None:
        timeout = self.config.gateway.drain_timeout
        log.info("draining, for at most %g s; a second signal stops at once", timeout)
        self._overview.state = "draining"
        for slot in self._workforce.slots:
            self._drain(slot)
        self._after(timeout, self._stop_all)
        self._finish_when_gone()

    def _stop_all(self) -> None:
        self._overview.state = "stopping"
        for slot in self._workforce.slots:
            self._stop(slot, slot.process)
        self._finish_when_gone()

    def _drain(self, slot: Slot) -> None:
        if slot.process is None or slot.state in ("draining", "stopping"):
            return
        if not self._reception.command(slot.worker, "drain"):
            self._workforce.signal(slot, signal.SIGTERM)  # not connected yet, or no longer
        slot.state = "draining"

    def _stop(self, slot: Slot, process: asyncio.subprocess.Process | None) -> None:
        """Stop a slot's process now, unless it has ended or been replaced since."""
        if process is None or slot.process is not process:
            return
        slot.state = "stopping"
        if not self._reception.command(slot.worker, "stop"):
            self._workforce.signal(slot, signal.SIGTERM)
        self._after(KILL_AFTER, lambda: self._kill(slot, process))

    def _kill(self, slot: Slot, process: asyncio.subprocess.Process) -> None:
        if slot.process is process:
            log.warning("worker %s does not stop: killed", slot.name)
            self._workforce.signal(slot, signal.SIGKILL)

    def _finish_when_gone(self) -> None:
        if self._overview.state != "running" and self._workforce.is_gone:
            self._is_over = True

    # Workers.

    async def _start_worker(self, slot: Slot) -> None:
        if self._overview.state != "running" or slot.process is not None:
            return
        await self._workforce.start(slot)
        process = slot.process
        self._after(BOOT_TIMEOUT, lambda: self._on_boot_timeout(slot, process))

    def _on_boot_timeout(self, slot: Slot, process: asyncio.subprocess.Process | None) -> None:
        if process is not None and slot.process is process and slot.state == "starting":
            log.error("worker %s did not get ready in %g s", slot.name, BOOT_TIMEOUT)
            self._workforce.signal(slot, signal.SIGKILL)

    def _on_worker_connected(self, link: Link) -> None:
        slot = self._workforce.slot_of_pid(link.pid)
        if slot is None:
            log.info("worker %s, pid %d, was started elsewhere", link.worker, link.pid)
            return
        slot.worker = link.worker
        if slot.state == "starting":
            slot.state = "running"
            log.info("worker %s is ready, pid %d", link.worker, link.pid)
        elif slot.state in ("draining", "stopping"):
            self._reception.command(link.worker, "drain")
        self._note_ready()

    def _note_ready(self) -> None:
        if not self._was_ready and all(s.state == "running" for s in self._workforce.slots):
            self._was_ready = True
            log.info("ready, listening on %s", self._listeners.addresses())

    def _on_worker_exited(self, slot: Slot, code: int) -> None:
        worker, state = slot.worker, slot.state
        slot.state, slot.worker = "down", ""
        accounts.close_dead_accounts(self._state_dir / "ledger")
        if worker:
            self._chore(self._forget_worker(worker))
        if self._overview.state != "running":
            self._finish_when_gone()
            return
        if state in ("draining", "stopping"):
            self._after(0.0, lambda: self._start_worker(slot))
            return
        log.error("worker %s ended, %s", worker or slot.name, _shown_code(code))
        self._overview.note_error(worker or slot.name, f"ended, {_shown_code(code)}")
        count_death(slot, time.time())
        if is_boot_error(code) and not self._was_ready:
            # It has said why, in one line: nothing to add.
            self._give_up("", code)
        elif is_crash_loop(self._workforce.slots):
            self._give_up(
                f"worker {slot.name} ended {slot.failures} times in a row, {_shown_code(code)}; "
                "its last lines above say why",
                ExitCode.FAILURE,
            )
        else:
            self._after(restart_delay(slot.failures), lambda: self._start_worker(slot))

    def _give_up(self, failure: str, code: int) -> None:
        self._failure = StartFailed(failure, code)
        self._stop_all()

    async def _forget_worker(self, worker: str) -> None:
        """Free a dead worker's routes; without Redis its heartbeat runs out by itself."""
        with contextlib.suppress(StoreUnavailable):
            await self._store.leave(worker)
            await self._store.release_all(worker)

    # Orders and Redis.

    async def _on_order(self, order: Order) -> Reply:
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(OrderReceived(order, reply))
        return await reply

    def _obey(self, order: Order) -> Reply:
        if order.verb == "reload":
            self._events.put_nowait(Signalled(signal.SIGHUP))
            return Reply(True, "reload requested")
        if order.verb != "drain":
            return Reply(False, f"unknown order {order.verb!r}; use drain or reload")
        if not order.argument:
            self._drain_all()
            return Reply(True, "draining; fedgate stops when nothing is in flight")
        slot = self._workforce.named(order.argument)
        if slot is None or slot.process is None:
            names = ", ".join(slot.name for slot in self._workforce.slots)
            return Reply(False, f"no worker {order.argument} runs here; there are {names}")
        self._drain(slot)
        process = slot.process
        self._after(self.config.gateway.drain_timeout, lambda: self._stop(slot, process))
        return Reply(True, f"worker {slot.worker or slot.name} drains; a new one follows")

    async def _watch_redis(self, embedded: EmbeddedRedis) -> None:
        await embedded.wait()
        self._events.put_nowait(RedisExited())

    def _on_redis_exited(self) -> None:
        if self._overview.state != "running":
            return
        self._overview.redis_up = False
        delay = min(MAX_REDIS_DELAY, 0.1 * 2.0**self._redis_failures)
        self._redis_failures += 1
        log.error("the embedded redis-server ended; starting it again in %.1f s", delay)
        self._overview.note_error("redis", "the embedded redis-server ended")
        self._after(delay, self._restart_redis)

    async def _restart_redis(self) -> None:
        if self._embedded is None or self._overview.state != "running":
            return
        try:
            await self._embedded.start()
        except EmbeddedProblem as exc:
            log.error("%s", exc)
            self._events.put_nowait(RedisExited())
            return
        self._after(30.0, self._forgive_redis)
        self._chore(self._watch_redis(self._embedded))

    def _forgive_redis(self) -> None:
        self._redis_failures = 0


def _shown_code(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
