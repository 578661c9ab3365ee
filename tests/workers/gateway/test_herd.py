"""Turns for a herd: so many at once, the urgent first, nobody starved or lost."""

import asyncio
import random
from collections import Counter

import pytest

from tests.workers.gateway.session_bench import until
from workers.gateway import herd as module
from workers.gateway.herd import Herd, Key, key_for


class Crowd:
    """Tasks that want a turn each; `order` says who had it."""

    def __init__(self, herd: Herd) -> None:
        self.herd = herd
        self.order: list[str] = []
        self.go_on = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, *names: str, urgent: bool, key: Key | None = None) -> None:
        """Each has a key of its own unless one is given."""
        for name in names:
            turn = self._have_turn(name, urgent, key or Key(name, f"network of {name}"))
            self.tasks.append(asyncio.create_task(turn))
        await asyncio.sleep(0)

    async def _have_turn(self, name: str, urgent: bool, key: Key) -> None:
        async with self.herd.turn(key, urgent=urgent):
            self.order.append(name)
            await self.go_on.wait()

    async def finish(self) -> list[str]:
        self.go_on.set()
        await asyncio.gather(*self.tasks)
        assert self.herd.running == self.herd.waiting == 0
        return self.order


async def test_so_many_at_once_and_the_urgent_first_but_not_only() -> None:
    crowd = Crowd(Herd(1))
    await crowd.join("first", urgent=False)
    await crowd.join("slow1", "slow2", urgent=False)
    await crowd.join("u1", "u2", "u3", "u4", "u5", urgent=True)
    assert crowd.order == ["first"] and crowd.herd.waiting == 7
    assert await crowd.finish() == ["first", "u1", "u2", "u3", "slow1", "u4", "u5", "slow2"]


async def test_a_turn_that_takes_long_does_not_keep_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HURRIED_TURN", 0.02)
    monkeypatch.setattr(module, "LONGEST_TURN", 60.0)
    crowd = Crowd(Herd(2))
    await crowd.join("a", "b", "c", "d", "e", urgent=True)
    await until(lambda: len(crowd.order) == 5)
    assert crowd.herd.running > 0  # nobody waits, so the last may take their time
    assert await crowd.finish() == ["a", "b", "c", "d", "e"]


async def test_a_turn_is_over_at_last_though_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HURRIED_TURN", 0.01)
    monkeypatch.setattr(module, "LONGEST_TURN", 0.02)
    crowd = Crowd(Herd(1))
    await crowd.join("a", urgent=True)
    await until(lambda: crowd.herd.running == 0)
    assert await crowd.finish() == ["a"]


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    crowd = Crowd(Herd(1))
    await crowd.join("a", "b", "c", urgent=True)
    crowd.tasks[1].cancel()
    crowd.go_on.set()
    await asyncio.sleep(0)
    crowd.tasks[2].cancel()  # perhaps in the moment of its turn
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert crowd.herd.running == 0 and crowd.order[0] == "a"
    async with crowd.herd.turn(Key("d", "n"), urgent=False):
        assert crowd.herd.running == 1


@pytest.mark.parametrize("same", ["site", "network"])
async def test_a_site_or_network_has_an_eighth_of_the_turns(same: str) -> None:
    crowd = Crowd(Herd(16))
    for number in range(100):
        key = Key("evil", str(number)) if same == "site" else Key(str(number), "evil")
        await crowd.join(f"evil{number}", urgent=True, key=key)
    assert crowd.herd.running == 2
    await crowd.join("honest", urgent=False)
    assert crowd.order == ["evil0", "evil1", "honest"]
    assert len(await crowd.finish()) == 101


async def test_sites_have_turns_in_rotation_also_within_a_network() -> None:
    crowd = Crowd(Herd(8))
    await crowd.join(*"abcdef", urgent=False, key=Key("evil", "shared"))
    await crowd.join("honest", urgent=False, key=Key("honest", "shared"))
    assert (await crowd.finish())[:4] == ["a", "b", "honest", "c"]


@pytest.mark.parametrize("seed", range(20))
async def test_no_turn_is_lost_and_no_bound_broken_in_any_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a turn would stop counting while its work goes on.
    monkeypatch.setattr(module, "HURRIED_TURN", 60.0)
    rng = random.Random(seed)
    herd = Herd(rng.choice([1, 8, 16, 32]))
    share = max(1, herd.limit // 8)
    now: Counter[str] = Counter()

    async def work(key: Key, turns: int, urgent: bool) -> None:
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        async with herd.turn(key, urgent=urgent):
            now.update(key)
            assert max(now.values()) <= share and herd.running <= herd.limit
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                now.subtract(key)

    tasks = []
    for _ in range(300):
        key = Key(f"site{rng.randrange(12)}", f"network{rng.randrange(6)}")
        tasks.append(asyncio.create_task(work(key, rng.randrange(4), rng.random() < 0.5)))
    for task in rng.sample(tasks, 60):
        await asyncio.sleep(0)
        task.cancel()
    async with asyncio.timeout(10.0):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    wrong = [each for each in results if isinstance(each, Exception)]
    assert not wrong and herd.running == herd.waiting == 0


def test_a_site_is_what_one_owner_makes_up_names_under() -> None:
    assert key_for("x1.evil.example", "192.0.2.7") == Key("evil.example", "192.0.2.0/24")
    assert key_for("evil.example", "2001:db8:1:2::3").network == "2001:db8:1::/48"
    assert key_for("a.b.co.uk", "fe80::1%eth0") == Key("b.co.uk", "fe80::/48")
    assert key_for("co.uk", "192.0.2.7").site == "co.uk"
    assert key_for("localhost", "192.0.2.7").site == "localhost"
