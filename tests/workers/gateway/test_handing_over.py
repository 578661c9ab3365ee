"""A pair that a slow remote keeps here goes to the worker that waits for it, with what it held."""

import msgspec
import pytest

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import message, on_quiet_loop, request, until
from workers.gateway import handing_over
from workers.gateway.replies import Failed
from workers.xmpp.errors import StanzaCondition

HEIR = "gw/w2.1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "PATIENCE", 0.2)


async def drain_while_the_remote_stands_still(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.remote.handles = False
    peer = await gateway.open_local(manages=False)
    peer.session.stream.send_stanzas([message("1"), request("2")])
    peer.session.write()
    await until(lambda: len(gateway.remote.got) == 2)
    gateway.control.draining = True
    for _ in range(2):  # two streams wait
        gateway.listener._on_message({"wanted": list(PAIR), "by": HEIR})
    await until(lambda: peer.ended)


@on_quiet_loop
async def test_what_it_held_is_in_the_inbox_of_its_next_owner(gateway: GatewayScene) -> None:
    await drain_while_the_remote_stands_still(gateway)
    assert gateway.control.released == []
    await until(lambda: gateway.control.released and gateway.ledger("outbound")["returned"] == 2)
    ((worker, kind, pair, data),) = gateway.control.passed_on
    assert (worker, kind, pair) == (HEIR, "out", PAIR)
    held = msgspec.msgpack.decode(data)
    assert [b"<message" in held[0], b"<iq" in held[1]] == [True, True] and len(held) == 2
    assert gateway.ledger("outbound")["in_flight"] == 0
    gateway.check_ledger()


@on_quiet_loop
async def test_what_redis_does_not_take_stays_in_flight(gateway: GatewayScene) -> None:
    await drain_while_the_remote_stands_still(gateway)
    gateway.control.is_away = True
    await until(lambda: gateway.control.passed_on and gateway.control.released)
    assert gateway.ledger("outbound")["returned"] == 0
    assert gateway.ledger("outbound")["in_flight"] == 2


@on_quiet_loop
async def test_a_pair_that_still_has_a_stream_stays(gateway: GatewayScene) -> None:
    await gateway.start()
    await gateway.open_local()
    await handing_over.hand_over_late(gateway.listener, gateway.router, gateway.control, PAIR, HEIR)
    assert gateway.router.has_remote(PAIR) and not gateway.control.passed_on


@on_quiet_loop
async def test_the_senders_of_what_error_replies_answer_count_as_told(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    gateway.control.routes[PAIR] = await gateway.control.acquire(PAIR)
    gateway.remote.handles = False
    origin = gateway.router.new_origin("in", lambda count: None)
    batch = origin.accept([request("1", sender=PAIR.remote, target=PAIR.local)])
    failed = [Failed(stanza, batch) for stanza in batch.stanzas]
    gateway.router.bounce(
        failed,
        StanzaCondition.POLICY_VIOLATION,
        "",
        lambda: gateway.router.to_remote(PAIR),
    )
    await handing_over.hand_over_late(gateway.listener, gateway.router, gateway.control, PAIR, HEIR)
    assert len(gateway.control.passed_on) == 1
    assert gateway.ledger("inbound")["bounced"] == 1
