"""Who wants the same waits; who wants something else does not."""

import asyncio

from coordinator.keyed_lock import KeyedLock


async def test_one_at_a_time_for_each_key_and_nothing_stays() -> None:
    lock: KeyedLock[str] = KeyedLock()
    told: list[str] = []
    go = asyncio.Event()

    async def work(key: str, name: str, *, waits: bool = False) -> None:
        async with lock.hold(key):
            told.append(name)
            if waits:
                await go.wait()

    tasks = [asyncio.create_task(work("a", "first", waits=True))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work("a", "second")), asyncio.create_task(work("b", "other"))]
    for _ in range(3):
        await asyncio.sleep(0)
    assert told == ["first", "other"] and "a" in lock and "b" not in lock
    go.set()
    await asyncio.gather(*tasks)
    assert told == ["first", "other", "second"] and "a" not in lock
