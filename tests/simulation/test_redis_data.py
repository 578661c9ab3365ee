"""The model of Redis against a real one: the same calls, the same answers."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from coordinator import scripts
from coordinator.embedded import EmbeddedRedis
from tests.simulation.redis_data import Data, sha
from tests.simulation.script_twins import TWINS

WORKERS = ["gw1/w1.1", "gw1/w2.2", "gw2/w1.1"]
ROUTE = "t:route:{r.example}:l.example"
LIVE = ["{t}:workers", "{t}:worker-info"]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    (tmp_path / "run").mkdir(mode=0o700)
    server = EmbeddedRedis(tmp_path)
    await server.start()
    client = Redis(unix_socket_path=str(tmp_path / "run" / "redis.sock"))
    yield client
    await client.aclose()
    await server.stop()


class Both:
    """Runs each call on both and compares. Epochs are clock readings: told apart by their order."""

    def __init__(self, real: Redis) -> None:
        self.real = real
        self.model = Data(lambda: 1_800_000_000.0)
        self.epochs: dict[bytes, bytes] = {}

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        try:
            wanted: Any = await getattr(self.real, name)(*arguments, **options)
        except ResponseError as exc:
            wanted = type(exc)
        try:
            got = self.model.execute(name, arguments, options)
        except ResponseError as exc:
            got = type(exc)
        assert _plain(got) == _plain(wanted), (name, arguments)
        return wanted

    async def script(self, text: str, keys: list[str], *arguments: Any) -> Any:
        wanted = await self.real.eval(text, len(keys), *keys, *arguments)  # type: ignore[misc]
        rest = [self.epochs.get(each, each) for each in arguments]
        got = self.model.evalsha(sha(text), len(keys), *keys, *rest)
        if text is scripts.ACQUIRE:
            self.epochs[wanted[1]] = got[1]
            assert got[0] == wanted[0]
        elif text in (scripts.HEARTBEAT, scripts.WORKERS):  # in the order of expiry
            assert sorted(map(str, got)) == sorted(map(str, wanted))
        else:
            assert got == wanted, (text, keys, arguments)
        return wanted


def _plain(value: Any) -> Any:
    """Answers in one shape, whatever the client makes of them."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, tuple):
        return list(map(_plain, value))
    return list(map(_plain, value)) if isinstance(value, list) else value


def journal_keys(worker: str) -> list[str]:
    return [f"t:{name}:{{{worker}}}" for name in ("journal", "seal", "sealed", "inbox")]


async def random_call(both: Both, rng: random.Random, held: list[Any]) -> None:
    worker, other = rng.sample(WORKERS, 2)
    keys = journal_keys(worker)
    match rng.randrange(14):
        case 0:
            replaced = held if held and rng.random() < 0.5 else ["", ""]
            held[:] = await both.script(scripts.ACQUIRE, [ROUTE], worker, *replaced)
        case 1 if held:
            await both.script(scripts.RELEASE, [ROUTE], *held)
        case 2:
            await both.script(scripts.HEARTBEAT, LIVE, worker, 60000, b'{"state":"running"}')
        case 3:
            await both.script(scripts.LEAVE, LIVE, worker)
        case 4:
            await both.script(scripts.WORKERS, LIVE)
        case 5:
            await both.script(scripts.OPEN_JOURNAL, keys[:3])
        case 6:
            await both.script(scripts.SEAL, keys[:3], other, 60000)
        case 7:
            await both.script(scripts.FINISH, keys, rng.choice((other, "")), 3600)
        case 8:
            number = rng.randrange(1, 40)
            options = {"id": str(number), "nomkstream": True, "minid": str(number // 2)}
            fields = {"d": f"payload {number}"}
            await both.call("xadd", keys[0], fields, approximate=False, **options)
        case 9:
            await both.call("xrange", keys[rng.choice((0, 2))], count=3)
        case 10:
            await both.call("xdel", keys[rng.choice((0, 2))], str(rng.randrange(1, 40)))
        case 11:
            await both.call("sadd", "{t}:journals", worker)
            await both.call("smembers", "{t}:journals")
        case 12:
            await both.call("srem", "{t}:journals", worker)
            await both.call("sismember", "{t}:journals", worker)
        case _:
            await both.call("exists", keys[0], keys[2], keys[3])


@pytest.mark.servers
async def test_random_calls_are_answered_alike(redis: Redis) -> None:
    for seed in range(8):
        await redis.flushall()
        both, rng, held = Both(redis), random.Random(seed), []  # type: ignore[var-annotated]
        for _ in range(250):
            await random_call(both, rng, held)


def test_every_script_has_a_twin() -> None:
    texts = {value for name, value in vars(scripts).items() if name.isupper()}
    assert texts == set(TWINS)
