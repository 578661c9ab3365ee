"""Virtual time and the processes that live in it: one thread, no sockets, all chance from a seed.

A `World` holds the clock and what is due. Each `Process` is an asyncio event loop of its own, so
the code of a worker runs as it is; it can be paused (SIGSTOP), and killed at any moment. Which of
several runnable processes has the next turn is drawn by lot.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

START = 1000.0
"""Where the monotonic clock of all processes begins."""
WALL = 1_800_000_000.0
"""Where wall clocks begin (Unix time)."""


class SimulationFailed(Exception):
    """An invariant does not hold, or the code under test failed inside."""


class Handle:
    """A callback that is due; may be cancelled."""

    __slots__ = ("args", "callback", "is_cancelled", "when_")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], when: float) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.when_ = when
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_


class World:
    """The clock, what is due, and the processes."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.chance = random.Random(seed ^ 0x5EED)
        """For the code under test, so that a changed draw there moves no fault."""
        self.now = START
        self.tracing = tracing
        self.lines: list[str] = []
        self.current: Process | None = None
        self.failures: list[str] = []
        self.steps = 0
        self._due: list[tuple[float, int, Process | None, Handle]] = []
        self._order = 0
        self._runnable: list[Process] = []
        self._ordinal = 0

    def ordinal(self) -> int:
        """A number that no other call gives: identity that does not depend on addresses."""
        self._ordinal += 1
        return self._ordinal

    def trace(self, who: str, text: str) -> None:
        if self.tracing:
            self.lines.append(f"{self.now - START:9.4f} {who:14} {text}")

    def fail(self, text: str) -> None:
        """An invariant does not hold; the run ends."""
        self.trace("FAILURE", text)
        self.failures.append(f"at {self.now - START:.3f} s: {text}")

    def later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call something outside all processes: the network, Redis, a fault."""
        return self._push(self.now + delay, None, callback, args)

    def at(
        self, when: float, process: "Process", callback: Callable[..., object], *args: Any
    ) -> Handle:
        return self._push(when, process, callback, args)

    def _push(
        self,
        when: float,
        process: "Process | None",
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> Handle:
        handle = Handle(callback, args, when)
        self._order += 1
        heapq.heappush(self._due, (when, self._order, process, handle))
        return handle

    def woke(self, process: "Process") -> None:
        self._runnable.append(process)

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Until a point in time, a failure, or until `is_over`, asked when time moves on."""
        due, runnable, rng = self._due, self._runnable, self.rng
        while not self.failures:
            if runnable:
                count = len(runnable)
                at = int(rng.random() * count) if count > 1 else 0
                process = runnable[at]
                runnable[at] = runnable[-1]
                runnable.pop()
                process.is_queued = False
                if process.ready and not process.is_paused and not process.is_dead:
                    self.steps += 1
                    process.turn()
                continue
            if not due or due[0][0] > until:
                return
            if due[0][0] > self.now and is_over():
                return
            when, _, process, handle = heapq.heappop(due)
            if handle.is_cancelled or (process is not None and process.is_dead):
                continue
            self.now = max(self.now, when)
            if process is None:
                assert handle.callback is not None
                handle.callback(*handle.args)
            else:
                process.post_handle(handle)


class Task(asyncio.Task):  # type: ignore[type-arg]
    """Tasks stand in sets; their order there must not depend on where they lie in memory."""

    def __init__(self, coro: Any, *, loop: "Process", name: str | None = None) -> None:
        self.ordinal = loop.world.ordinal()
        super().__init__(coro, loop=loop, name=name or "t")

    def __hash__(self) -> int:
        return self.ordinal


class Process(asyncio.AbstractEventLoop):
    """A process with its event loop; `wall_offset` is what its machine's clock is off."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_paused = False
        self.is_dead = False
        self.is_queued = False
        self.wall_offset = 0.0
        self.ready: deque[Handle] = deque()
        self.after_turn: Callable[[], None] | None = None
        self.on_death: list[Callable[[], None]] = []
        self.network: Any = None
        self.connect_stream: Any = None
        self.machine: Any = None
        self._kill_in = 0
        self.readers: dict[Any, tuple[Callable[..., object], tuple[Any, ...]]] = {}

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    # Life.

    def turn(self) -> None:
        """One turn of the loop: all that is ready at its beginning."""
        world, ready = self.world, self.ready
        world.current = self
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle.callback is not None:
                    handle.callback(*handle.args)
                    if self._kill_in:
                        self._kill_in -= 1
                        if not self._kill_in:
                            self.kill()
                    if self.is_dead:
                        return
            if self.after_turn is not None:
                self.after_turn()
        except Exception as exc:  # a callback of the code under test must not raise
            self.call_exception_handler({"message": "callback raised", "exception": exc})
        finally:
            asyncio._set_running_loop(None)
            world.current = None
        if ready and not self.is_queued:
            self.is_queued = True
            world.woke(self)

    def run_in(self, callback: Callable[..., object], *args: Any) -> None:
        """Call something as this process, now (to build it)."""
        asyncio._set_running_loop(self)
        self.world.current = self
        try:
            callback(*args)
        finally:
            asyncio._set_running_loop(None)
            self.world.current = None
        self.go_on()

    def pause(self) -> None:
        self.is_paused = True

    def go_on(self) -> None:
        self.is_paused = False
        if self.ready and not self.is_queued:
            self.is_queued = True
            self.world.woke(self)

    def kill_after(self, callbacks: int) -> None:
        """Kill it in the middle of its next turns, after so many callbacks."""
        if callbacks == 0:
            self.kill()
        else:
            self._kill_in = callbacks

    def kill(self) -> None:
        """At once. What runs at this moment goes on to the end of its step and is seen by nobody"""
        if self.is_dead:
            return
        self.is_dead = True
        self.ready.clear()
        for callback in self.on_death:
            callback()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """From outside: the process calls this in its next turn."""
        self.post_handle(Handle(callback, args, 0.0))

    def post_handle(self, handle: Handle) -> None:
        if self.is_dead:
            return
        self.ready.append(handle)
        if not self.is_queued and not self.is_paused and self.world.current is not self:
            self.is_queued = True
            self.world.woke(self)

    # What asyncio and the code under test use of a loop.

    def time(self) -> float:
        return self.world.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, 0.0)
        self.post_handle(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.world._push(self.world.now + max(delay, 0.0), self, callback, args)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.world._push(max(when, self.world.now), self, callback, args)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        return Task(coro, loop=self, name=name)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        if self.is_dead or exception is None:
            return
        where = ""
        if (trail := exception.__traceback__) is not None:
            while trail.tb_next is not None:
                trail = trail.tb_next
            where = f" at {trail.tb_frame.f_code.co_filename}:{trail.tb_lineno}"
        text = f"{self.name}: {context['message']}: {exception!r}{where}"
        self.world.fail(text)

    def add_reader(self, sock: Any, callback: Any, *args: Any) -> None:
        self.readers[sock] = callback, args
        sock.watch(self)

    def remove_reader(self, sock: Any) -> bool:
        return self.readers.pop(sock, None) is not None

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        sock.send(data)

    async def create_connection(self, factory: Any, host: Any, port: Any, **_: Any) -> Any:  # type: ignore[override]
        return await self.connect_stream(self.network, self, factory, host, port)

    async def connect_accepted_socket(self, factory: Any, sock: Any, **_: Any) -> Any:  # type: ignore[override]
        return sock.attach(self, factory)

    async def shutdown_asyncgens(self) -> None: ...
