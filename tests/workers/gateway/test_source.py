"""What both kinds of source share: closing in order, pace, tasks that fail."""

import asyncio

import pytest

from tests.workers.gateway.gateway_bench import GatewayScene
from tests.workers.gateway.session_bench import message, on_quiet_loop, until
from workers.gateway import source as source_module
from workers.gateway.session import Session
from workers.xmpp.events import Event


@on_quiet_loop
async def test_closing_waits_for_what_is_in_flight_but_not_for_ever(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "SETTLE_TIMEOUT", 0.05)
    await gateway.start()
    gateway.remote.handles = False
    peer = await gateway.open_local()
    peer.send(message("1"))
    await until(lambda: gateway.remote.got)
    (source,) = gateway.listener.sources
    source.close()
    assert source.session.is_paused
    assert not source.session.stream.state.name.startswith("CLOS")
    await until(lambda: peer.ended)
    assert peer.acknowledged() == 0  # so the local server sends it again
    assert gateway.ledger("outbound")["in_flight"] == 1
    gateway.remote.sessions[0].mark_handled(1)
    await until(lambda: gateway.ledger("outbound")["acknowledged"] == 1)


@on_quiet_loop
async def test_closing_with_nothing_in_flight_closes_at_once(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    (source,) = gateway.listener.sources
    source.close()
    assert source.session.stream.state.name == "CLOSING"
    await until(lambda: peer.ended)


@on_quiet_loop
async def test_a_peer_that_cannot_resend_is_read_to_its_end(gateway: GatewayScene) -> None:
    """Without XEP-0198 what is not read is lost, however full the next hop is."""
    await gateway.start()
    gateway.remote.handles = False
    peer = await gateway.open_remote(known=False)
    (source,) = gateway.public.sources
    source.pause()
    assert source.session.is_paused
    source.close()
    source.pause()
    assert not source.session.is_paused
    await until(lambda: peer.ended)


@on_quiet_loop
async def test_a_paused_source_reads_nothing_until_it_is_resumed(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    (source,) = gateway.listener.sources
    source.pause()
    peer.send(message("1"))
    await asyncio.sleep(0.02)
    assert source.origin.in_flight == 0 and not gateway.remote.got
    source.resume()
    await until(lambda: gateway.remote.got)


@on_quiet_loop
async def test_a_task_that_fails_ends_its_stream_alone(gateway: GatewayScene) -> None:
    await gateway.start()
    peer, other = await gateway.open_local(), await gateway.open_remote()
    (source,) = gateway.listener.sources

    async def broken() -> None:
        raise KeyError("a bug")

    source._spawn(broken())
    await until(lambda: peer.ended)
    assert not other.ended and not gateway.listener.sources


@on_quiet_loop
async def test_what_came_in_the_read_that_closes_is_taken_and_acknowledged_first(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    (source,) = gateway.listener.sources
    take = source.on_event

    def close_first(session: Session, event: Event) -> None:
        source.close()  # as a hop does that shares the session, for an `<a/>` before the stanza
        take(session, event)

    monkeypatch.setattr(source, "on_event", close_first)
    peer.send(message("1"))
    await until(lambda: peer.ended)
    assert gateway.remote.ids() == ["1"] and peer.acknowledged() == 1
