import asyncio
from pathlib import Path

import pytest

from coordinator import redis_client
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.routes import DomainPair, Route
from coordinator.store import Store, StoreUnavailable, redis_url

PAIR = DomainPair("a.example", "b.example")
ONE, TWO = "gw1/w1.a", "gw1/w2.a"


async def alive(store: Store, *workers: str) -> None:
    for worker in workers:
        await store.heartbeat(worker, 60.0, {"state": "running"})


async def test_the_first_who_asks_owns_the_pair_and_others_learn_it(store: Store):
    await alive(store, ONE, TWO)
    route = await store.acquire(PAIR, ONE, [])
    assert route.owner == ONE
    assert await store.acquire(PAIR, TWO, []) == route
    assert await store.acquire(PAIR, ONE, []) == route
    assert await store.lookup(PAIR) == route


async def test_a_dead_owner_is_replaced_under_a_larger_epoch(store: Store):
    await alive(store, ONE, TWO)
    first = await store.acquire(PAIR, ONE, [])
    await store.leave(ONE)
    second = await store.acquire(PAIR, TWO, [])
    assert second.owner == TWO
    assert second.epoch > first.epoch


async def test_many_at_once_agree_on_one_owner(store: Store):
    workers = [f"gw1/w{number}.a" for number in range(1, 20)]
    await alive(store, *workers)
    routes = await asyncio.gather(*(store.acquire(PAIR, worker, []) for worker in workers))
    assert len(set(routes)) == 1


async def test_many_who_replace_a_dead_owner_agree_on_one(store: Store):
    workers = [f"gw1/w{number}.a" for number in range(1, 20)]
    await store.acquire(PAIR, "gw1/w99.a", [])
    await alive(store, *workers)
    routes = await asyncio.gather(*(store.acquire(PAIR, worker, []) for worker in workers))
    assert len(set(routes)) == 1


async def test_only_the_owner_under_its_epoch_releases(store: Store):
    await alive(store, ONE)
    route = await store.acquire(PAIR, ONE, [])
    assert not await store.release(PAIR, TWO, route.epoch)
    assert not await store.release(PAIR, ONE, route.epoch - 1)
    assert await store.release(PAIR, ONE, route.epoch)
    assert await store.lookup(PAIR) is None


async def test_epochs_grow_across_a_release_and_across_the_loss_of_all_data(store: Store):
    await alive(store, ONE)
    first = await store.acquire(PAIR, ONE, [])
    await store.release(PAIR, ONE, first.epoch)
    second = await store.acquire(PAIR, ONE, [])
    await store._client.flushall()
    third = await store.acquire(PAIR, ONE, [])
    assert first.epoch < second.epoch < third.epoch


async def test_all_routes_are_listed(store: Store):
    pairs = [DomainPair("a.example", f"d{number}.example") for number in range(30)]
    await alive(store, ONE, TWO)
    for number, pair in enumerate(pairs):
        await store.acquire(pair, ONE if number % 3 else TWO, [])
    assert {pair for pair, _ in [item async for item in store.routes()]} == set(pairs)


async def test_clusters_on_one_redis_do_not_see_each_other(store: Store, config: Config):
    other = Store(redis_url(config), "staging*")
    await alive(store, ONE)
    await store.acquire(PAIR, ONE, [])
    assert await other.lookup(PAIR) is None
    assert [item async for item in other.routes()] == []
    assert await other.live_workers() == []
    await other.close()


async def test_a_heartbeat_tells_who_lives_and_if_redis_knew_us(store: Store):
    assert not (await store.heartbeat(ONE, 60.0, {"state": "running"})).known
    beat = await store.heartbeat(ONE, 60.0, {"state": "draining"})
    assert beat.known
    assert beat.workers == {ONE: {"state": "draining"}}
    await alive(store, TWO)
    assert sorted(await store.live_workers()) == [ONE, TWO]


async def test_a_heartbeat_that_ran_out_is_no_life(store: Store):
    await store.heartbeat(ONE, 0.001, {})
    async with asyncio.timeout(5.0):
        while await store.live_workers():
            pass
    assert ONE not in (await store.heartbeat(TWO, 60.0, {})).workers


async def test_discovery_is_kept_by_time(store: Store):
    await store.put_discovery("b.example", b"\x00payload", 60.0)
    assert await store.get_discovery("b.example") == b"\x00payload"
    assert await store.get_discovery("c.example") is None
    assert 0 < await store._client.pttl("fedgate:discovery:{b.example}") <= 60000
    with pytest.raises(ValueError, match="too large"):
        await store.put_discovery("b.example", b"x" * 200000, 60.0)


