"""Turns for a herd: so many at once, the urgent first, nobody starved or lost."""

import asyncio

import pytest

from tests.workers.gateway.session_bench import until
from workers.gateway import herd as module
from workers.gateway.herd import Herd


class Crowd:
    """Tasks that want a turn each; `order` says who had it."""

    def __init__(self, herd: Herd) -> None:
        self.herd = herd
        self.order: list[str] = []
        self.go_on = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, *names: str, urgent: bool) -> None:
        for name in names:
            self.tasks.append(asyncio.create_task(self._have_turn(name, urgent)))
        await asyncio.sleep(0)

    async def _have_turn(self, name: str, urgent: bool) -> None:
        async with self.herd.turn(urgent=urgent):
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
    monkeypatch.setattr(module, "LONGEST_TURN", 0.02)
    crowd = Crowd(Herd(2))
    await crowd.join("a", "b", "c", "d", "e", urgent=True)
    await until(lambda: len(crowd.order) == 5)
    assert await crowd.finish() == ["a", "b", "c", "d", "e"]


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    crowd = Crowd(Herd(1))
    await crowd.join("a", "b", "c", urgent=True)
    crowd.tasks[1].cancel()
    crowd.go_on.set()
    await asyncio.sleep(0)
    crowd.tasks[2].cancel()  # perhaps in the moment of its turn
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert crowd.herd.running == 0 and crowd.order[0] == "a"
    async with crowd.herd.turn(urgent=False):
        assert crowd.herd.running == 1
