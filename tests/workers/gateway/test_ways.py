"""One session for both directions (XEP-0288), whoever opened it."""

import asyncio
from typing import Any

import pytest

from coordinator.routes import Route
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    message,
    on_quiet_loop,
    request,
    until,
)
from workers.gateway import asking, remote_source, ways
from workers.gateway import hop as hop_module
from workers.xmpp.management import Suspended

BOTH = {"use_bidi": True, "resumption_seconds": 60}


def inbound(id: str) -> Any:
    return message(id, sender=REMOTE, target=LOCAL)


def ids(peer: Peer) -> list[str | None]:
    return [stanza.id for stanza in peer.stanzas()]


async def open_both(gateway: GatewayScene, **options: Any) -> Peer:
    """A session of the remote server on which we send back."""
    peer = await gateway.open_remote(**{**BOTH, **options})
    await until(lambda: gateway.router.has_remote(PAIR))
    return peer


async def lose(gateway: GatewayScene, peer: Peer) -> Suspended:
    peer.session.abort("lost")
    await until(lambda: peer.ended and all(s.is_lost for s in gateway.public.sources))
    suspended = peer.session.stream.suspended()
    assert suspended is not None
    return suspended


# The remote opened it.


@on_quiet_loop
async def test_what_the_local_server_sends_goes_back_on_the_session(gateway: GatewayScene) -> None:
    await gateway.start()
    remote = await open_both(gateway)
    local = await gateway.open_local()
    local.send(message("1"), message("2"))
    await until(lambda: ids(remote) == ["1", "2"])
    assert not gateway.remote.sessions
    remote.session.mark_handled(2)
    await until(lambda: local.acknowledged() == 2)
    assert gateway.ledger("outbound")["acknowledged_by"]["sm"] == 2
    remote.send(inbound("b"))
    await until(lambda: remote.acknowledged() == 1)
    (shown,) = gateway.public.describe()
    assert shown["bidirectional"]
    assert [s["direction"] for s in gateway.router.describe() if s["bidirectional"]] == ["outbound"]


@on_quiet_loop
async def test_a_remote_that_publishes_nothing_is_answered_on_the_session_it_opened(
    gateway: GatewayScene,
) -> None:
    await gateway.start(remote={"url": ""})
    assert (await gateway.discovery.find(REMOTE)).native
    remote = await open_both(gateway)
    assert not gateway.discovery.is_native(REMOTE)
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: ids(remote) == ["1"])
    remote.session.close()
    await until(lambda: gateway.discovery.is_native(REMOTE))


@on_quiet_loop
async def test_a_session_proved_by_dialback_goes_both_ways_too(gateway: GatewayScene) -> None:
    await gateway.start()
    remote = await open_both(gateway, known=False)
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: ids(remote) == ["1"])
    remote.session.mark_handled(1)
    await until(lambda: local.acknowledged() == 1)
    assert gateway.ledger("outbound")["acknowledged_by"]["websocket-ping"] == 1


@on_quiet_loop
async def test_a_pair_of_another_worker_is_left_to_it(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.control.routes[PAIR] = Route("gw/w2.1", 1)
    remote = await gateway.open_remote(**BOTH)
    remote.send(inbound("b"))
    await until(lambda: remote.acknowledged() == 1)
    assert not gateway.router.has_remote(PAIR)


@on_quiet_loop
async def test_a_pair_that_has_a_session_keeps_it(gateway: GatewayScene) -> None:
    await gateway.start()
    local = await gateway.open_local()
    remote = await gateway.open_remote(**BOTH)
    await until(lambda: gateway.control.released)
    local.send(message("1"))
    await until(lambda: gateway.remote.ids() == ["1"])
    assert not ids(remote)


@on_quiet_loop
async def test_a_peer_that_never_counts_is_sent_to_all_the_same(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_source, "ENABLE_TIMEOUT", 0.01)
    await gateway.start()
    remote = await open_both(gateway, use_management=False)
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: ids(remote) == ["1"])


@on_quiet_loop
async def test_a_resumed_session_goes_on_both_ways_exactly(gateway: GatewayScene) -> None:
    await gateway.start()
    first = await open_both(gateway)
    local = await gateway.open_local()
    local.send(message("1"), request("2"), message("3"))
    await until(lambda: ids(first) == ["1", "2", "3"])
    first.session.mark_handled(1)
    await until(lambda: local.acknowledged() == 1)
    first.session.stream.received.total = 1  # the others did not arrive
    lost = await lose(gateway, first)
    local.send(message("4"))
    second = await gateway.open_remote(resume=lost, **BOTH)
    assert second.session.stream.resumed
    await until(lambda: ids(second) == ["2", "3", "4"])
    assert not any(b"urn:xmpp:delay" in stanza.data for stanza in second.stanzas())
    second.session.mark_handled(3)
    await until(lambda: local.acknowledged() == 4)
    ledger = gateway.ledger("outbound")
    assert (ledger["replayed"], ledger["bounced"]) == (0, 0)
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_what_is_not_resumed_in_time_goes_by_a_session_of_our_own(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "RESUMPTION_PATIENCE", 0.05)
    await gateway.start()
    first = await open_both(gateway)
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: ids(first) == ["1"])
    lost = await lose(gateway, first)
    await until(lambda: gateway.remote.ids() == ["1"])
    assert b"urn:xmpp:delay" in gateway.remote.got[0].data
    await until(lambda: local.acknowledged() == 1)
    # The remote comes back after all: its half goes on, for its own stanzas.
    second = await gateway.open_remote(resume=lost, **BOTH)
    second.send(inbound("b"))
    await until(lambda: second.acknowledged() == 1)
    local.send(message("2"))
    await until(lambda: gateway.remote.ids() == ["1", "2"])
    assert not ids(second)


