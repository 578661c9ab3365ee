import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import redis_client, sweeps
from coordinator.accounts import Account, account_path
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.journal import Dealt, encode_entry
from coordinator.placement import heir_for
from coordinator.routes import DomainPair, WorkerInfo
from coordinator.store import Store, StoreUnavailable, redis_url
from coordinator.sweeps import ABSENT_SWEEPS, Sweeper, process_lives
from tests.coordinator.supervisor_scene import Coordinator

DEAD, LIVE, OTHER, FAR = "gw1/w1.a", "gw1/w2.a", "gw1/w3.a", "gw2/w1.a"
PAIRS = [DomainPair("a.example", f"d{number}.example") for number in range(12)]


@pytest.fixture
def sweeper(store: Store) -> Sweeper:
    """The sweeper of gw1, all of whose silent workers are dead."""
    return Sweeper(store, "gw1", lambda worker: False)


async def alive(store: Store, *workers: str) -> None:
    for worker in workers:
        await store.heartbeat(worker, 60.0, {"state": "running"})


async def journaled(store: Store, worker: str, *entries: list[Dealt]) -> None:
    """A journal as a worker leaves it that died."""
    await store.open_journal(worker)
    key = store._journal_keys(worker)[0]
    for number, records in enumerate(entries, 1):
        await store._client.xadd(key, {"d": encode_entry(records)}, id=f"{number}-0")


def out(pair: DomainPair, data: bytes) -> Dealt:
    return Dealt("out", pair, data)


async def inbox(store: Store, worker: str) -> list[Dealt]:
    found: list[Dealt] = []
    while page := await store.read_inbox(worker):
        found += [record for entry in page for record in entry.records]
        await store.clear_inbox(worker, [entry.id for entry in page])
    return found


async def test_a_dead_workers_records_go_to_the_live_owners_in_their_order(
    store: Store, sweeper: Sweeper
):
    await alive(store, LIVE, OTHER)
    for number, pair in enumerate(PAIRS):
        await store.take(pair, (LIVE, OTHER)[number % 2], None)
    records = [out(pair, b"%d" % turn) for turn in range(3) for pair in PAIRS]
    await journaled(store, DEAD, records[:20], records[20:])
    await sweeper.worker_exited(DEAD)
    for worker, parity in ((LIVE, 0), (OTHER, 1)):
        expected = [record for record in records if PAIRS.index(record.pair) % 2 == parity]
        assert await inbox(store, worker) == expected
    assert await store.journals() == [LIVE, OTHER]
    assert not await store.has_journal(DEAD)


async def test_what_the_dead_worker_owned_gets_its_heir_as_owner(store: Store, sweeper: Sweeper):
    await alive(store, LIVE, OTHER, FAR)
    view = {worker: WorkerInfo() for worker in (LIVE, OTHER, FAR)}
    for pair in PAIRS:
        await store.take(pair, DEAD, None)
    await journaled(store, DEAD, [out(pair, b"x") for pair in PAIRS])
    await sweeper.worker_exited(DEAD)
    for pair in PAIRS:
        route = await store.lookup(pair)
        assert route is not None
        assert route.owner == heir_for(pair, DEAD, view) != FAR
    assert len(await inbox(store, LIVE)) + len(await inbox(store, OTHER)) == len(PAIRS)


async def test_what_is_for_the_local_server_changes_no_route(store: Store, sweeper: Sweeper):
    await alive(store, LIVE, FAR)
    await journaled(store, DEAD, [Dealt("in", PAIRS[0], b"x")])
    await sweeper.worker_exited(DEAD)
    assert await inbox(store, LIVE) == [Dealt("in", PAIRS[0], b"x")]
    assert await store.lookup(PAIRS[0]) is None


async def test_an_inbox_nobody_emptied_is_dealt_before_the_journal(store: Store, sweeper: Sweeper):
    await alive(store, LIVE)
    await journaled(store, DEAD, [out(PAIRS[0], b"later")])
    await store.deal(DEAD, [out(PAIRS[0], b"earlier")])
    await sweeper.worker_exited(DEAD)
    assert [record.data for record in await inbox(store, LIVE)] == [b"earlier", b"later"]


async def test_without_a_live_worker_everything_stays(store: Store, sweeper: Sweeper):
    await journaled(store, DEAD, [out(PAIRS[0], b"x")])
    await sweeper.worker_exited(DEAD)
    assert await store.journals() == [DEAD]
    await alive(store, LIVE)
    await sweeper.sweep()
    assert await inbox(store, LIVE) == [out(PAIRS[0], b"x")]


