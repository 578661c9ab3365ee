"""A model of Redis as its users meet it, and how calls go wrong.

A call is delayed, can be lost before or after it took effect, and a server can be away, stalled,
emptied, or set back to what it was a moment ago (a failover).
"""

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.simulation.redis_data import Data
from tests.simulation.world import START, WALL, Process, World

if TYPE_CHECKING:
    from tests.simulation.redis_connection import ModelConnection


class RedisModel:
    """The server and the network to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock_offset = 0.0
        self.data = Data(self.time)
        self.latency = self.usual_latency = 0.001
        self.loss = 0.0
        """How likely a call is lost: half of these before, half after it took effect."""
        self.is_away = False
        self.is_stalled = False
        self.unreachable: set[str] = set()
        """Names of machines that a partition keeps away."""
        self.stalled: list[Callable[[], None]] = []
        self.on_executed: Callable[[Process, str, tuple[Any, ...], Any], None] = lambda *_: None
        self.calls = 0
        self.connections: list[ModelConnection] = []
        self._past: list[tuple[float, dict[bytes, Any], dict[bytes, float]]] = []

    def time(self) -> float:
        """The server's clock, which can be stepped (Unix time)."""
        return WALL + self.world.now - START + self.clock_offset

    # Faults.

    def go_away(self) -> None:
        """Stop: connections break, new ones are refused."""
        self.is_away = True
        for connection in self.connections:
            connection.broken()
        self.connections.clear()

    def empty(self) -> None:
        self.data.keys.clear()
        self.data.expiry.clear()

    def remember(self) -> None:
        """Keep a copy, for `forget_newest`."""
        self._past = [(self.world.now, copy.deepcopy(self.data.keys), dict(self.data.expiry))]

    def forget_newest(self) -> None:
        """A failover to a replica that was behind."""
        if self._past:
            _, self.data.keys, self.data.expiry = self._past.pop()

    def go_on(self) -> None:
        """After a stall: what waited is executed, late."""
        self.is_stalled = False
        waiting, self.stalled = self.stalled, []
        for execute in waiting:
            self.world.later(self.world.rng.random() * 0.01, execute)

    # Calls.

    async def call(
        self, process: Process, machine: str, name: str, arguments: Any, options: Any
    ) -> Any:
        world = self.world
        self.calls += 1
        if self.is_away or machine in self.unreachable:
            if machine in self.unreachable:
                await asyncio.sleep(3600)  # packets vanish: only the caller's timeout ends it
            await asyncio.sleep(self.latency)
            raise RedisConnectionError("Error 111 connecting: Connection refused.")
        future = process.create_future()
        fate = world.rng.random()
        is_lost, is_answered = fate < self.loss / 2, not fate < self.loss

        def execute() -> None:
            if self.is_stalled:
                self.stalled.append(execute)
                return
            if self.is_away:
                process.post(_fail, future, RedisConnectionError("Connection closed by server."))
                return
            try:
                result = self.data.execute(name, arguments, options)
            except ResponseError as exc:
                process.post(_fail, future, exc)
                return
            self.on_executed(process, name, arguments, result)
            if is_answered:
                delay = self.latency * world.rng.random()
                world.later(delay, process.post, _succeed, future, result)

        if not is_lost and not process.is_dead:
            world.later(self.latency * (0.3 + world.rng.random()), execute)
        return await future


def _succeed(future: Any, result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Any, exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
