"""A bell wakes all that wait, and nobody else later."""

import asyncio

import pytest

from workers.gateway.bell import Bell


async def test_everybody_who_waits_is_woken_once() -> None:
    bell = Bell()
    waits = [asyncio.create_task(bell.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    bell.ring()
    await asyncio.gather(*waits)
    late = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not late.done()
    bell.ring()
    await late


async def test_one_who_gives_up_takes_nobody_with_him() -> None:
    bell = Bell()
    bell.ring()
    other = asyncio.create_task(bell.wait())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bell.wait(), 0.001)
    bell.ring()
    await other
