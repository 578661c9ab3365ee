import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import client
from coordinator.authority import Authority, Leaf
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.reception import Reception
from coordinator.routes import DomainPair, Route
from coordinator.store import Store, redis_url

PAIR = DomainPair("a.example", "b.example")
ONE, TWO = "gw1/w1.a", "gw1/w2.a"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same intervals, a hundredth as long."""
    monkeypatch.setattr(client, "HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setattr(client, "RECONNECT_INTERVAL", 0.01)


@pytest.fixture
async def reception(tmp_path: Path) -> AsyncIterator[Reception]:
    opened = Reception(tmp_path, Authority(tmp_path, ["a.example"]))
    await opened.start()
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def plane_of(config: Config, worker: str) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane(config, worker)
    await plane.start()
    try:
        yield plane
    finally:
        await plane.close()


async def until(condition) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0)


async def test_two_workers_agree_on_an_owner_and_see_each_other(
    config: Config, redis: EmbeddedRedis, reception: Reception
):
    async with plane_of(config, ONE) as one, plane_of(config, TWO) as two:
        assert one.degraded == two.degraded == set()
        assert one.dialback_secret == two.dialback_secret != b""
        route = await one.acquire(PAIR)
        assert await two.acquire(PAIR) == route == Route(ONE, route.epoch)
        await until(lambda: one.live_workers() == two.live_workers() == [ONE, TWO])
        await one.release(PAIR)
        assert (await two.acquire(PAIR)).owner == TWO


async def test_a_stopped_workers_pairs_are_free_at_once(
    config: Config, redis: EmbeddedRedis, reception: Reception
):
    async with plane_of(config, TWO) as two:
        async with plane_of(config, ONE) as one:
            await one.acquire(PAIR)
        two.doubt(ONE)
        assert (await two.acquire(PAIR)).owner == TWO


async def test_discovery_is_shared(config: Config, redis: EmbeddedRedis, reception: Reception):
    async with plane_of(config, ONE) as one, plane_of(config, TWO) as two:
        await one.save_discovery("b.example", b"found", 60.0)
        assert await two.load_discovery("b.example") == b"found"


async def test_without_redis_a_worker_takes_what_it_is_asked_for(
    config: Config, reception: Reception
):
    async with plane_of(config, ONE) as plane:
        assert plane.degraded == {"redis"}
        route = await plane.acquire(PAIR)
        assert route == Route(ONE, 0)
        await plane.save_discovery("b.example", b"x", 1.0)
        assert await plane.load_discovery("b.example") is None
        assert plane.live_workers() == [ONE]
        await plane.release(PAIR)


async def test_after_the_loss_of_all_data_routes_are_claimed_again_and_the_loser_is_told(
    config: Config, redis: EmbeddedRedis, reception: Reception
):
    kept, lost = PAIR, DomainPair("a.example", "c.example")
    told: asyncio.Queue[tuple[DomainPair, Route]] = asyncio.Queue()
    store = Store(redis_url(config))
    async with plane_of(config, ONE) as one:
        one.on_route_lost = lambda pair, route: told.put_nowait((pair, route))
        await one.acquire(kept)
        await one.acquire(lost)
        await store.connect()
        await store.heartbeat(TWO, 60.0, {})
        # One step, so that no heartbeat comes between the loss and the other's claim.
        await store._client.eval(
            "redis.call('FLUSHALL') "
            "redis.call('ZADD', '{fedgate}:workers', 9e15, ARGV[1]) "
            "redis.call('HSET', '{fedgate}:worker-info', ARGV[1], '{}') "
            "redis.call('HSET', 'fedgate:route:{c.example}:a.example', 'owner', ARGV[1], "
            "'epoch', '9000000000000000')",
            0,
            TWO,
        )
        assert await told.get() == (lost, Route(TWO, 9000000000000000))
        route = await store.lookup(kept)
        assert route and route.owner == ONE
    await store.close()


async def test_a_release_during_an_outage_is_made_good(
    config: Config, redis: EmbeddedRedis, reception: Reception
):
    async with plane_of(config, ONE) as one:
        await one.acquire(PAIR)
        await redis.stop()
        await one.release(PAIR)
        assert "redis" in one.degraded
        await redis.start()
        await until(lambda: "redis" not in one.degraded)
        store = Store(redis_url(config))
        assert await store.lookup(PAIR) is None
        await store.close()


async def test_a_leaf_is_asked_for_once_and_then_cached(config: Config, reception: Reception):
    async with plane_of(config, ONE) as plane:
        leaves = await asyncio.gather(*(plane.leaf("b.example") for _ in range(5)))
        assert len(set(leaves)) == 1
        assert await plane.leaf("b.example") == leaves[0]
        with pytest.raises(ControlPlaneUnavailable, match="a domain of the local server"):
            await plane.leaf("a.example")


async def test_without_the_coordinator_cached_leaves_serve_until_their_end(
    config: Config, reception: Reception
):
    async with plane_of(config, ONE) as plane:
        leaf = await plane.leaf("b.example")
        soon = Leaf(leaf.certificate_pem, leaf.key_pem, time.time() + 600)
        over = Leaf(leaf.certificate_pem, leaf.key_pem, time.time() + 10)
        plane._leaves.kept |= {"soon.example": soon, "over.example": over}
        await reception.close()
        await until(lambda: "coordinator" in plane.degraded)
        assert await plane.leaf("b.example") == leaf
        assert await plane.leaf("soon.example") == soon
        for domain in ("over.example", "new.example"):
            with pytest.raises(ControlPlaneUnavailable, match="the coordinator is away"):
                await plane.leaf(domain)
        plane.report({"state": "running"})  # nobody listens: nothing happens


async def test_a_new_coordinator_is_found_and_commands_arrive(
    config: Config, reception: Reception, tmp_path: Path
):
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with plane_of(config, ONE) as plane:
        plane.on_command = heard.put_nowait
        await reception.close()
        await until(lambda: "coordinator" in plane.degraded)
        successor = Reception(tmp_path, Authority(tmp_path))
        await successor.start()
        await until(lambda: ONE in successor.links and not plane.degraded - {"redis"})
        plane.report({"routes": 2})
        await until(lambda: successor.links[ONE].report == {"routes": 2})
        for verb in ("reload", "drain"):
            successor.command(ONE, verb)
            assert await heard.get() == verb
        assert plane.draining and plane.live_workers() == []
        await successor.close()


async def test_without_any_coordinator_a_worker_does_not_start(config: Config):
    plane = ControlPlane(config, ONE)
    with pytest.raises(ControlPlaneUnavailable, match=r"no coordinator answers .* start"):
        await plane.start(timeout=0.05)
    await plane.close()


async def test_a_coordinator_that_does_not_answer_is_not_waited_for(
    config: Config, reception: Reception, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "LEAF_TIMEOUT", 0.0)
    async with plane_of(config, ONE) as plane:
        with pytest.raises(ControlPlaneUnavailable, match="did not answer in 0 s"):
            await plane.leaf("b.example")
