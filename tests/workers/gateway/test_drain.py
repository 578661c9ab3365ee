"""A drain: streams end in order and spread in time, pairs are given back as they go."""

import asyncio

import pytest

from coordinator.accounts import ACCEPTED
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import message, on_quiet_loop, until
from workers.gateway.drain import drain, spread


def test_a_few_leave_soon_many_in_half_the_time_and_all_at_once_without_heirs():
    assert spread(3, 30.0, has_heirs=True) == pytest.approx(0.03)
    assert spread(100_000, 30.0, has_heirs=True) == 15.0
    assert spread(100_000, 30.0, has_heirs=False) == 0.0


async def drain_of(gateway: GatewayScene, timeout: float = 10.0) -> None:
    announced = []

    async def announce() -> None:
        announced.append(gateway.control.draining)

    gateway.control.announce = announce  # type: ignore[method-assign]
    await drain(gateway.control, gateway.listener, gateway.public, gateway.router, timeout=timeout)
    assert announced == [True]


@on_quiet_loop
async def test_streams_end_in_order_and_their_pairs_are_given_back(gateway: GatewayScene) -> None:
    await gateway.start()
    local, remote = await gateway.open_local(), await gateway.open_remote()
    local.send(message("1"))
    # What is not read yet comes again, and not to us.
    await until(lambda: gateway.router.account.outbound[ACCEPTED] == 1)
    gateway.control.workers.append("gw/w2.1")
    await drain_of(gateway)
    assert local.ended == ["closed"] and remote.ended
    assert [stanza.id for stanza in gateway.remote.got] == ["1"]
    assert gateway.control.released == [PAIR]
    assert not gateway.router.has_remote(PAIR)


@on_quiet_loop
async def test_a_pair_without_a_stream_is_given_back_too(gateway: GatewayScene) -> None:
    await gateway.start()
    local = await gateway.open_local()
    local.session.close()
    await until(lambda: not gateway.listener.sources)
    assert gateway.router.has_remote(PAIR) and gateway.control.released == []
    await drain_of(gateway)
    assert gateway.control.released == [PAIR]


@on_quiet_loop
async def test_a_stream_that_never_ends_is_cut_at_the_end(gateway: GatewayScene) -> None:
    await gateway.start()
    local = await gateway.open_local()
    local.session.pause_reading()  # it does not answer the end of the stream
    async with asyncio.timeout(8.0):
        await drain_of(gateway, timeout=2.0)
    assert not gateway.router.has_remote(DomainPair(*PAIR))