@pytest.mark.parametrize(
    "fields",
    [{"owner": "no worker id", "epoch": "5"}, {"owner": ONE, "epoch": "-1"}, {"owner": ONE}],
)
async def test_a_bad_route_counts_as_absent_and_is_repaired(store: Store, fields: dict[str, str]):
    key = "fedgate:route:{b.example}:a.example"
    await alive(store, TWO)
    await store._client.hset(key, mapping=fields)
    assert await store.lookup(PAIR) is None
    assert store.invalid_values == 1
    assert (await store.acquire(PAIR, TWO, [])).owner == TWO


async def test_a_route_of_the_wrong_type_is_repaired(store: Store):
    await alive(store, ONE)
    await store._client.set("fedgate:route:{b.example}:a.example", "text")
    assert await store.lookup(PAIR) is None
    assert not await store.release(PAIR, ONE, 1)
    assert (await store.acquire(PAIR, ONE, [])).owner == ONE
    assert store.invalid_values == 3


async def test_hostile_keys_and_values_are_skipped(store: Store):
    client = store._client
    await client.hset("fedgate:route:{b example}:a.example", mapping={"owner": ONE, "epoch": 1})
    await client.hset("fedgate:route:rubbish", mapping={"owner": ONE, "epoch": 1})
    await client.set("fedgate:discovery:{b.example}", b"x" * 200000)
    await client.hset("fedgate:discovery:{c.example}", "a", "b")
    await client.zadd("{fedgate}:workers", {"\n": 9e15, "gw1/w7.a": 9e15})
    await client.hset("{fedgate}:worker-info", "gw1/w7.a", "{")
    assert [item async for item in store.routes()] == []
    assert await store.get_discovery("b.example") is None
    assert await store.get_discovery("c.example") is None
    assert set((await store.heartbeat(ONE, 60.0, {})).workers) == {ONE}
    assert sorted(await store.live_workers()) == [ONE, "gw1/w7.a"]
    assert store.invalid_values == 6


async def test_without_redis_calls_fail_fast_and_then_at_once(tmp_path: Path):
    store = Store(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreUnavailable, match="Redis is away"):
        await store.connect()
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        await store.lookup(PAIR)
    with pytest.raises(StoreUnavailable, match="Redis is away"):
        await store.ping()  # a probe tries nevertheless
    await store.close()


async def test_a_redis_that_hangs_costs_no_more_than_the_timeout(tmp_path: Path):
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, tmp_path / "s")
    store = Store(f"unix://{tmp_path}/s")
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable):
        await store.ping()
    assert asyncio.get_running_loop().time() - started < 4 * redis_client.COMMAND_TIMEOUT
    await store.close()
    server.close()


async def test_a_restarted_redis_is_used_again_without_a_failed_call(
    store: Store, redis: EmbeddedRedis
):
    await alive(store, ONE)
    route = await store.acquire(PAIR, ONE, [])
    await redis.stop()
    await redis.start()
    assert await store.lookup(PAIR) == route  # append-only file: nothing was lost


async def test_a_refusing_redis_is_unavailable(store: Store):
    await store._client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="refuses"):
        await store.put_discovery("b.example", b"x", 60.0)


async def test_any_url_form_opens(tmp_path: Path):
    for url in ("redis+sentinel://h1,h2:1/main", "redis+cluster://u:p@127.0.0.1:1", "redis://h"):
        assert redis_client.open_client(url)
    with pytest.raises(ValueError, match="URL"):
        await Store("http://example").connect()


def test_the_embedded_redis_is_the_default(config: Config):
    assert redis_url(config) == f"unix://{config.gateway.state_dir}/run/redis.sock"
    assert Route(ONE, 1).owner == ONE


async def test_what_is_no_table_of_workers_is_replaced(store: Store):
    for key in store._workers:
        for put in (store._client.set, store._client.lpush):
            await alive(store, ONE)
            await store._client.delete(key)
            await put(key, "not ours")
            assert await store.live_workers() in ([], [ONE])
            assert set(await store.workers()) <= {ONE}
            await store.leave(TWO)
            await alive(store, ONE)
            assert await store.live_workers() == [ONE]
            assert set(await store.workers()) == {ONE}
