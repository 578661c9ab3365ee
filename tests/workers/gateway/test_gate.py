"""Nobody gets more than a share, and who waits for its own queue holds up nobody else."""

import asyncio

from workers.gateway.gate import Gate


class Visitor:
    def __init__(self, gate: Gate, *limits: tuple[str, int]) -> None:
        self.is_in = False
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate, limits))

    async def _visit(self, gate: Gate, limits: tuple[tuple[str, int], ...]) -> None:
        async with gate.enter(*limits):
            self.is_in = True
            await self.may_leave.wait()

    async def leave(self) -> None:
        self.may_leave.set()
        await self.task


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_key_has_its_own_limit_within_the_total() -> None:
    gate = Gate(3)
    mine = [Visitor(gate, ("mine", 2)) for _ in range(3)]
    others = [Visitor(gate, (f"other {n}", 2)) for n in range(2)]
    await _settle()
    assert [each.is_in for each in mine] == [True, True, False]
    assert [each.is_in for each in others] == [True, False]
    await mine[0].leave()
    await _settle()
    assert others[1].is_in
    assert not mine[2].is_in
    await others[0].leave()
    await _settle()
    assert mine[2].is_in
    for each in (mine[1], mine[2], others[1]):
        await each.leave()
    assert not gate._keyed


async def test_who_waits_for_its_first_limit_holds_none_of_the_others() -> None:
    gate = Gate(10)
    greedy = [Visitor(gate, ("greedy", 1), (domain, 1)) for domain in ("slow", "victim")]
    await _settle()
    honest = Visitor(gate, ("honest", 1), ("victim", 1))
    await _settle()
    assert [each.is_in for each in greedy] == [True, False]
    assert honest.is_in
    greedy[1].task.cancel()
    await greedy[0].leave()
    await honest.leave()
    await asyncio.gather(greedy[1].task, return_exceptions=True)
    assert not gate._keyed
