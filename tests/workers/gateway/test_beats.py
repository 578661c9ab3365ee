"""Turns that many take by few timers."""

import asyncio
from typing import Any

from tests.workers.gateway.session_bench import until
from workers.gateway import beats
from workers.gateway.beats import PARTS, Beat, join


class Counting:
    def __init__(self) -> None:
        self.turns = 0

    def keep_alive(self) -> None:
        self.turns += 1


class Ending(Counting):
    """Its turn ends another one."""

    def __init__(self) -> None:
        super().__init__()
        self.beat: Beat
        self.other: Counting

    def keep_alive(self) -> None:
        super().keep_alive()
        self.beat.leave(self.other)


class Failing(Counting):
    def keep_alive(self) -> None:
        super().keep_alive()
        raise OSError("on purpose")


async def until_turns(member: Counting, count: int) -> None:
    await until(lambda: member.turns >= count)


async def test_each_has_its_turn_in_each_interval_until_it_leaves() -> None:
    one, other, slow = Counting(), Counting(), Counting()
    first, _, third = join(one, 0.02), join(other, 0.02), join(slow, 1000.0)
    began = asyncio.get_running_loop().time()
    await until_turns(one, 3)
    assert asyncio.get_running_loop().time() - began >= 0.05
    first.leave(one)
    first.leave(one)
    await until_turns(other, 6)
    assert (one.turns, slow.turns) == (3, 0)
    third.leave(slow)


async def test_those_that_begin_together_share_a_timer() -> None:
    members = [Counting() for _ in range(1000)]
    joined = {join(member, 1000.0) for member in members}
    assert len(joined) < 5  # a part takes four seconds
    assert join(Counting(), 1000.0 * PARTS) not in joined


async def test_who_is_ended_by_anothers_turn_has_none() -> None:
    one, other = Ending(), Ending()
    one.beat, one.other = join(one, 1.0), other
    one.beat._members.add(other)
    other.beat, other.other = one.beat, one
    one.beat._strike()
    assert one.turns + other.turns == 1


async def test_a_turn_that_fails_costs_the_others_nothing() -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
    failing, others = Failing(), [Counting() for _ in range(9)]
    beat = join(failing, 1.0)
    beat._members |= set(others)
    beat._strike()
    assert [each.turns for each in (failing, *others)] == 10 * [1]
    assert [str(failure["exception"]) for failure in failures] == ["on purpose"]


async def test_nothing_is_left_when_all_have_left() -> None:
    loop = asyncio.get_running_loop()
    member, later = Counting(), Counting()
    join(member, 0.01).leave(member)
    await until(lambda: not beats._beats[loop])
    join(later, 0.01)
    await until_turns(later, 2)
