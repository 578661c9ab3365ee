"""What a dead worker's journal held goes on, marked; requests do not."""

import msgspec
import pytest

from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    message,
    on_quiet_loop,
    request,
    until,
)
from workers.gateway.replay import Replay
from workers.xmpp.stanza import Stanza


def record(*stanzas: Stanza) -> bytes:
    return msgspec.msgpack.encode([stanza.data for stanza in stanzas])


@on_quiet_loop
async def test_messages_go_on_in_their_order_and_marked_late(gateway: GatewayScene) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("out", PAIR, record(message("1"), message("2")))
    replay.on_dealt("out", PAIR, record(message("3")))
    await until(lambda: len(gateway.remote.got) == 3)
    assert [stanza.id for stanza in gateway.remote.got] == ["1", "2", "3"]
    assert all(b"urn:xmpp:delay" in stanza.data for stanza in gateway.remote.got)
    await until(lambda: gateway.ledger("outbound")["acknowledged"] == 3)
    assert gateway.ledger("outbound")["accepted"] == gateway.ledger("outbound")["replayed"] == 3
    gateway.router.each_second()
    assert not gateway.router.origins


@on_quiet_loop
async def test_a_request_is_returned_as_it_may_have_been_executed(gateway: GatewayScene) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("out", PAIR, record(request("1"), message("2")))
    await until(lambda: gateway.remote.got and gateway.local.got)
    assert [stanza.id for stanza in gateway.remote.got] == ["2"]
    assert [(s.id, s.type) for s in gateway.local.got] == [("1", "error")]
    assert b"remote-server-timeout" in gateway.local.got[0].data
    await until(lambda: gateway.ledger("outbound")["bounced"] == 1)


@on_quiet_loop
async def test_inbound_stanzas_go_on_to_the_local_server(gateway: GatewayScene) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("in", PAIR, record(message("1", sender=REMOTE, target=LOCAL)))
    await until(lambda: gateway.local.got)
    assert gateway.ledger("inbound")["replayed"] == 1


@on_quiet_loop
async def test_a_request_that_a_dead_worker_may_have_sent_is_not_sent_again(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("note", PAIR, msgspec.msgpack.encode([[request("1").sender, "1"]]))
    peer = await gateway.open_local()
    peer.send(request("0"), request("1"), message("2"))
    await until(lambda: len(gateway.remote.got) == 2 and gateway.local.got)
    assert [stanza.id for stanza in gateway.remote.got] == ["0", "2"]
    assert [(s.id, s.type) for s in gateway.local.got] == [("1", "error")]
    await until(lambda: peer.acknowledged() == 3)


@on_quiet_loop
async def test_what_is_not_ours_is_left_out(
    gateway: GatewayScene, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("out", PAIR, b"\xc1")
    replay.on_dealt("note", PAIR, msgspec.msgpack.encode([["x", 1]]))
    replay.on_dealt("out", PAIR, msgspec.msgpack.encode([b"<message", message("1").data]))
    replay.on_dealt("out", DomainPair(LOCAL, "other.example"), record(message("1")))
    await until(lambda: gateway.remote.got)
    assert gateway.ledger("outbound")["accepted"] == 1
    assert caplog.text.count("damaged") == 2 and caplog.text.count("is not ours") == 2


@on_quiet_loop
async def test_what_was_accepted_under_other_limits_is_not_refused_now(
    gateway: GatewayScene,
) -> None:
    await gateway.start(stanza_bytes=10_000)
    replay = Replay(gateway.router, gateway.config)
    large = message("1")
    large.data = large.data.replace(b"<body>", b"<body>" + b"x" * 20_000)
    assert len(large.data) > 20_000
    replay.on_dealt("out", PAIR, record(large))
    await until(lambda: gateway.ledger("outbound")["accepted"] == 1)


@on_quiet_loop
async def test_nothing_goes_on_for_a_domain_that_is_not_ours(gateway: GatewayScene) -> None:
    await gateway.start()
    replay = Replay(gateway.router, gateway.config)
    replay.on_dealt("in", DomainPair("foreign.example", REMOTE), record(message("1")))
    assert not list(gateway.router.hops())
