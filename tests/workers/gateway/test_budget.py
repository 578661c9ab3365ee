"""Who has to make room when descriptors, memory or queues run short."""

import asyncio
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.accounts import Account
from coordinator.config import Config, Gateway, Limits
from coordinator.routes import DomainPair
from tests.workers.gateway.session_bench import message, on_quiet_loop, until
from workers.gateway.admission import Admission
from workers.gateway.batch import Batch
from workers.gateway.budget import LEAST_QUEUE, Budget, rss_bytes
from workers.gateway.refusals import Refusals
from workers.gateway.router import Router

MIB = 1048576


class Stranger:
    """Remembers why it was cut."""

    reason = ""

    def turn_away(self, reason: str) -> None:
        self.reason = reason


class Scene:
    """A budget with as much memory in use as the test says."""

    def __init__(self, account: Account, **limits: Any) -> None:
        self.config = Config(gateway=Gateway(max_worker_rss=100 * MIB), limits=Limits(**limits))
        loop = asyncio.get_running_loop()
        self.refusals = Refusals(loop.time)
        self.admission = Admission(lambda: self.config.limits, self.refusals, loop.time)

        async def connect(*_args: object, **_options: object) -> Any:
            await asyncio.Event().wait()

        nowhere = cast(Any, SimpleNamespace(connect=connect))
        self.router = Router(self.config, account, nowhere, nowhere)
        self.rss = 10 * MIB
        self.budget = Budget(self.config, self.admission, self.router, measure=lambda: self.rss)
        self.budget.each_second()

    def strangers(self, count: int) -> list[Stranger]:
        guests = []
        for number in range(count):
            entry = self.admission.enter(f"192.0.2.{number}")
            assert entry is not None
            guests.append(Stranger())
            entry.expect(guests[-1])
        return guests


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    account = Account.create(tmp_path / "w1.account")
    yield account
    account.close()


@on_quiet_loop
async def test_with_memory_short_strangers_stay_out_and_then_make_room(account: Account) -> None:
    scene = Scene(account)
    guests = scene.strangers(8)
    scene.rss = 86 * MIB
    scene.budget.each_second()
    assert scene.admission.enter("192.0.2.99") is None
    assert not any(guest.reason for guest in guests)
    scene.rss = 91 * MIB
    scene.budget.each_second()
    assert [bool(guest.reason) for guest in guests] == [False] * 3 + [True] * 5
    for _ in range(3):
        scene.budget.each_second()
    assert not scene.admission.strangers
    scene.rss = 82 * MIB
    scene.budget.each_second()
    assert scene.admission.enter("192.0.2.99") is None
    assert scene.budget.short_for == 6
    scene.rss = 79 * MIB
    scene.budget.each_second()
    assert scene.budget.short_for == 0
    assert scene.admission.enter("192.0.2.99") is not None


@on_quiet_loop
async def test_without_a_bound_memory_is_never_short(account: Account) -> None:
    scene = Scene(account)
    scene.config.become(replace(scene.config, gateway=Gateway(max_worker_rss=0)))
    scene.rss = 10**12
    scene.budget.each_second()
    assert len(scene.strangers(3)) == 3
    assert rss_bytes() > MIB


@on_quiet_loop
async def test_near_the_end_of_descriptors_the_newest_strangers_are_cut(account: Account) -> None:
    scene = Scene(account)
    guests = scene.strangers(20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    opened = [os.dup(0) for _ in range(80)]
    try:
        most = int((lowest + 81) / 0.96)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        scene.budget.each_second()
        assert scene.admission.last_descriptor == int(most * 0.9) - 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (lowest, *opened):
            os.close(descriptor)
    cut = [bool(guest.reason) for guest in guests]
    assert cut == sorted(cut) and 5 <= sum(cut) < 20
    assert scene.refusals.counts == {"descriptors": sum(cut)}


@on_quiet_loop
async def test_queues_that_hold_too_much_together_may_hold_less_each(account: Account) -> None:
    scene = Scene(account, queue_bytes=4 * LEAST_QUEUE, queues_bytes=6 * LEAST_QUEUE)
    limit = scene.router.queue_limit
    hops = [scene.router.to_remote(DomainPair("a.example", f"b{n}.example")) for n in range(3)]
    await asyncio.sleep(0)  # they begin to connect
    for hop in hops:
        hop.outbox.push(Batch([message("1", body="x" * (3 * LEAST_QUEUE))], 1))
    seen = []
    for _ in range(3):
        scene.budget.each_second()
        seen.append(limit.bytes)
    assert seen == [2 * LEAST_QUEUE, LEAST_QUEUE, LEAST_QUEUE]
    for hop in hops:
        hop.outbox.fail_all()
        hop.cut()
    await until(lambda: not list(scene.router.hops()))
    for _ in range(3):
        scene.budget.each_second()
    assert limit.bytes == 4 * LEAST_QUEUE