async def test_a_silent_worker_of_this_machine_is_left_alone_while_its_process_lives(store: Store):
    await alive(store, LIVE)
    await journaled(store, DEAD, [out(PAIRS[0], b"x")])
    sweeper = Sweeper(store, "gw1", lambda worker: worker == DEAD)
    for _ in range(2 * ABSENT_SWEEPS):
        await sweeper.sweep()
    assert await inbox(store, LIVE) == []


async def test_a_silent_worker_of_another_machine_is_dead_after_several_sweeps(
    store: Store, sweeper: Sweeper
):
    await alive(store, LIVE)
    await journaled(store, FAR, [out(PAIRS[0], b"x")])
    for _ in range(ABSENT_SWEEPS - 1):
        await sweeper.sweep()
    assert await inbox(store, LIVE) == []
    await sweeper.sweep()
    assert await inbox(store, LIVE) == [out(PAIRS[0], b"x")]


async def test_the_silence_counts_anew_when_redis_was_away(
    store: Store, sweeper: Sweeper, redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redis_client, "PAUSE", 0.0)
    await alive(store, LIVE)
    await journaled(store, FAR, [out(PAIRS[0], b"x")])
    for _ in range(ABSENT_SWEEPS - 1):
        await sweeper.sweep()
    await redis.stop()
    await sweeper.sweep()
    await redis.start()
    await sweeper.sweep()
    assert await inbox(store, LIVE) == []


async def test_a_worker_that_left_while_redis_was_away_leaves_in_the_next_sweep(
    store: Store, sweeper: Sweeper, redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redis_client, "PAUSE", 0.0)
    await alive(store, DEAD, LIVE)
    await redis.stop()
    await sweeper.worker_exited(DEAD)
    await redis.start()
    await sweeper.sweep()
    assert await store.live_workers() == [LIVE]


async def test_two_sweepers_at_once_deal_everything_once(store: Store, config: Config):
    await alive(store, LIVE, FAR)
    records = [out(pair, b"%d" % turn) for turn in range(9) for pair in PAIRS]
    await journaled(store, DEAD, *([record] for record in records))
    other_store = Store(redis_url(config))
    one = Sweeper(store, "gw1", lambda worker: False)
    two = Sweeper(other_store, "gw2", lambda worker: False)
    for _ in range(ABSENT_SWEEPS):
        await asyncio.gather(one.sweep(), two.sweep())
    found = await inbox(store, LIVE) + await inbox(store, FAR)
    assert found == records
    assert await store.journals() == [LIVE]
    await other_store.close()


class Died(BaseException):
    """The sweeper's process was killed."""


class DyingStore(Store):
    """Its process dies at the given call."""

    calls_left = 0

    async def _call(self, run: Callable[[], Awaitable[Any]], *, probe: bool = False) -> Any:
        if not self.calls_left:
            raise Died
        self.calls_left -= 1
        return await super()._call(run, probe=probe)


async def test_a_sweeper_may_die_at_any_line(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweeps, "LEASE_SECONDS", 0.001)
    records = [out(pair, b"%d" % turn) for turn in range(2) for pair in PAIRS[:3]]
    for calls in range(100):
        await store._client.flushall()
        await alive(store, LIVE, OTHER)
        for pair in PAIRS[:3]:
            await store.take(pair, DEAD, None)
        await journaled(store, DEAD, *([record] for record in records))
        dying = DyingStore(redis_url(config))
        dying.calls_left = calls
        try:
            await Sweeper(dying, "gw1", lambda worker: False).sweep()
            has_died = False
        except Died:
            has_died = True
        await dying.close()
        successor = Sweeper(store, "gw9", lambda worker: False)
        async with asyncio.timeout(5.0):
            while await store.has_journal(DEAD):
                await successor.sweep()
        found = await inbox(store, LIVE) + await inbox(store, OTHER)
        for pair in PAIRS[:3]:
            first_copies = list(dict.fromkeys(r.data for r in found if r.pair == pair))
            assert first_copies == [b"0", b"1"]
        if not has_died:
            assert calls > 10
            return
    raise AssertionError("a sweep never ends")


