"""A model of Redis: commands, the scripts of `coordinator/scripts.py`, and how calls go wrong.

The scripts' Lua texts cannot run here; each has a twin in `script_twins.py`, compared with a real
redis-server by `test_redis_model.py`. A call is delayed, can be lost before or after it took effect,
and a server can be away, stalled, emptied, or set back to what it was a moment ago (a failover).
"""

import asyncio
import copy
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.script_twins import TWINS
from tests.simulation.world import WALL, START, Process, World


def to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Stream:
    """A Redis stream: entries by id, and the last id ever given."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, int], list[bytes]] = {}
        self.last = (0, 0)


class Data:
    """The keys and the commands on them, without time and network."""

    def __init__(self, time: Callable[[], float]) -> None:
        self.keys: dict[bytes, Any] = {}
        self.expiry: dict[bytes, float] = {}
        self.time = time
        self.version = 0
        self.scripts = {sha(text): twin for text, twin in TWINS.items()}

    def execute(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return getattr(self, name)(*arguments, **options)

    def _get(self, key: Any, kind: type) -> Any:
        key = to_bytes(key)
        if key in self.expiry and self.expiry[key] <= self.time():
            self.keys.pop(key, None)
            del self.expiry[key]
        value = self.keys.get(key)
        if value is not None and not isinstance(value, kind):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _make(self, key: Any, kind: type) -> Any:
        value = self._get(key, kind)
        if value is None:
            value = self.keys[to_bytes(key)] = kind()
        return value

    def _tidy(self, key: Any) -> None:
        key = to_bytes(key)
        value = self.keys.get(key)
        if isinstance(value, (dict, set)) and not value:
            del self.keys[key]

    # Commands.

    def ping(self) -> bool:
        return True

    def get(self, key: Any) -> bytes | None:
        return self._get(key, bytes)

    def set(self, key: Any, value: Any, px: int | None = None, nx: bool = False) -> bool | None:
        name = to_bytes(key)
        self._get(key, object)
        if nx and name in self.keys:
            return None
        self.keys[name] = to_bytes(value)
        self.expiry.pop(name, None)
        if px is not None:
            self.expiry[name] = self.time() + int(px) / 1000
        return True

    def delete(self, *keys: Any) -> int:
        count = 0
        for key in keys:
            self._get(key, object)
            count += self.keys.pop(to_bytes(key), None) is not None
            self.expiry.pop(to_bytes(key), None)
        return count

    unlink = delete

    def exists(self, *keys: Any) -> int:
        return sum(self._get(key, object) is not None for key in keys)

    def pexpire(self, key: Any, milliseconds: Any) -> int:
        if self._get(key, object) is None:
            return 0
        self.expiry[to_bytes(key)] = self.time() + int(milliseconds) / 1000
        return 1

    def hmget(self, key: Any, *fields: Any) -> list[bytes | None]:
        names = fields[0] if len(fields) == 1 and isinstance(fields[0], (list, tuple)) else fields
        held = self._get(key, dict) or {}
        return [held.get(to_bytes(name)) for name in names]

    def hget(self, key: Any, field: Any) -> bytes | None:
        return (self._get(key, dict) or {}).get(to_bytes(field))

    def hset(self, key: Any, *pairs: Any) -> int:
        held = self._make(key, dict)
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            held[to_bytes(name)] = to_bytes(value)
        return len(pairs) // 2

    def hdel(self, key: Any, *fields: Any) -> int:
        held = self._get(key, dict) or {}
        count = sum(held.pop(to_bytes(field), None) is not None for field in fields)
        self._tidy(key)
        return count

    def sadd(self, key: Any, *members: Any) -> int:
        held = self._make(key, set)
        before = len(held)
        held.update(to_bytes(member) for member in members)
        return len(held) - before

    def srem(self, key: Any, *members: Any) -> int:
        held = self._get(key, set) or set()
        before = len(held)
        held.difference_update(to_bytes(member) for member in members)
        after = len(held)
        self._tidy(key)
        return before - after

    def smembers(self, key: Any) -> list[bytes]:
        return sorted(self._get(key, set) or ())

    def sismember(self, key: Any, member: Any) -> int:
        return int(to_bytes(member) in (self._get(key, set) or ()))

    def zadd(self, key: Any, score: Any, member: Any) -> int:
        held = self._make(key, dict)
        is_new = to_bytes(member) not in held
        held[to_bytes(member)] = float(score)
        return int(is_new)

    def zscore(self, key: Any, member: Any) -> float | None:
        return (self._get(key, dict) or {}).get(to_bytes(member))

    def zrem(self, key: Any, *members: Any) -> int:
        return self.hdel(key, *members)

    def zrange_by(self, key: Any, least: float, most: float) -> list[bytes]:
        held = self._get(key, dict) or {}
        return sorted(
            (name for name, score in held.items() if least <= score <= most),
            key=lambda name: (held[name], name),
        )

    def scan(self, cursor: Any, match: str, count: int = 10) -> tuple[int, list[bytes]]:
        prefix = match.rstrip("*").replace("\\", "").encode()
        names = sorted(name for name in self.keys if name.startswith(prefix))
        begin = int(cursor)
        page = names[begin : begin + count]
        following = begin + count
        return (following if following < len(names) else 0), page

    def xadd(
        self,
        key: Any,
        fields: dict[Any, Any],
        id: Any = "*",
        nomkstream: bool = False,
        minid: Any = None,
    ) -> bytes | None:
        if nomkstream and self._get(key, Stream) is None:
            return None
        stream = self._make(key, Stream)
        if id == "*":
            stamp = (int(self.time() * 1000), 0)
            number = max(stamp, (stream.last[0], stream.last[1] + 1))
        else:
            number = parse_id(id)
            if number <= stream.last:
                raise ResponseError(
                    "ERR The ID specified in XADD is equal or smaller than the target stream "
                    "top item"
                )
        stream.entries[number] = [to_bytes(each) for pair in fields.items() for each in pair]
        stream.last = number
        if minid is not None:
            self.xtrim_below(key, minid)
        return shown_id(number)

    def rename(self, key: Any, to: Any) -> bool:
        self._get(key, object)
        self.keys[to_bytes(to)] = self.keys.pop(to_bytes(key))
        return True

    def xdel(self, key: Any, *ids: Any) -> int:
        stream = self._get(key, Stream)
        if stream is None:
            return 0
        return sum(stream.entries.pop(parse_id(id), None) is not None for id in ids)

    def last_number(self, key: Any) -> int:
        """The first half of `last-generated-id` (XINFO STREAM)."""
        return self._get(key, Stream).last[0]

    def xlen(self, key: Any) -> int:
        stream = self._get(key, Stream)
        return 0 if stream is None else len(stream.entries)

    def xtrim_below(self, key: Any, least: Any) -> int:
        stream = self._get(key, Stream)
        old = [] if stream is None else [n for n in stream.entries if n < parse_id(least)]
        for number in old:
            del stream.entries[number]
        return len(old)

    def xrange(
        self, key: Any, min: Any = "-", max: Any = "+", count: int | None = None
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        stream = self._get(key, Stream)
        if stream is None:
            return []
        least = after_id(min)
        most = (2**64, 0) if max == "+" else parse_id(max, 2**64)
        found = [
            (shown_id(number), dict(zip(fields[::2], fields[1::2], strict=True)))
            for number, fields in sorted(stream.entries.items())
            if least <= number <= most
        ]
        return found if count is None else found[:count]

    def pipeline(self, commands: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        answers: list[Any] = []
        for name, arguments in commands:
            try:
                answers.append(self.execute(name, arguments, {}))
            except ResponseError as exc:
                answers.append(exc)
        return answers

    def evalsha(self, digest: str, count: int, *rest: Any) -> Any:
        twin = self.scripts.get(digest)
        if twin is None:
            raise NoScriptError("NOSCRIPT No matching script")
        return twin(self, list(rest[:count]), [to_bytes(each) for each in rest[count:]])

    def eval(self, text: str, count: int, *rest: Any) -> Any:
        raise AssertionError(f"this script has no twin:\n{text}")


def parse_id(text: Any, sequence: int = 0) -> tuple[int, int]:
    first, dash, second = to_bytes(text).decode().partition("-")
    return int(first), int(second) if dash else sequence


def after_id(text: Any) -> tuple[int, int]:
    shown = to_bytes(text).decode()
    if shown == "-":
        return (0, 0)
    if shown.startswith("("):
        first, second = parse_id(shown[1:])
        return first, second + 1
    return parse_id(shown)


def shown_id(number: tuple[int, int]) -> bytes:
    return b"%d-%d" % number


class RedisModel:
    """The server and the network to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock_offset = 0.0
        self.data = Data(self.time)
        self.latency = 0.001
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
