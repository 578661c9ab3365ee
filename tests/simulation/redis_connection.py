"""What the redis package offers to the code under test, as far as it uses it."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import hiredis
from redis.exceptions import ResponseError

from tests.simulation.redis_model import RedisModel
from tests.simulation.world import Process


class ModelClient:
    """What `redis.asyncio` offers, as far as the store uses it."""

    def __init__(self, redis: RedisModel, process: Process, machine: str) -> None:
        self._redis = redis
        self._process = process
        self._machine = machine
        self.connection_pool = self
        self.sentinel_manager = None

    def make_connection(self) -> "ModelConnection":
        return ModelConnection(self._redis, self._process, self._machine)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("get_"):
            raise AttributeError(name)

        async def command(*arguments: Any, **options: Any) -> Any:
            return await self._redis.call(self._process, self._machine, name, arguments, options)

        return command

    def pipeline(self, transaction: bool = True) -> "ModelPipeline":
        return ModelPipeline(self)

    async def call_pipeline(self, commands: list[tuple[str, tuple[Any, ...]]]) -> Any:
        redis = self._redis
        return await redis.call(self._process, self._machine, "pipeline", (commands,), {})

    async def aclose(self) -> None: ...

    async def scan_iter(self, match: str, count: int = 10) -> AsyncIterator[bytes]:
        cursor = 0
        while True:
            cursor, page = await self.scan(cursor, match=match, count=count)
            for key in page:
                yield key
            if not cursor:
                return


class ModelPipeline:
    """Commands that travel together."""

    def __init__(self, client: ModelClient) -> None:
        self._client = client
        self._commands: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._commands.append((name, arguments))

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await self._client.call_pipeline(self._commands)


class ModelConnection:
    """A connection that its user takes over: commands as packed bytes, answers in order.

    Both what the redis package calls a connection and its transport.
    """

    def __init__(self, redis: RedisModel, process: Process, machine: str) -> None:
        self._redis = redis
        self._process = process
        self._machine = machine
        self._protocol: Any = None
        self._reader: Any = hiredis.Reader()
        self._last_arrival = 0.0
        self._is_closing = False
        self._writer: Any = self
        self.transport = self

    async def connect(self) -> None:
        await self._redis.call(self._process, self._machine, "ping", (), {})
        self._redis.connections.append(self)
        if len(self._redis.connections) > 30:
            self._redis.connections = [c for c in self._redis.connections if not c.is_closing()]

    async def disconnect(self, nowait: bool = False) -> None:
        self.abort()

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self._reader = hiredis.Reader()

    def is_closing(self) -> bool:
        return self._is_closing or self._process.is_dead

    def abort(self) -> None:
        self._is_closing = True

    def broken(self) -> None:
        """The server is gone, or it closed the connection."""
        if not self.is_closing():
            self._is_closing = True
            self._process.post(self._protocol.connection_lost, None)

    def write(self, data: bytes) -> None:
        redis, world = self._redis, self._redis.world
        if self.is_closing() or self._machine in redis.unreachable:
            return
        fate = world.rng.random()
        if fate < redis.loss:  # a connection loses nothing: it breaks, before or after
            world.later(0.01, self.broken)
            if fate < redis.loss / 2:
                return
        reader = hiredis.Reader()
        reader.feed(data)
        redis.calls += 1
        while (words := reader.gets()) is not False:
            delay = redis.latency * (0.3 + world.rng.random())
            self._last_arrival = max(self._last_arrival, world.now + delay)
            world.later(self._last_arrival - world.now, self._execute, words)

    def _execute(self, words: list[bytes]) -> None:
        redis = self._redis
        if redis.is_stalled:
            redis.stalled.append(partial(self._execute, words))
            return
        if redis.is_away:
            self.broken()
            return
        name, key = words[0].decode(), words[1]
        try:
            if name == "XADD":  # XADD key NOMKSTREAM MINID = floor number d payload
                answer = redis.data.xadd(
                    key, {words[7]: words[8]}, id=words[6], nomkstream=True, minid=words[5]
                )
            elif name == "XTRIM":  # XTRIM key MINID floor
                answer = redis.data.xtrim_below(key, words[3])
            else:
                answer = redis.data.xdel(key, *words[2:])
        except ResponseError as exc:
            packed = b"-%s\r\n" % str(exc).encode()
        else:
            redis.on_executed(self._process, name.lower(), tuple(words[1:]), answer)
            packed = _packed(answer)
        if not self.is_closing():
            delay = redis.latency * redis.world.rng.random()
            self._last_answer = max(getattr(self, "_last_answer", 0.0), redis.world.now + delay)
            redis.world.later(self._last_answer - redis.world.now, self._answer, packed)

    def _answer(self, packed: bytes) -> None:
        if not self.is_closing() and self._machine not in self._redis.unreachable:
            self._process.post(self._deliver, packed)

    def _deliver(self, packed: bytes) -> None:
        if not self._is_closing:
            self._protocol.data_received(packed)


def _packed(answer: Any) -> bytes:
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    return b"$%d\r\n%b\r\n" % (len(answer), answer)
