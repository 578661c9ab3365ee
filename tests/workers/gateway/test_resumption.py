"""Lost sessions that remote servers opened: resumed here, elsewhere, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coordinator.client import ControlPlane
from coordinator.lost_sessions import LostSession
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene, Peer
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    message,
    on_quiet_loop,
    request,
    until,
)
from workers.gateway import resumption
from workers.gateway.asking import barrier_tag
from workers.gateway.failure import HopFailed
from workers.gateway.resumption import Found, Resumptions
from workers.gateway.siblings import Siblings
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import StreamFailed
from workers.xmpp.management import Received, Sent, Suspended

RESUMABLE = {"resumption_seconds": 60}


def inbound(id: str) -> Any:
    return message(id, sender=REMOTE, target=LOCAL)


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


# Between the workers of a machine.


class FakeSource:
    """A lost session as `Resumptions` sees it."""

    held_bytes = 0

    def __init__(self, *, handled: int, sent: int, settles: bool = True) -> None:
        self.pairs = {PAIR: "external"}
        self.settles = settles
        self.ends: list[Any] = []
        self.half = Suspended("", REMOTE, LOCAL, Sent(), Received(), 60, True)
        self.half.sent.total = sent
        self.half.received.total = self.half.received.handled = handled

    def suspend(self, reason: str) -> Suspended:
        return self.half

    async def settled(self, timeout: float) -> bool:
        return self.settles

    def let_go(self, reason: str) -> None:
        self.ends.append(reason)

    def succeeded_elsewhere(self, *, is_exact: bool) -> None:
        self.ends.append(is_exact)


class FakeControl(ControlPlane):
    def __init__(self, worker_id: str, workers: list[str]) -> None:
        self.worker_id = worker_id
        self._workers = workers

    def live_workers(self) -> list[str]:
        return self._workers


WORKERS = ["gw/w1.1", "gw/w2.1", "gw/w3.1"]


class Crew:
    """Three workers of one machine; `all` has the registry of each."""

    def __init__(self, directory: Path) -> None:
        self.siblings = [Siblings(directory / "run", worker) for worker in WORKERS]
        self.all = [Resumptions() for _ in WORKERS]
        self.others: list[dict[str, Any]] = []
        for worker, siblings, each in zip(WORKERS, self.siblings, self.all, strict=True):
            siblings.on_message = self.others.append
            each.join(FakeControl(worker, WORKERS), siblings)

    def lost(self, at: int, source: FakeSource) -> str:
        id = self.all[at].new_id(source)  # type: ignore[arg-type]
        source.half.id = id
        self.all[at].keep(source.half)
        return id


@pytest_asyncio.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    crew = Crew(tmp_path)
    for siblings in crew.siblings:
        await siblings.start()
    yield crew
    for siblings in crew.siblings:
        await siblings.close()


@on_quiet_loop
async def test_another_worker_hands_its_session_over_and_ends_its_half(crew: Crew) -> None:
    source = FakeSource(handled=7, sent=5)
    id = crew.lost(0, source)
    found = await crew.all[1].find(id, 3, PAIR)
    assert found.source is None and found.suspended is not None
    half = found.suspended
    assert (half.id, half.sender, half.target, half.seconds) == (id, REMOTE, LOCAL, 60)
    assert (half.received.h, half.received.pending, half.sent.outstanding) == (7, 0, 0)
    assert half.sent.acknowledged == 3 and half.bidirectional
    assert source.half.sent.acknowledged == 3 and source.ends == [True]
    assert await crew.all[2].find("made up", 3, PAIR) == Found()


@on_quiet_loop
async def test_it_is_found_wherever_it_went(crew: Crew) -> None:
    id = crew.lost(0, FakeSource(handled=7, sent=0))
    for at in (1, 2, 0, 2):
        found = await crew.all[at].find(id, 0, PAIR)
        assert found.suspended is not None, at
        heir = FakeSource(handled=found.suspended.received.handled, sent=0)
        heir.half.id = id
        crew.all[at].put_back(id, heir)  # type: ignore[arg-type]
        crew.all[at].keep(heir.half)


@on_quiet_loop
async def test_what_pends_there_is_refused_here(crew: Crew) -> None:
    source = FakeSource(handled=7, sent=0, settles=False)
    id = crew.lost(0, source)
    assert await crew.all[1].find(id, 0, PAIR) == Found(h=7)
    assert len(source.ends) == 1


@on_quiet_loop
async def test_a_peer_that_claims_too_much_gets_nothing_from_there(crew: Crew) -> None:
    source = FakeSource(handled=7, sent=2)
    id = crew.lost(0, source)
    assert await crew.all[1].find(id, 3, PAIR) == Found(h=7)
    assert source.ends == [False]


@on_quiet_loop
async def test_another_pair_gets_nothing_from_there(crew: Crew) -> None:
    source = FakeSource(handled=7, sent=2)
    id = crew.lost(0, source)
    assert await crew.all[1].find(id, 0, DomainPair(LOCAL, "thief.example")) == Found()
    assert not source.ends


@on_quiet_loop
async def test_a_dead_worker_is_not_waited_for(crew: Crew) -> None:
    await crew.siblings[0].close()
    id = f"{barrier_tag(WORKERS[0])}.x"
    assert await crew.all[1].find(id, 0, PAIR) == Found()


class FakeStore:
    """What dead workers have saved."""

    def __init__(self) -> None:
        self.saved: dict[str, LostSession] = {}

    async def save(self, sessions: Any) -> None:
        self.saved.update(sessions)

    async def take(self, id: str) -> LostSession | None:
        return self.saved.pop(id, None)


@on_quiet_loop
async def test_a_dead_worker_has_left_its_count(crew: Crew) -> None:
    store = FakeStore()
    for each in crew.all:
        assert each._control is not None
        each._control.lost_sessions = store  # type: ignore[assignment]
    id = f"{barrier_tag('gw/w9.1')}.x"
    store.saved[id] = LostSession(LOCAL, REMOTE, 7, 60, True)
    assert await crew.all[0].find("unknown", 3, PAIR) == Found()
    found = await crew.all[0].find(id, 3, PAIR)
    assert found.suspended is not None and not found.is_exact and found.source is None
    assert (found.suspended.received.h, found.suspended.sent.acknowledged) == (7, 3)
    store.saved[id] = LostSession(LOCAL, REMOTE, 7, 60, True)
    assert await crew.all[0].find(id, 3, DomainPair(LOCAL, "thief.example")) == Found()
    # What a live worker has saved is its own still.
    alive = f"{barrier_tag(WORKERS[2])}.x"
    store.saved[alive] = LostSession(LOCAL, REMOTE, 7, 60, True)
    assert await crew.all[0].find(alive, 3, PAIR) == Found()


@on_quiet_loop
async def test_each_session_is_saved_when_it_went_on(gateway: GatewayScene) -> None:
    store = FakeStore()
    await gateway.start()
    gateway.control.lost_sessions = store  # type: ignore[assignment]
    peer = await gateway.open_remote(**RESUMABLE)
    for count in (0, 1):
        gateway.public.resumptions.each_second()
        await until(lambda: [s.handled for s in store.saved.values()] == [count])  # noqa: B023
        peer.send(inbound(str(count)))
        await until(lambda: peer.acknowledged() == count + 1)  # noqa: B023
    store.saved.clear()
    gateway.public.resumptions.each_second()
    await until(lambda: store.saved)
    store.saved.clear()
    gateway.public.resumptions.each_second()
    await asyncio.sleep(0.01)
    assert not store.saved


@on_quiet_loop
async def test_what_comes_again_after_a_workers_death_is_marked_and_requests_return(
    gateway: GatewayScene,
) -> None:
    store = FakeStore()
    await gateway.start()
    gateway.control.lost_sessions = store  # type: ignore[assignment]
    id = f"{barrier_tag('gw/w9.1')}.x"
    store.saved[id] = LostSession(LOCAL, REMOTE, 5, 60, False)
    lost = Suspended(id, REMOTE, LOCAL, Sent(), Received(), 60)
    lost.sent.enabled = lost.received.enabled = True
    lost.sent.acknowledged, lost.sent.total = 6, 8
    peer = await gateway.open_remote(resume=lost, **RESUMABLE)
    stream = peer.session.stream
    assert stream.resumed
    asked = request("2", sender=REMOTE, target=LOCAL)
    stream.send_again([inbound("1"), asked])
    stream.request_ack()
    stream.send_stanzas([inbound("3"), request("4", sender=REMOTE, target=LOCAL)])
    peer.session.write()
    await until(lambda: gateway.local.ids() == ["1", "3", "4"])
    delayed = [b"urn:xmpp:delay" in stanza.data for stanza in gateway.local.got]
    assert delayed == [True, False, False]
    await until(lambda: gateway.remote.ids() == ["2"])
    assert gateway.remote.got[0].type == "error"
    await until(lambda: stream.sent.outstanding == 0)
    assert gateway.ledger("inbound")["replayed"] == 1


@on_quiet_loop
async def test_other_messages_go_where_they_went_before(crew: Crew) -> None:
    await crew.siblings[1].send_message(WORKERS[0], {"barrier": "b"})
    await crew.siblings[1].send_message(WORKERS[0], {"resumed": 99})
    await crew.siblings[1].send_message(WORKERS[0], {"resume": 1})
    await until(lambda: len(crew.others) == 2)
    assert crew.others == [{"barrier": "b"}, {"resume": 1}]
