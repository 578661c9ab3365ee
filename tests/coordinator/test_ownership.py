"""What a worker owns and where streams go, against a real Redis that may be away."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from coordinator import ownership
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.ownership import Ownership
from coordinator.placement import heir_for
from coordinator.routes import (
    DRAINING,
    DomainPair,
    HandTo,
    Route,
    Serve,
    SpliceTo,
    WorkerInfo,
)
from coordinator.store import Store, redis_url

ONE, TWO, FAR = "gw1/w1.a", "gw1/w2.a", "gw2/w1.a"
LIVE = {ONE: WorkerInfo(), TWO: WorkerInfo(), FAR: WorkerInfo(local="10.0.0.2:5271")}
PAIRS = [DomainPair("a.example", f"d{number}.example") for number in range(20)]
OF_ONE = next(pair for pair in PAIRS if heir_for(pair, ONE, LIVE) == ONE)
OF_TWO = next(pair for pair in PAIRS if heir_for(pair, ONE, LIVE) == TWO)
NEWEST = 9000000000000000


@pytest.fixture
async def store(config: Config, redis: EmbeddedRedis) -> AsyncIterator[Store]:
    opened = Store(redis_url(config))
    yield opened
    await opened.close()


def of(store: Store, worker: str) -> Ownership:
    made = Ownership(store, worker)
    made.see(dict(LIVE))
    return made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0)


# Where streams go.


async def test_a_new_pair_goes_to_its_heir_who_takes_it(store: Store):
    one, two = of(store, ONE), of(store, TWO)
    assert await one.place(OF_TWO) == HandTo(TWO)
    assert await store.lookup(OF_TWO) is None
    place = await two.place(OF_TWO, passed=1)
    assert isinstance(place, Serve) and two.owned == {OF_TWO: place.route}
    assert await one.place(OF_TWO) == HandTo(TWO)
    assert await two.place(OF_TWO) == place


async def test_a_pair_of_another_machine_is_spliced_there_but_never_from_a_third(store: Store):
    far, one = of(store, FAR), of(store, ONE)
    await far.acquire(OF_ONE)
    assert await one.place(OF_ONE) == SpliceTo(FAR, "10.0.0.2:5271")


async def test_a_stream_said_to_be_from_another_machine_takes_nothing_from_a_live_owner(
    store: Store,
):
    one = of(store, ONE)
    ours = await one.acquire(OF_ONE)
    lost: list[tuple[DomainPair, Route]] = []
    one.on_lost = lambda pair, route: lost.append((pair, route))
    route = await store.take(OF_ONE, FAR, ours)
    for _ in range(2):
        assert await one.place(OF_ONE, from_gateway=True) == Serve(Route(ONE, 0))
    assert await store.lookup(OF_ONE) == route and one.owned == {}
    assert lost == [(OF_ONE, route)]
    await one.release(OF_ONE)
    await one.claim_again()
    assert await store.lookup(OF_ONE) == route


async def test_the_dead_are_replaced_at_once_and_the_doubted_too(store: Store):
    dead = await store.take(OF_ONE, "gw1/w9.a", None)
    one = of(store, ONE)
    place = await one.place(OF_ONE)
    assert isinstance(place, Serve) and place.route.epoch > dead.epoch
    two = of(store, TWO)
    two.doubt(ONE)
    assert isinstance(await two.place(OF_ONE), Serve)
    assert (await two.acquire(OF_ONE)).owner == TWO


async def test_a_stranger_is_looked_for_once_more_before_it_counts_as_dead(store: Store):
    """However new the view is: the stranger may have begun since, and owns a pair already."""
    await store.take(OF_ONE, "gw1/w9.a", None)
    one = of(store, ONE)

    async def refresh() -> None:
        one.see({**LIVE, "gw1/w9.a": WorkerInfo()})

    one.refresh = refresh
    assert await one.place(OF_ONE) == HandTo("gw1/w9.a")


async def test_an_owner_that_was_new_when_it_took_a_pair_of_ours_keeps_it(store: Store):
    one = of(store, ONE)
    ours = await one.acquire(OF_ONE)
    lost: list[Route] = []
    one.on_lost = lambda pair, route: lost.append(route)

    async def refresh() -> None:
        one.see({**LIVE, "gw1/w9.a": WorkerInfo()})

    one.refresh = refresh
    theirs = await store.take(OF_ONE, "gw1/w9.a", ours)
    await one.verify(OF_ONE)
    assert lost == [theirs] and await store.lookup(OF_ONE) == theirs


async def test_the_dead_owner_of_many_pairs_is_looked_for_once(store: Store):
    for pair in PAIRS:
        await store.take(pair, "gw1/w9.a", None)
    one, looks = of(store, ONE), 0

    async def refresh() -> None:
        nonlocal looks
        looks += 1
        one.see(dict(LIVE))

    one.refresh = refresh
    for pair in PAIRS:
        assert (await one.acquire(pair)).owner == ONE
        one.see(dict(LIVE))  # as heartbeats do
    assert looks == 1


async def test_a_draining_owner_is_waited_for(store: Store):
    route = await store.take(OF_ONE, TWO, None)
    one = of(store, ONE)
    one.see({**LIVE, TWO: WorkerInfo(DRAINING)})
    waited: list[tuple[DomainPair, str]] = []
    one.on_wait = lambda pair, owner: waited.append((pair, owner))
    placing = asyncio.create_task(one.place(OF_ONE))
    await until(lambda: waited)
    assert (await one.acquire(PAIRS[-1], if_free=True)).owner == ONE  # others are not held up
    assert not placing.done()
    await store.release(OF_ONE, TWO, route.epoch)
    place = await placing
    assert isinstance(place, Serve) and place.route.owner == ONE
    assert waited == [(OF_ONE, TWO)]


async def test_a_draining_owner_is_waited_for_only_so_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ownership, "PREDECESSOR_TIMEOUT", 0.05)
    route = await store.take(OF_ONE, TWO, None)
    one = of(store, ONE)
    one.see({**LIVE, TWO: WorkerInfo(DRAINING)})
    assert await one.acquire(OF_ONE, if_free=True) == route
    place = await one.place(OF_ONE)
    assert isinstance(place, Serve) and place.route.epoch > route.epoch
    other = await store.take(OF_TWO, TWO, None)
    assert (await one.acquire(OF_TWO)).epoch > other.epoch


async def test_what_former_owners_left_comes_in_before_a_new_pair_is_read(store: Store):
    one = of(store, ONE)
    received: list[dict[DomainPair, Route]] = []

    async def receive() -> None:
        received.append(dict(one.owned))

    one.receive = receive
    place = await one.place(OF_ONE)
    assert isinstance(place, Serve) and received == [{OF_ONE: place.route}]
    await one.place(OF_ONE)
    assert len(received) == 1
    await one.acquire(OF_TWO)
    assert len(received) == 2


async def test_a_pair_whose_first_records_have_come_in_is_not_read_before_the_rest(store: Store):
    one = of(store, ONE)
    rounds: list[DomainPair] = []

    async def receive() -> None:
        rounds.append(await one.adopt(OF_TWO) and OF_TWO)

    one.receive = receive
    await one.place(OF_ONE)  # brings the first record of another pair, too
    assert OF_TWO in one.owned and len(rounds) == 1
    assert isinstance(await one.place(OF_TWO), Serve) and len(rounds) == 2
    assert isinstance(await one.place(OF_TWO), Serve) and len(rounds) == 2


async def test_a_draining_worker_hands_on_what_it_owns_and_takes_nothing_that_is_free(store: Store):
    one = of(store, ONE)
    await one.acquire(OF_ONE)
    one.draining = True
    assert await one.place(OF_ONE) == HandTo(TWO)
    assert OF_ONE in one.owned  # and so is given back when it is drained
    assert (await one.acquire(OF_TWO, if_free=True)).owner == TWO
    assert await store.lookup(OF_TWO) is None


async def test_a_free_pair_is_acquired_and_a_live_owners_is_not(store: Store):
    one, two = of(store, ONE), of(store, TWO)
    route = await one.acquire(OF_TWO, if_free=True)
    assert route.owner == ONE and await two.acquire(OF_TWO) == route
    assert two.owned == {}


async def test_dealt_pairs_are_adopted_unless_somebody_lives_who_has_them(store: Store):
    one, two = of(store, ONE), of(store, TWO)
    assert await one.adopt(OF_ONE) == await one.adopt(OF_ONE) == ONE
    assert await two.adopt(OF_ONE) == ONE
    await store.take(OF_TWO, "gw1/w9.a", None)
    assert await two.adopt(OF_TWO) == TWO


async def test_a_pair_that_turns_out_to_be_anothers_is_lost(store: Store):
    one = of(store, ONE)
    lost: list[tuple[DomainPair, Route]] = []
    one.on_lost = lambda pair, route: lost.append((pair, route))
    for pair in (OF_ONE, OF_TWO):
        await one.acquire(pair)
    taken = [await store.take(pair, TWO, one.owned[pair]) for pair in (OF_ONE, OF_TWO)]
    assert await one.place(OF_ONE) == HandTo(TWO)
    assert await one.acquire(OF_TWO) == taken[1]
    assert lost == [(OF_ONE, taken[0]), (OF_TWO, taken[1])] and one.owned == {}


async def test_who_says_that_it_drains_is_passed_nothing_more(store: Store):
    one = of(store, ONE)
    one.note_draining(TWO)
    one.note_draining("gw1/w9.a")
    assert isinstance(await one.place(OF_TWO), Serve)
    assert set(one.workers) == set(LIVE)


# Giving back.


async def test_what_is_used_is_not_released(store: Store):
    one = of(store, ONE)
    await one.acquire(OF_ONE)
    one.is_used = lambda pair: True
    await one.release(OF_ONE)
    assert await store.lookup(OF_ONE) == one.owned[OF_ONE]
    one.is_used = lambda pair: False
    await one.release(OF_ONE)
    assert await store.lookup(OF_ONE) is None and one.owned == {}
    await one.release(OF_ONE)


async def test_a_stream_that_comes_during_a_release_gets_a_route_that_stands(store: Store):
    one = of(store, ONE)
    await one.acquire(OF_ONE)
    releasing = asyncio.create_task(one.release(OF_ONE))
    await asyncio.sleep(0)
    place = await one.place(OF_ONE)
    await releasing
    assert isinstance(place, Serve) and await store.lookup(OF_ONE) == place.route


# Without Redis, and contact again.


async def test_without_redis_new_pairs_go_where_the_last_known_workers_place_them(
    store: Store, redis: EmbeddedRedis
):
    one = of(store, ONE)
    await one.acquire(OF_TWO)
    await redis.stop()
    away: list[Exception] = []
    one.on_away = away.append
    assert await one.place(OF_TWO) == Serve(one.owned[OF_TWO])
    pair = next(p for p in PAIRS if p != OF_TWO and heir_for(p, ONE, LIVE) == TWO)
    assert await one.place(pair) == HandTo(TWO)
    assert await one.place(pair, passed=1) == Serve(Route(ONE, 0))
    assert (await one.acquire(OF_ONE)) == Route(ONE, 0)
    assert away
    await one.release(OF_TWO)
    await one.verify(OF_ONE)
    await redis.start()
    await store.ping()
    await asyncio.sleep(0.5)  # the store's own pause after a failure
    await one.claim_again()
    assert await store.lookup(OF_TWO) is None
    route = await store.lookup(pair)
    assert route is not None and one.owned[pair] == route and route.epoch > 0


async def test_on_contact_the_older_epoch_drains(store: Store):
    one = of(store, ONE)
    lost: list[tuple[DomainPair, Route]] = []
    one.on_lost = lambda pair, route: lost.append((pair, route))
    for pair in PAIRS[:3]:
        await one.acquire(pair)
    key = "fedgate:route:{%s}:a.example"
    newer, older, gone = PAIRS[:3]
    await store._client.hset(key % newer.remote, mapping={"owner": TWO, "epoch": NEWEST})
    await store._client.hset(key % older.remote, mapping={"owner": TWO, "epoch": 5})
    await store._client.delete(key % gone.remote)
    await one.claim_again()
    assert lost == [(newer, Route(TWO, NEWEST))] and set(one.owned) == {older, gone}
    for pair in (older, gone):
        assert await store.lookup(pair) == one.owned[pair]


async def test_routes_are_compared_with_redis_a_few_at_a_time_and_unused_ones_given_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ownership, "VERIFIED_AT_ONCE", 4)
    one = of(store, ONE)
    lost: list[DomainPair] = []
    one.on_lost = lambda pair, route: lost.append(pair)
    for pair in PAIRS[:10]:
        await one.acquire(pair)
    taken = one.owned[PAIRS[0]]
    await store.take(PAIRS[0], TWO, taken)
    one.is_used = lambda pair: pair != PAIRS[1]
    for _ in range(3):
        await one.verify_some(releasing=True)
    assert lost == [PAIRS[0]] and set(one.owned) == set(PAIRS[2:10])
    await one.verify_some(releasing=False)