@on_quiet_loop
async def test_a_remote_that_never_reads_what_it_asked_for_is_left_soon(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "RESUMPTION_PATIENCE", 0.05)
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.02)
    monkeypatch.setattr(asking, "FIRST_ANSWER_TIMEOUT", 0.05)
    await gateway.start()
    remote = await open_both(gateway)
    remote.session.pause_reading()
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: gateway.remote.ids() == ["1"])
    await until(lambda: local.acknowledged() == 1)
    assert not ids(remote)


@on_quiet_loop
async def test_a_new_session_of_the_remote_takes_the_place_of_a_lost_one(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    first = await open_both(gateway)
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: ids(first) == ["1"])
    await lose(gateway, first)
    second = await gateway.open_remote(**BOTH)
    await until(lambda: ids(second) == ["1"])
    assert b"urn:xmpp:delay" in second.stanzas()[0].data
    assert len(gateway.public.sources) == 1 and not gateway.remote.sessions


@on_quiet_loop
async def test_a_session_that_ends_in_order_leaves_the_rest_to_one_of_our_own(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    remote = await open_both(gateway)
    local = await gateway.open_local()
    remote.session.close()
    await until(lambda: remote.ended)
    local.send(message("1"))
    await until(lambda: gateway.remote.ids() == ["1"])


@on_quiet_loop
async def test_an_idle_way_back_is_the_remotes_to_close(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.01)
    await gateway.start(idle_timeout=1)
    remote = await open_both(gateway)
    ((_, hop),) = gateway.router.hops()
    hop._used_at -= 1000
    await asyncio.sleep(0.05)
    assert not remote.ended


@on_quiet_loop
async def test_a_drain_closes_the_session_in_order(gateway: GatewayScene) -> None:
    await gateway.start()
    remote = await open_both(gateway)
    await gateway.router.drain(5)
    await until(lambda: remote.ended == ["closed"])


@on_quiet_loop
async def test_a_draining_worker_sends_on_no_session_that_is_opened_to_it(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    await gateway.control.acquire(PAIR)
    gateway.control.draining = True
    remote = await gateway.open_remote(**BOTH)
    remote.send(inbound("b"))
    await until(lambda: remote.acknowledged() == 1)
    assert not gateway.router.has_remote(PAIR)


# We opened it.


@on_quiet_loop
async def test_a_session_closes_behind_what_came_with_its_last_acknowledgement(
    gateway: GatewayScene,
) -> None:
    gateway.remote.stream_options = {"use_bidi": True}
    gateway.remote.handles = False
    await gateway.start()
    local = await gateway.open_local()
    local.send(message("1"))
    await until(lambda: gateway.remote.got)
    draining = asyncio.create_task(gateway.router.drain(5))
    await asyncio.sleep(0.02)
    (session,) = gateway.remote.sessions
    session.stream.mark_handled(1)
    session.stream.send_ack()
    session.stream.send_stanzas([inbound("b1")])
    session.write()  # both in one read
    await until(lambda: session.ended)
    await draining
    assert gateway.local.ids() == ["b1"]
    assert session.stream.sent.acknowledged == 1


@on_quiet_loop
async def test_what_comes_back_reaches_the_local_server_and_is_acknowledged(
    gateway: GatewayScene,
) -> None:
    gateway.remote.stream_options = {"use_bidi": True}
    await gateway.start()
    local = await gateway.open_local()
    (session,) = gateway.remote.sessions
    session.stream.send_stanzas([inbound("b1"), inbound("b2")])
    session.write()
    await until(lambda: gateway.local.ids() == ["b1", "b2"])
    await until(lambda: session.stream.sent.acknowledged == 2)
    local.send(message("1"))
    await until(lambda: local.acknowledged() == 1)
    assert gateway.ledger("inbound")["acknowledged"] == 2


@on_quiet_loop
async def test_nothing_else_comes_back(gateway: GatewayScene) -> None:
    gateway.remote.stream_options = {"use_bidi": True}
    await gateway.start()
    await gateway.open_local()
    (session,) = gateway.remote.sessions
    session.stream.outgoing.append(message("x", sender="thief.example", target=LOCAL).data)
    session.write()
    await until(lambda: session.ended)
    assert not gateway.local.got


@on_quiet_loop
async def test_a_drain_waits_until_what_came_back_is_handled(gateway: GatewayScene) -> None:
    gateway.remote.stream_options = {"use_bidi": True}
    gateway.local.handles = False
    await gateway.start()
    await gateway.open_local()
    (session,) = gateway.remote.sessions
    session.stream.send_stanzas([inbound("b1")])
    session.write()
    await until(lambda: gateway.local.ids() == ["b1"])
    draining = asyncio.create_task(gateway.router.drain(5))
    await asyncio.sleep(0.05)
    assert not session.ended
    gateway.local.sessions[0].mark_handled(1)
    await until(lambda: session.ended)
    await draining
    assert session.stream.sent.acknowledged == 1


@on_quiet_loop
async def test_what_came_on_a_lost_session_is_handled_all_the_same(gateway: GatewayScene) -> None:
    gateway.remote.stream_options = {"use_bidi": True}
    gateway.local.handles = False
    await gateway.start()
    await gateway.open_local()
    (session,) = gateway.remote.sessions
    session.stream.send_stanzas([inbound("b1")])
    session.write()
    await until(lambda: gateway.local.ids() == ["b1"])
    session.abort("lost")
    await until(lambda: session.ended)
    gateway.local.sessions[0].mark_handled(1)
    await until(lambda: gateway.ledger("inbound")["acknowledged"] == 1)
