"""What dead workers left: taken in, in order, kept before it is cleared, or passed on."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from coordinator import inbox as module
from coordinator.config import Config, Journal
from coordinator.embedded import EmbeddedRedis
from coordinator.inbox import Inbox
from coordinator.journal import Dealt, Kind
from coordinator.journal_writer import JournalWriter
from coordinator.routes import DomainPair
from coordinator.store import Store, redis_url
from tests.coordinator.journal_scene import AnyRecord

ME, OTHER, DEAD = "gw1/w1.a", "gw1/w2.a", "gw1/w3.a"
PAIR, OTHERS = DomainPair("a.example", "b.example"), DomainPair("a.example", "c.example")


class Scene(NamedTuple):
    store: Store
    inbox: Inbox
    journal: JournalWriter
    got: list[Dealt]
    live: set[str]


@pytest.fixture
async def scene(config: Config, redis: EmbeddedRedis) -> AsyncIterator[Scene]:
    store = Store(redis_url(config))
    journal = JournalWriter(store, ME, Journal())
    live = {ME, OTHER}

    async def adopt(pair: DomainPair) -> str:
        return OTHER if pair == OTHERS else ME

    inbox = Inbox(store, ME, journal, adopt, lambda: live)
    got: list[Dealt] = []

    def on_dealt(kind: Kind, pair: DomainPair, data: bytes) -> None:
        got.append(Dealt(kind, pair, data))
        journal.add(AnyRecord(kind, len(data), pair=pair, write=lambda: data))

    inbox.on_dealt = on_dealt
    await journal.start()
    yield Scene(store, inbox, journal, got, live)
    await journal.close()
    await store.close()


def dealt(*data: bytes, kind: Kind = "out", pair: DomainPair = PAIR) -> list[Dealt]:
    return [Dealt(kind, pair, each) for each in data]


async def test_records_come_in_order_and_once(scene: Scene):
    sent = [dealt(b"%d" % number, b"%d+" % number) for number in range(20)]  # several pages
    for records in sent:
        await scene.store.deal(ME, records)
    await scene.inbox.poll()
    assert scene.got == [record for records in sent for record in records]
    assert await scene.store.read_inbox(ME) == []
    await scene.inbox.poll()
    assert len(scene.got) == 40 and scene.journal.entries > 0


async def test_what_others_own_is_passed_on_and_what_is_inbound_is_not(scene: Scene):
    records = dealt(b"1") + dealt(b"2", kind="note", pair=OTHERS)
    records += dealt(b"3", kind="in", pair=OTHERS) + dealt(b"", kind="in")
    await scene.store.deal(ME, records)
    await scene.inbox.poll()
    assert scene.got == dealt(b"1") + dealt(b"3", kind="in", pair=OTHERS)
    passed = [entry.records for entry in await scene.store.read_inbox(OTHER)]
    assert passed == [dealt(b"2", kind="note", pair=OTHERS)]


async def test_nothing_is_cleared_before_our_own_journal_has_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "KEPT_TIMEOUT", 0.05)
    await scene.store.deal(ME, dealt(b"1"))
    link, scene.journal._link = scene.journal._link, None  # its connection is lost
    await scene.inbox.poll()
    assert scene.got == dealt(b"1")
    assert len(await scene.store.read_inbox(ME)) == 1
    scene.journal._link = link
    scene.journal._journal.regain_contact(None, is_sealed=False)
    await scene.store.deal(ME, dealt(b"2"))
    monkeypatch.undo()
    await scene.inbox.poll()
    assert scene.got == dealt(b"1", b"2") and await scene.store.read_inbox(ME) == []


async def test_nobody_reads_before_anybody_listens(scene: Scene):
    scene.inbox.on_dealt = None
    await scene.store.deal(ME, dealt(b"1"))
    await scene.inbox.poll()
    assert len(await scene.store.read_inbox(ME)) == 1


async def test_a_new_owner_waits_until_a_dead_workers_journal_is_dealt(scene: Scene):
    await scene.store.open_journal(OTHER)  # lives: nobody waits for it
    await scene.store.deal(DEAD, dealt(b"0"))
    settling = [asyncio.create_task(scene.inbox.settle()) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in settling)
    await scene.store.deal(ME, dealt(b"1"))
    await scene.store.clear_inbox(DEAD, [e.id for e in await scene.store.read_inbox(DEAD)])
    assert await scene.store.finish(DEAD, "")
    await asyncio.gather(*settling)
    assert scene.got == dealt(b"1")


async def test_waiting_for_a_journal_that_nobody_deals_ends_and_is_not_begun_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SWEEP_TIMEOUT", 0.05)
    await scene.store.deal(DEAD, dealt(b"0"))
    await scene.inbox.settle()
    monkeypatch.setattr(module, "SWEEP_TIMEOUT", 60.0)
    async with asyncio.timeout(5.0):
        await scene.inbox.settle()
