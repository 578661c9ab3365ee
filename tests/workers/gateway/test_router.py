"""Hops are made when needed and forgotten; what they cannot deliver goes back to its sender."""

import pytest

from coordinator.accounts import ACKNOWLEDGED, IN_FLIGHT_OURS
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway.replies import Failed
from workers.xmpp.errors import StanzaCondition


@on_quiet_loop
async def test_a_pair_has_one_hop_each_way(gateway: GatewayScene) -> None:
    await gateway.start()
    router = gateway.router
    assert router.to_remote(PAIR) is router.to_remote(PAIR)
    assert router.to_local(PAIR) is router.to_local(PAIR)
    assert [direction for direction, _ in router.hops()] == ["outbound", "local"]
    await router.to_remote(PAIR).wait_open()
    await router.to_local(PAIR).wait_open()
    shown = {each["direction"]: each for each in router.describe()}
    assert shown["outbound"]["authenticated_by"] == shown["local"]["authenticated_by"] == "external"


@on_quiet_loop
async def test_a_hop_that_ended_is_forgotten_and_its_failure_told(gateway: GatewayScene) -> None:
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    await gateway.start()
    told: list[str] = []
    gateway.router.on_outbound_failed = lambda pair, reason: told.append(reason)
    gateway.router.to_remote(PAIR)
    await until(lambda: not gateway.router.has_remote(PAIR))
    assert "dialback answered invalid" in told[0]


@on_quiet_loop
async def test_draining_delivers_bounces_too(gateway: GatewayScene) -> None:
    """The bounces of what cannot be delivered make a hop while others close."""
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    await gateway.start()
    origin = gateway.router.new_origin("out", lambda count: None)
    gateway.router.to_remote(PAIR).send(origin.accept([message("1")]))
    await gateway.router.drain(5.0)
    assert [(s.id, s.type) for s in gateway.local.got] == [("1", "error")]
    assert not list(gateway.router.hops())


@on_quiet_loop
async def test_what_a_drain_cannot_deliver_stays_in_flight(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.remote.handles = False
    origin = gateway.router.new_origin("out", lambda count: None)
    gateway.router.to_remote(PAIR).send(origin.accept([message("1")]))
    await until(lambda: gateway.remote.got)
    await gateway.router.drain(0.05)
    await until(lambda: not list(gateway.router.hops()))
    assert gateway.ledger("outbound")["in_flight"] == 1


@on_quiet_loop
async def test_errors_are_dropped_and_counted_not_answered(gateway: GatewayScene) -> None:
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    await gateway.start()
    error = message("1")
    error.type = "error"
    origin = gateway.router.new_origin("out", lambda count: None)
    gateway.router.to_remote(PAIR).send(origin.accept([error]))
    await until(lambda: gateway.ledger("outbound")["dropped"] == {"type-error": 1})
    assert [direction for direction, _ in gateway.router.hops()] == []


@on_quiet_loop
async def test_a_dropped_stanza_does_not_vouch_for_one_whose_bounce_is_under_way(
    gateway: GatewayScene,
) -> None:
    """Else the previous hop forgets the first, and nobody has it if we die before its reply."""
    await gateway.start()
    gateway.local.handles = False
    handled: list[int] = []
    origin = gateway.router.new_origin("out", handled.append)
    error = message("2")
    error.type = "error"
    batch = origin.accept([message("1"), error])
    failed = [Failed(stanza, batch) for stanza in batch.stanzas]
    condition = StanzaCondition.REMOTE_SERVER_TIMEOUT
    gateway.router.bounce(failed, condition, "", lambda: gateway.router.to_local(PAIR))
    await until(lambda: gateway.local.got)
    assert gateway.ledger("outbound")["dropped"] == {"type-error": 1}
    assert handled == []


@on_quiet_loop
async def test_recounting_forgets_origins_that_are_done_and_mends_the_ledger(
    gateway: GatewayScene, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.start()
    router = gateway.router
    done, live = (router.new_origin("in", lambda count: None) for _ in "ab")
    batches = [origin.accept([message("1")]) for origin in (done, live)]
    assert router.origins == {done, live}
    done.lose()
    done.settle(batches[0], 1, ACKNOWLEDGED)
    router.each_second()
    assert router.origins == {live}
    assert not caplog.records
    gateway.account.inbound[IN_FLIGHT_OURS] += 5
    router.recount()
    assert gateway.account.inbound[IN_FLIGHT_OURS] == 1
    assert "in flight 6+0" in caplog.text
    live.settle(batches[1], 1, ACKNOWLEDGED)
    router.each_second()
    assert not router.origins


@on_quiet_loop
async def test_only_the_hop_that_asked_knows_its_barrier(gateway: GatewayScene) -> None:
    gateway.local.external = False
    await gateway.start()
    assert not gateway.router.barrier_answered(DomainPair(LOCAL, REMOTE), "token")
    gateway.router.to_local(PAIR)
    assert not gateway.router.barrier_answered(PAIR, "token")
