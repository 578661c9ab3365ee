"""Lost sessions that remote servers opened: resumed at the same worker, or not at all."""

import asyncio
from typing import Any

import pytest

from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.resumption_scene import RESUMABLE, FakeSource, inbound
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, until
from workers.gateway import resumption
from workers.gateway.failure import HopFailed
from workers.gateway.resumption import Found, Resumptions
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import StreamFailed
from workers.xmpp.management import Suspended


async def lose(gateway: GatewayScene, peer: Peer) -> Suspended:
    """The connection of a peer is gone, on both sides."""
    peer.session.abort("lost")
    await until(lambda: peer.ended and gateway.public.describe()[0]["state"] == "suspended")
    suspended = peer.session.stream.suspended()
    assert suspended is not None
    return suspended


async def open_and_lose(gateway: GatewayScene) -> Suspended:
    await gateway.start()
    peer = await gateway.open_remote(**RESUMABLE)
    peer.send(inbound("1"))
    await until(lambda: peer.acknowledged() == 1)
    return await lose(gateway, peer)


@on_quiet_loop
async def test_a_lost_session_goes_on_where_it_was(gateway: GatewayScene) -> None:
    lost = await open_and_lose(gateway)
    (source,) = gateway.public.sources
    peer = await gateway.open_remote(resume=lost, **RESUMABLE)
    assert peer.session.stream.resumed
    peer.send(inbound("2"))
    await until(lambda: peer.acknowledged() == 2)
    assert gateway.local.ids() == ["1", "2"]
    assert gateway.public.sources == {source}
    assert gateway.public.describe()[0]["state"] == "established"
    assert len(gateway.local.sessions) == 1


@on_quiet_loop
async def test_it_may_be_lost_and_resumed_again(gateway: GatewayScene) -> None:
    lost = await open_and_lose(gateway)
    for number in range(2, 5):
        peer = await gateway.open_remote(resume=lost, **RESUMABLE)
        peer.send(inbound(str(number)))
        await until(lambda: peer.acknowledged() == number)  # noqa: B023
        lost = await lose(gateway, peer)
    assert gateway.local.ids() == ["1", "2", "3", "4"]


@on_quiet_loop
async def test_nobody_resumes_a_session_twice(gateway: GatewayScene) -> None:
    lost = await open_and_lose(gateway)
    peers = await asyncio.gather(*(gateway.open_remote(resume=lost, **RESUMABLE) for _ in range(2)))
    # The second takes it from the first, or finds nothing while the first is at it.
    assert any(peer.session.stream.resumed for peer in peers)
    alive = [peer for peer in peers if not peer.session.ended]
    assert alive


@on_quiet_loop
async def test_a_session_that_we_believe_alive_gives_way(gateway: GatewayScene) -> None:
    await gateway.start()
    first = await gateway.open_remote(**RESUMABLE)
    first.send(inbound("1"))
    await until(lambda: first.acknowledged() == 1)
    half = first.session.stream.suspended()
    second = await gateway.open_remote(resume=half, **RESUMABLE)
    assert second.session.stream.resumed
    await until(lambda: first.ended)
    (failed,) = [event for event in first.events if isinstance(event, StreamFailed)]
    assert failed.condition is StreamCondition.CONFLICT
    second.send(inbound("2"))
    await until(lambda: second.acknowledged() == 2)
    assert gateway.local.ids() == ["1", "2"] and len(gateway.public.sources) == 1


