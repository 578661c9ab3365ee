"""Answers to pings of ours find the worker that asked, wherever it is."""

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import on_quiet_loop
from workers.gateway import barriers
from workers.gateway.asking import barrier_tag
from workers.gateway.barriers import Barriers
from workers.gateway.replay import Replay


@on_quiet_loop
async def test_an_asker_on_another_machine_hears_through_redis(gateway: GatewayScene) -> None:
    await gateway.start()
    there = Barriers(gateway.router, gateway.control, gateway.siblings)
    gateway.control.workers.append("gw2/w1.1")
    token = f"{barrier_tag('gw2/w1.1')}.7"
    asker = there.asker(token)
    assert asker == "gw2/w1.1"
    await there.tell(asker, PAIR, token)
    assert gateway.control.passed_on == [("gw2/w1.1", "barrier", PAIR, token.encode())]


@on_quiet_loop
async def test_an_answer_out_of_the_inbox_passes_the_barrier(gateway: GatewayScene) -> None:
    await gateway.start()
    hop = gateway.router.to_local(PAIR)
    hop.outbox.mark("token", 0.0)
    Replay(gateway.router, gateway.config).on_dealt("barrier", PAIR, b"token")
    assert not hop.outbox.barrier_pending


@on_quiet_loop
async def test_an_asker_that_died_is_remembered_and_the_memory_is_bounded(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    there = Barriers(gateway.router, gateway.control, gateway.siblings)
    gateway.control.workers = ["gw/w1.1", "gw/w2.1"]
    token = f"{barrier_tag('gw/w2.1')}.1"
    assert there.asker(token) == "gw/w2.1"
    gateway.control.workers = ["gw/w1.1"]
    assert there.asker(token) == "gw/w2.1"
    gateway.control.workers = [f"gw/w1.{at:x}" for at in range(barriers.MAX_WORKERS + 50)]
    assert there.asker("unknown.1") is None
    assert len(there._askers) == barriers.MAX_WORKERS
