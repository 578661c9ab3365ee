"""Steps that take turns: all are done, in order, and the loop has time between."""

import asyncio
import time

import pytest

from tests.workers.gateway.channels import SERVER_PEM, adopted_with_streams
from tests.workers.gateway.session_bench import on_quiet_loop, until
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops, python_context
from workers.gateway import turns as turns_module
from workers.gateway.certificates import parse_pair
from workers.gateway.tls import server_context
from workers.gateway.turns import Turns


@on_quiet_loop
async def test_costly_steps_leave_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "SLICE", 0.002)
    turns, done, others = Turns(), [], []

    def step(number: int) -> None:
        time.sleep(0.003)
        done.append(number)

    for number in range(10):
        turns.wait(lambda number=number: step(number))  # type: ignore[misc]
    while len(done) < 10:
        others.append(len(done))
        await asyncio.sleep(0)
    assert done == list(range(10))
    # After each step, not after all of them.
    assert set(others) == set(range(10))


@on_quiet_loop
async def test_cheap_steps_share_a_turn_and_later_ones_begin_anew() -> None:
    turns, done = Turns(), []
    for _ in range(2):
        for number in range(5):
            turns.wait(lambda number=number: done.append(number))  # type: ignore[misc]
        await until(lambda: not turns._waiting)
        await until(lambda: not turns._is_running)
    assert done == [*range(5)] * 2


@on_both_loops
async def test_a_handshake_that_waits_for_its_turn_is_completed() -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    channel.turns = Turns()
    channel.start_tls(server_context(parse_pair(*SERVER_PEM)), server=True)
    await writer.start_tls(python_context(server=False))
    await owner.wait_for("tls_established")
    writer.write(b"hello")
    assert await owner.wait_for_data(5) == b"hello"
    channel.write(b"yes")
    assert await reader.readexactly(3) == b"yes"
    writer.close()
    await owner.wait_for("eof_received")
    channel.close()
    await owner.wait_for("closed")


@on_both_loops
async def test_who_leaves_while_it_waits_is_let_go() -> None:
    owner = RecordingOwner()
    channel, (_, writer) = await adopted_with_streams(owner)
    channel.turns = Turns()
    channel.start_tls(server_context(parse_pair(*SERVER_PEM)), server=True)
    writer.write(b"\x16\x03\x01no handshake")
    writer.close()
    await owner.wait_for("closed")
    assert owner.reason is not None