@on_quiet_loop
async def test_what_it_had_received_is_handled_before_it_goes_on(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.local.handles = False
    peer = await gateway.open_remote(**RESUMABLE)
    peer.send(inbound("1"))
    await until(lambda: gateway.local.got)
    lost = await lose(gateway, peer)
    resuming = asyncio.create_task(gateway.open_remote(resume=lost, **RESUMABLE))
    await until(lambda: len(gateway.public.sources) == 2)
    gateway.local.sessions[0].mark_handled(1)
    again = await resuming
    assert again.session.stream.resumed and again.session.stream.covered == 1


@on_quiet_loop
async def test_what_pends_for_too_long_is_told_and_refused(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumption, "SETTLE_TIMEOUT", 0.05)
    await gateway.start()
    peer = await gateway.open_remote(**RESUMABLE)
    peer.send(inbound("1"))
    await until(lambda: peer.acknowledged() == 1)
    gateway.local.handles = False
    peer.send(inbound("2"))
    await until(lambda: len(gateway.local.got) == 2)
    lost = await lose(gateway, peer)
    lost.sent.acknowledged = 0  # as if the acknowledgement of the first had been lost, too
    again = await gateway.open_remote(resume=lost, **RESUMABLE)
    stream = again.session.stream
    assert not stream.resumed and stream.covered == 1 and stream.sent.enabled
    gateway.local.sessions[0].mark_handled(1)
    await until(lambda: not gateway.ledger("inbound")["in_flight"])


@on_quiet_loop
async def test_another_pair_finds_nothing_and_harms_nothing(gateway: GatewayScene) -> None:
    lost = await open_and_lose(gateway)
    thief = DomainPair(LOCAL, "thief.example")
    assert await gateway.public.resumptions.find(lost.id, 0, thief) == Found()
    assert await gateway.public.resumptions.find("made up", 0, PAIR) == Found()
    peer = await gateway.open_remote(resume=lost, **RESUMABLE)
    assert peer.session.stream.resumed


@on_quiet_loop
async def test_a_lost_session_is_kept_for_its_time_only(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_remote(resumption_seconds=1)
    lost = await lose(gateway, peer)
    (source,) = gateway.public.sources
    await until(lambda: not gateway.public.sources)
    again = await gateway.open_remote(resume=lost, **RESUMABLE)
    assert not again.session.stream.resumed
    assert not source.is_lost or source not in gateway.public.sources


@on_quiet_loop
async def test_only_so_many_lost_sessions_are_kept(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumption, "MAX_SUSPENDED", 2)
    await gateway.start()
    peers = [await gateway.open_remote(**RESUMABLE) for _ in range(3)]
    for peer in peers:
        peer.session.abort("lost")
        await until(lambda: peer.ended)  # noqa: B023
    await until(lambda: len(gateway.public.sources) == 2)
    assert all(source.is_lost for source in gateway.public.sources)


@on_quiet_loop
async def test_who_has_most_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "MAX_SUSPENDED", 9)
    monkeypatch.setattr(resumption, "MAX_SUSPENDED_OF_PAIR", 4)
    monkeypatch.setattr(resumption, "MAX_SUSPENDED_BYTES", 100)
    registry, sources = Resumptions(), [FakeSource(handled=0, sent=0) for _ in range(20)]
    for at, source in enumerate(sources):
        source.half.sender = REMOTE if at < 2 else "evil.example"
        source.half.target = LOCAL if at < 10 else "other.example"
        source.half.id = registry.new_id(source)  # type: ignore[arg-type]
        source.held_bytes = 99 if at == 19 else 1
        registry.keep(source.half)
    # Four of each of its pairs at the most, then nine in all, then at most 100 bytes or seven.
    kept = [at for at, source in enumerate(sources) if not source.ends]
    assert kept == [0, 1, 9, 16, 17, 18, 19]


@on_quiet_loop
async def test_a_draining_worker_keeps_none(gateway: GatewayScene) -> None:
    await open_and_lose(gateway)
    (source,) = gateway.public.sources
    source.close()
    assert not gateway.public.sources
    source.let_go("again")
    assert source.origin.lost


@on_quiet_loop
async def test_a_session_that_is_lost_while_it_resumes_can_be_resumed(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await open_and_lose(gateway)
    resumptions = gateway.public.resumptions
    find, reached, go_on = resumptions.find, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any) -> Found:
        found = await find(*args)
        reached.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(resumptions, "find", slowly)
    resuming = asyncio.create_task(gateway.open_remote(resume=lost, **RESUMABLE))
    await reached.wait()
    gateway.peers[-1].session.abort("lost again")
    with pytest.raises(HopFailed):
        await resuming
    await until(lambda: len(gateway.public.sources) == 1)
    go_on.set()
    monkeypatch.setattr(resumptions, "find", find)
    peer = await gateway.open_remote(resume=lost, **RESUMABLE)
    assert peer.session.stream.resumed and len(gateway.public.sources) == 1
