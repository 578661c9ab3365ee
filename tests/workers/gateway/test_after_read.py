"""What is put off until a read is taken: all of it, in order, whatever a step does."""

import asyncio
from typing import Any

from tests.workers.gateway.channels import adopted
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway.after_read import after_read, begin_read, end_read


@on_both_loops
async def test_steps_are_done_at_the_end_of_the_read_in_their_order() -> None:
    loop = asyncio.get_running_loop()
    done: list[int] = []
    begin_read()
    for number in range(3):
        after_read(loop, lambda number=number: done.append(number))  # type: ignore[misc]
    assert not done
    end_read(loop)
    assert done == [0, 1, 2]
    begin_read()
    end_read(loop)
    assert done == [0, 1, 2]


@on_both_loops
async def test_a_step_may_bring_another_one_which_is_done_behind_all_others() -> None:
    loop = asyncio.get_running_loop()
    done: list[str] = []

    def bring() -> None:
        done.append("first")
        after_read(loop, lambda: done.append("brought"))

    begin_read()
    after_read(loop, bring)
    after_read(loop, lambda: done.append("second"))
    end_read(loop)
    assert done == ["first", "second", "brought"]


@on_both_loops
async def test_a_step_that_fails_stops_neither_the_others_nor_the_reads_to_come() -> None:
    loop = asyncio.get_running_loop()
    done: list[str] = []
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))

    def fail() -> None:
        raise ValueError("a step")

    begin_read()
    for step in (lambda: done.append("before"), fail, fail, lambda: done.append("after")):
        after_read(loop, step)
    end_read(loop)
    assert done == ["before", "after"]
    assert [str(problem["exception"]) for problem in problems] == ["a step"] * 2
    assert all("after a read" in problem["message"] for problem in problems)
    begin_read()
    after_read(loop, lambda: done.append("next read"))
    end_read(loop)
    assert done == ["before", "after", "next read"] and len(problems) == 2


@on_both_loops
async def test_while_nothing_is_read_a_step_is_done_in_the_next_turn_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    done: list[str] = []
    begin_read()
    end_read(loop)
    after_read(loop, lambda: done.append("step"))
    assert not done
    await asyncio.sleep(0)
    assert done == ["step"]


@on_both_loops
async def test_an_owner_that_fails_in_a_read_leaves_no_step_behind() -> None:
    """The steps are of other connections as well."""
    loop = asyncio.get_running_loop()
    done: list[str] = []
    loop.set_exception_handler(lambda *_: None)
    owner = RecordingOwner()
    channel, peer = await adopted(owner)

    def fail(data: bytes) -> None:
        after_read(loop, lambda: done.append("step"))
        raise ValueError("an owner")

    owner.data_received = fail  # type: ignore[method-assign]
    peer.send(b"data")
    await owner.wait_for("closed")
    assert done == ["step"]
    after_read(loop, lambda: done.append("later"))
    assert done == ["step"]
    await asyncio.sleep(0)
    assert done == ["step", "later"]
    channel.abort()
    peer.close()
