"""Virtual time: processes take turns, stop, die, and nobody waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.simulation.world import START, Process, World


def run(world: World, *works: tuple[Process, Coroutine[Any, Any, None]], until: float) -> None:
    for process, work in works:
        process.run_in(process.create_task, work)
    world.run(START + until, lambda: False)


def test_sleeping_takes_virtual_time_only() -> None:
    world, seen = World(1), []

    async def work() -> None:
        await asyncio.sleep(3600)
        seen.append(asyncio.get_running_loop().time() - START)

    run(world, (Process(world, "p"), work()), until=7200)
    assert seen == [3600]


def test_timeouts_and_locks_work_between_tasks_of_one_process() -> None:
    world, seen = World(1), []

    async def work() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        try:
            async with asyncio.timeout(5):
                await lock.acquire()
        except TimeoutError:
            seen.append("timeout")

    run(world, (Process(world, "p"), work()), until=10)
    assert seen == ["timeout"]


def test_a_stopped_process_goes_on_late_and_a_dead_one_never() -> None:
    world, seen = World(1), []
    stopped, dead = Process(world, "stopped"), Process(world, "dead")

    async def work(name: str) -> None:
        await asyncio.sleep(1)
        seen.append((name, asyncio.get_running_loop().time() - START))

    world.later(0.5, stopped.pause)
    world.later(0.5, dead.kill)
    world.later(9.0, stopped.go_on)
    run(world, (stopped, work("stopped")), (dead, work("dead")), until=20)
    assert seen == [("stopped", 9.0)]


def test_an_exception_that_nobody_handles_ends_the_run() -> None:
    world = World(1)
    process = Process(world, "p")
    process.call_soon(lambda: 1 / 0)
    world.run(START + 1, lambda: False)
    assert "ZeroDivisionError" in world.failures[0]