async def test_large_shares_are_dealt_in_several_entries(store: Store, sweeper: Sweeper):
    await alive(store, LIVE)
    records = [out(PAIRS[0], b"%d" % turn * 100000) for turn in range(7)]
    await journaled(store, DEAD, records)
    await sweeper.worker_exited(DEAD)
    assert len(await store.read_inbox(LIVE)) == 4
    assert await inbox(store, LIVE) == records


async def test_damaged_entries_are_left_out(store: Store, sweeper: Sweeper):
    await alive(store, LIVE)
    await journaled(store, DEAD, [out(PAIRS[0], b"good")])
    key = store._journal_keys(DEAD)[0]
    await store._client.xadd(key, {"d": b"\xff"})
    await store._client.xadd(key, {"other": b"x"})
    await store.deal(DEAD, [Dealt("out", DomainPair("a b", "c"), b"bad name")])
    await sweeper.worker_exited(DEAD)
    assert await inbox(store, LIVE) == [out(PAIRS[0], b"good")]
    assert store.invalid_values == 3
    assert await store.journals() == [LIVE]


async def test_stale_routes_are_freed_page_by_page(store: Store, sweeper: Sweeper):
    await alive(store, LIVE)
    pairs = [DomainPair("a.example", f"d{number}.example") for number in range(200)]
    for number, pair in enumerate(pairs):
        await store.take(pair, (LIVE, DEAD, FAR)[number % 3], None)
    async with asyncio.timeout(20.0):
        while {route.owner async for _, route in store.routes()} != {LIVE}:
            await sweeper.sweep()
    assert len([item async for item in store.routes()]) == 67


async def commands(store: Store) -> int:
    return int((await store._client.info("stats"))["total_commands_processed"])


async def test_a_sweep_costs_the_same_for_any_number_of_routes(store: Store, sweeper: Sweeper):
    await alive(store, LIVE)
    counts = []
    for start, end in ((0, 200), (200, 5000)):
        pipeline = store._client.pipeline()
        for number in range(start, end):
            key = store._route_key(DomainPair("a.example", f"d{number}.example"))
            pipeline.hset(key, mapping={"owner": LIVE, "epoch": 1})
        await pipeline.execute()
        before = await commands(store)
        for _ in range(5):
            await sweeper.sweep()
        counts.append(await commands(store) - before)
    assert counts[1] < 1.3 * counts[0]
    assert counts[1] < 5 * 2 * (sweeps.ROUTES_PER_SWEEP + 10)


async def test_a_route_takes_less_than_a_kilobyte(store: Store):
    pair = DomainPair("a" * 63 + ".example", "b" * 63 + ".example")
    await store.take(pair, f"{'g' * 63}/w16.19a2cffffff", None)
    assert await store._client.memory_usage(store._route_key(pair)) < 1000


def test_a_process_is_known_by_its_account(config: Config):
    assert not process_lives(config, LIVE)
    account = Account.create(account_path(config.gateway.state_dir, LIVE))
    assert process_lives(config, LIVE)
    account.close()
    account_path(config.gateway.state_dir, DEAD).write_bytes(b"")
    assert not process_lives(config, DEAD)


async def test_trouble_with_redis_is_left_for_the_next_sweep(config: Config, tmp_path):
    store = Store(f"unix://{tmp_path}/none.sock")
    await Sweeper(store, "gw1", lambda worker: False).sweep()
    with pytest.raises(StoreUnavailable):
        await store.journals()
    await store.close()


@pytest.fixture
async def fedgate(tmp_path: Path) -> AsyncIterator[Coordinator]:
    """A real coordinator with two workers that do nothing."""
    coordinator = await Coordinator.start(tmp_path, workers=2)
    await coordinator.says("ready, listening on")
    yield coordinator
    coordinator.process.send_signal(signal.SIGTERM)
    assert await coordinator.ends() == 0


async def test_a_killed_workers_journal_is_dealt_by_its_coordinator(
    fedgate: Coordinator, config: Config
):
    store = Store(redis_url(config))
    await store.connect()
    one, two = sorted(await store.workers())
    key = store._journal_keys(one)[0]
    await store._client.xadd(key, {"d": encode_entry([out(PAIRS[0], b"x")])}, id="1-0")
    fedgate.worker("w1").send(signal.SIGKILL)
    await fedgate.says(f"dealt 1 records of {one}")
    owners = [worker for worker in sorted(await store.workers()) if await inbox(store, worker)]
    route = await store.lookup(PAIRS[0])
    assert route is not None
    assert owners == [route.owner]
    assert not await store.has_journal(one)
    assert two in await store.workers()
    await store.close()
