"""A uvloop thread beside gevent: where all connections of a load process live.

Locust patches the process for gevent, on which C-level I/O would block everything. uvloop is not
touched by that, and runs in a thread that gevent does not know; what crosses over goes through two
queues and two wake-up calls that are safe from any thread.
"""

import asyncio
import sys
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
import gevent.event
import gevent.hub
import gevent.monkey
import uvloop

_start_thread = gevent.monkey.get_original("_thread", "start_new_thread")

Call = Callable[[], object]
Outcome = tuple[Any, Any, BaseException | None]


class Engine:
    """Made and used from gevent; `call` and `run` reach into the thread of the loop."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._calls: deque[Call] = deque()
        self._is_scheduled = False
        self._outcomes: deque[Outcome] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = gevent.hub.get_hub().loop.async_()
        self._wake.start(self._on_wake)
        self._ended = gevent.event.AsyncResult()
        _start_thread(self._run, ())

    def call(self, call: Call) -> None:
        """Have it called in the loop's thread, after all that was asked for before."""
        self._calls.append(call)
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon_threadsafe(self._on_calls)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine there; only this greenlet waits. Raises what it raises."""
        result = gevent.event.AsyncResult()
        self.call(lambda: self._start(work, result))
        return result.get()

    def stop(self) -> None:
        """End the loop and its thread; nothing may be called afterwards."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._ended.get()
        self._wake.close()

    # In the loop's thread.

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self.loop.run_forever()
            self.loop.close()
        except BaseException as exc:
            error = exc
        self._tell((self._ended, None, error))

    def _on_calls(self) -> None:
        # Before the queue is looked at: what is added from now on schedules us again.
        self._is_scheduled = False
        calls = self._calls
        while calls:
            try:
                calls.popleft()()
            except Exception:
                # One user's mistake must not end all others; it must not be quiet either.
                traceback.print_exc(file=sys.stderr)

    def _start(self, work: Callable[[], Coroutine[Any, Any, Any]], result: Any) -> None:
        task = self.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(done, result))

    def _on_done(self, task: asyncio.Task[Any], result: Any) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._tell((result, None if error else task.result(), error))

    def _tell(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake.send()

    # In gevent's.

    def _on_wake(self) -> None:
        while self._outcomes:
            result, value, error = self._outcomes.popleft()
            if error is not None:
                result.set_exception(error)
            else:
                result.set(value)
