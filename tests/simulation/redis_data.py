"""The keys of a model Redis and the commands on them: no time passes, no network is crossed.

The scripts' Lua texts cannot run here; each has a twin in `script_twins.py`, compared with a real
redis-server by `test_redis_data.py`.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.script_twins import TWINS


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
        approximate: bool = False,
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
