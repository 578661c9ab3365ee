"""The Lua texts of `coordinator/scripts.py` in Python, by their text: a changed one has no twin.

`test_redis_model.py` runs both against the same random calls.
"""

from collections.abc import Callable
from typing import Any

from coordinator import scripts

Twin = Callable[[Any, list[Any], list[bytes]], Any]


def _milliseconds(redis: Any) -> int:
    return int(redis.time() * 1000)


def acquire(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    owner, epoch = redis.hmget(keys[0], "owner", "epoch")
    if owner is not None and epoch is not None:
        if owner == argv[0] or owner != argv[1] or epoch != argv[2]:
            return [owner, epoch]
    fresh = int(redis.time() * 1_000_000)
    old = int(epoch) if epoch else 0
    if fresh <= old < 9_000_000_000_000_000:
        fresh = old + 1
    redis.hset(keys[0], "owner", argv[0], "epoch", b"%d" % fresh)
    return [argv[0], b"%d" % fresh]


def release(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    if redis.hmget(keys[0], "owner", "epoch") == [argv[0], argv[1]]:
        return redis.delete(keys[0])
    return 0


def heartbeat(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    now = _milliseconds(redis)
    known = int(redis.zscore(keys[0], argv[0]) is not None)
    for gone in redis.zrange_by(keys[0], float("-inf"), now - 1):
        redis.zrem(keys[0], gone)
        redis.hdel(keys[1], gone)
    expiry = now + int(argv[1])
    for ahead in redis.zrange_by(keys[0], expiry + 1, float("inf")):
        redis.zadd(keys[0], expiry, ahead)
    redis.zadd(keys[0], expiry, argv[0])
    redis.hset(keys[1], argv[0], argv[2])
    reply: list[Any] = [known]
    for worker in redis.zrange_by(keys[0], float("-inf"), float("inf")):
        reply += [worker, redis.hget(keys[1], worker) or b""]
    return reply


def live(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    return redis.zrange_by(keys[0], _milliseconds(redis), float("inf"))


def workers(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    reply: list[Any] = []
    for worker in redis.zrange_by(keys[0], _milliseconds(redis), float("inf")):
        reply += [worker, redis.hget(keys[1], worker) or b""]
    return reply


def leave(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    redis.hdel(keys[1], argv[0])
    return redis.zrem(keys[0], argv[0])


def open_journal(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    if redis.exists(keys[0]):
        return [redis.last_number(keys[0]), 0]
    redis.xadd(keys[0], {"d": ""}, id="0-1")
    redis.xdel(keys[0], "0-1")
    return [-1, int(redis.exists(keys[1], keys[2]) > 0)]


def seal(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    holder = redis.get(keys[1])
    if holder is not None and holder not in (argv[0], b"swept"):
        return 0
    redis.set(keys[1], argv[0], px=int(argv[1]))
    if redis.exists(keys[0]) and redis.xlen(keys[2]) == 0:
        redis.rename(keys[0], keys[2])
    return 1


def finish(redis: Any, keys: list[Any], argv: list[bytes]) -> Any:
    if argv[0] and redis.get(keys[1]) != argv[0]:
        return 0
    for at in (0, 2, 3):
        if redis.xlen(keys[at]) > 0:
            if argv[0]:
                redis.delete(keys[1])
            return 0
    redis.delete(keys[0], keys[2], keys[3])
    if argv[0]:
        redis.set(keys[1], "swept", px=int(argv[1]) * 1000)
    return 1


TWINS: dict[str, Twin] = {
    scripts.ACQUIRE: acquire,
    scripts.RELEASE: release,
    scripts.HEARTBEAT: heartbeat,
    scripts.LIVE: live,
    scripts.WORKERS: workers,
    scripts.LEAVE: leave,
    scripts.OPEN_JOURNAL: open_journal,
    scripts.SEAL: seal,
    scripts.FINISH: finish,
}
