"""Lost sessions resumed at another worker of the machine, or after the death of theirs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from coordinator.client import ControlPlane
from coordinator.lost_sessions import LostSession
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.resumption_scene import RESUMABLE, FakeSource, inbound
from tests.workers.gateway.session_bench import LOCAL, REMOTE, on_quiet_loop, request, until
from workers.gateway.asking import barrier_tag
from workers.gateway.resumption import Found, Resumptions
from workers.gateway.siblings import Siblings
from workers.xmpp.management import Received, Sent, Suspended


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
