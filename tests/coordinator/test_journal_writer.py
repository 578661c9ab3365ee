import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import journal_writer, redis_client
from coordinator.config import Config
from coordinator.config import Journal as JournalConfig
from coordinator.embedded import EmbeddedRedis
from coordinator.journal import Record
from coordinator.journal_writer import BELIEF, JournalWriter
from coordinator.routes import DomainPair
from coordinator.store import Store, redis_url
from tests.coordinator.journal_scene import AnyRecord

PAIR = DomainPair("a.example", "b.example")
ONE = "gw1/w1.a"
KEY = "fedgate:journal:{gw1/w1.a}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost Redis is looked for without pause."""
    monkeypatch.setattr(journal_writer, "RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(redis_client, "PAUSE", 0.0)


@contextlib.asynccontextmanager
async def writer_of(
    store: Store, config: JournalConfig | None = None
) -> AsyncIterator[JournalWriter]:
    writer = JournalWriter(store, ONE, config or JournalConfig())
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[JournalWriter]:
    async with writer_of(store) as opened:
        yield opened


class Told:
    """What the records of a test were told."""

    def __init__(self) -> None:
        self.words: list[tuple[bytes, bool]] = []

    def record(self, data: bytes, size: int = 10) -> Record:
        def tell(is_kept: bool) -> None:
            self.words.append((data, is_kept))

        return AnyRecord("out", size, write=lambda: data, tell=tell)


@pytest.fixture
def told() -> Told:
    return Told()


async def until(condition) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.001)


async def stored(store: Store, key: str = KEY) -> list[list[bytes]]:
    """The records of each entry in Redis."""
    found = await store._read(key)
    return [[record.data for record in entry.records] for entry in found]


def flat(entries: list[list[bytes]]) -> list[bytes]:
    return [data for entry in entries for data in entry]


async def test_what_one_loop_turn_adds_becomes_one_entry(
    store: Store, writer: JournalWriter, told: Told
):
    for data in (b"1", b"2", b"3"):
        writer.add(told.record(data))
    await until(lambda: told.words)
    assert told.words == [(b"1", True), (b"2", True), (b"3", True)]
    assert await stored(store) == [[b"1", b"2", b"3"]]
    assert (writer.entries, writer.bytes, writer.is_full) == (1, 30, False)
    assert await store.journals() == [ONE]


async def test_it_is_full_by_size_at_once_and_by_age_within_a_second(
    store: Store, told: Told, monkeypatch: pytest.MonkeyPatch
):
    async with writer_of(store, JournalConfig(max_bytes=100, max_age=5.0)) as writer:
        first, second = told.record(b"first", 60), told.record(b"second", 60)
        writer.add(first)
        assert not writer.is_full
        writer.add(second)
        assert writer.is_full
        writer.complete(second)
        assert not writer.is_full
        later = time.monotonic() + 5.1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        writer.each_second()
        assert writer.is_full
        writer.complete(first)
        assert not writer.is_full  # at once: what comes now is not returned


async def test_what_comes_while_an_append_is_under_way_goes_together(
    store: Store, writer: JournalWriter, told: Told
):
    async def add(number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)
        writer.add(told.record(b"%d" % number))

    await asyncio.gather(*map(add, range(50)))
    await until(lambda: len(told.words) == 50)
    entries = await stored(store)
    assert len(entries) < 10
    assert flat(entries) == [b"%d" % number for number in range(50)]


async def test_much_data_does_not_wait_for_the_interval(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal_writer, "MIN_INTERVAL", 3600.0)
    monkeypatch.setattr(journal_writer, "MAX_INTERVAL", 3600.0)
    writer.add(told.record(b"first"))
    await until(lambda: len(told.words) == 1)
    writer.add(told.record(b"small"))
    writer.add(told.record(b"large", journal_writer.HURRY_BYTES))
    await until(lambda: len(told.words) == 3)
    assert await stored(store) == [[b"first"], [b"small", b"large"]]


async def test_a_busy_journal_is_watched_once(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal_writer, "FLUSH_DELAY", 0.005)
    looks, on_watch = [], writer._on_watch

    def counted() -> None:
        looks.append(None)
        on_watch()

    monkeypatch.setattr(writer, "_on_watch", counted)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.2
    while loop.time() < end:
        record = told.record(b"1")
        writer.add(record)
        await asyncio.sleep(0.001)
        writer.complete(record)
    assert len(looks) <= 41


async def test_a_note_does_not_wait_for_others(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal_writer, "MAX_INTERVAL", 3600.0)
    monkeypatch.setattr(journal_writer, "WANTED_BYTES", 1 << 40)
    writer.add(told.record(b"first"))
    await until(lambda: len(told.words) == 1)
    writer.add(told.record(b"second"))
    note = AnyRecord("note", 4, write=lambda: b"note")
    writer.add(note)
    await until(lambda: note.is_kept)
    assert await stored(store) == [[b"first"], [b"note"], [b"second"]]


async def test_a_note_is_still_found_for_a_while_after_its_requests_are_settled(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal_writer, "NOTE_SECONDS", 1.0)
    note, other = AnyRecord("note", 4, write=lambda: b"note"), told.record(b"other")
    writer.add(note)
    writer.add(other)
    await until(lambda: note.is_kept and other.is_kept)
    writer.complete_later(note)
    writer.complete(other)
    writer.each_second()
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert writer.bytes == 0 and await stored(store) == [[b"note"]]
    await asyncio.sleep(1.0)
    writer.each_second()
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert await stored(store) == []


async def test_entries_are_deleted_soon_after_their_records_are_complete(
    store: Store, writer: JournalWriter, told: Told
):
    records = [told.record(b"%d" % number) for number in range(10)]
    for record in records:
        writer.add(record)
        await until(lambda record=record: record.is_kept)
    for record in records[2:7]:
        writer.complete(record)
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert flat(await stored(store)) == [b"0", b"1", b"7", b"8", b"9"]
    for record in records:
        writer.complete(record)
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert await stored(store) == []


async def test_a_clean_end_leaves_nothing_in_redis(store: Store, told: Told):
    async with writer_of(store) as writer:
        record = told.record(b"1")
        writer.add(record)
        await until(lambda: told.words)
        writer.complete(record)
    assert await store._client.keys("*") == []


async def test_an_end_leaves_what_is_unfinished(store: Store, told: Told):
    async with writer_of(store) as writer:
        writer.add(told.record(b"1"))
    assert await stored(store) == [[b"1"]]
    assert await store.journals() == [ONE]


async def test_without_redis_records_are_told_to_go_on(tmp_path: Path, told: Told):
    store = Store(f"unix://{tmp_path}/none.sock")
    async with writer_of(store) as writer:
        assert not writer.available
        writer.add(told.record(b"1"))
        assert told.words == []  # not from inside `add`
        await until(lambda: told.words)
        assert told.words == [(b"1", False)]
    await store.close()


async def test_records_wait_for_a_redis_that_comes_later(config: Config, told: Told):
    (Path(config.gateway.state_dir) / "run").mkdir()
    server = EmbeddedRedis(config.gateway.state_dir)
    store = Store(redis_url(config))
    async with writer_of(store) as writer:
        writer.add(told.record(b"1"))
        await until(lambda: told.words)
        await server.start()
        await until(lambda: (b"1", True) in told.words)
        assert writer.available
        assert await stored(store) == [[b"1"]]
    await store.close()
    await server.stop()


@pytest.mark.parametrize("loses_data", [False, True])
async def test_redis_restarts(
    store: Store, writer: JournalWriter, told: Told, redis: EmbeddedRedis, loses_data: bool
):
    kept, complete = told.record(b"kept"), told.record(b"complete")
    writer.add(kept)
    await until(lambda: kept.is_kept)
    writer.add(complete)
    await until(lambda: complete.is_kept)
    if loses_data:
        await store._client.flushall()
    await redis.stop()
    await until(lambda: not writer.available)
    writer.complete(complete)
    late = told.record(b"late")
    writer.add(late)
    await until(lambda: (b"late", False) in told.words)
    await redis.start()
    await until(lambda: late.is_kept)
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert flat(await stored(store)) == [b"kept", b"late"]
    assert await store.journals() == [ONE]


async def test_lost_data_shows_at_the_next_append_or_when_in_doubt(
    store: Store, writer: JournalWriter, told: Told
):
    first, second = told.record(b"first"), told.record(b"second")
    writer.add(first)
    await until(lambda: first.is_kept)
    await store._client.flushall()
    writer.add(second)
    await until(lambda: second.is_kept)
    assert flat(await stored(store)) == [b"first", b"second"]
    await store._client.flushall()
    writer.doubt()
    async with asyncio.timeout(5.0):
        while flat(await stored(store)) != [b"first", b"second"]:
            pass


async def test_a_sealed_journal_is_begun_anew_without_what_others_took(
    store: Store, writer: JournalWriter, told: Told
):
    taken, new = told.record(b"taken"), told.record(b"new")
    writer.add(taken)
    await until(lambda: taken.is_kept)
    assert await store.seal(ONE, "gw2", 5.0)
    writer.add(new)
    await until(lambda: new.is_kept)
    assert await stored(store) == [[b"new"]]
    assert await stored(store, "fedgate:sealed:{gw1/w1.a}") == [[b"taken"]]


async def test_a_worker_that_was_swept_learns_it_afterwards(
    store: Store, writer: JournalWriter, told: Told
):
    taken, new = told.record(b"taken"), told.record(b"new")
    writer.add(taken)
    await until(lambda: taken.is_kept)
    assert await store.seal(ONE, "gw2", 5.0)
    await store.clear_sealed(ONE, [entry.id for entry in await store.read_sealed(ONE)])
    assert await store.finish(ONE, "gw2")
    assert await store.journals() == []
    writer.add(new)
    await until(lambda: new.is_kept)
    assert await stored(store) == [[b"new"]]
    assert await store.journals() == [ONE]
    assert told.words == [(b"taken", True), (b"new", True)]


async def test_a_redis_that_stands_still_is_away_within_the_command_timeout(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    await store._client.execute_command("CLIENT", "PAUSE", "700", "WRITE")
    loop = asyncio.get_running_loop()
    started = loop.time()
    writer.add(told.record(b"1"))
    await until(lambda: told.words)
    assert told.words == [(b"1", False)]
    assert loop.time() - started < 0.5
    await until(lambda: told.words[-1] == (b"1", True))
    assert await stored(store) == [[b"1"]]


async def test_who_stood_still_looks_before_it_goes_on_without_redis(
    store: Store, writer: JournalWriter, told: Told, redis: EmbeddedRedis
):
    assert redis.process
    redis.process.send(signal.SIGSTOP)
    writer.add(told.record(b"1"))
    await until(lambda: told.words)
    assert told.words == [(b"1", False)]
    assert not writer.available
    redis.process.send(signal.SIGCONT)
    time.sleep(BELIEF)  # noqa: ASYNC251 - nothing of this process goes on meanwhile
    assert writer.available
    writer.add(told.record(b"2"))
    await until(lambda: told.words[-1][0] == b"2")
    assert told.words[1:] == [(b"1", True), (b"2", True)]


async def test_who_stood_still_goes_on_without_redis_when_it_is_still_away(
    writer: JournalWriter, told: Told, redis: EmbeddedRedis
):
    await redis.stop()
    await until(lambda: not writer.available)
    time.sleep(BELIEF)  # noqa: ASYNC251 - nothing of this process goes on meanwhile
    assert writer.available
    writer.add(told.record(b"1"))
    await until(lambda: told.words)
    assert told.words == [(b"1", False)]
    assert not writer.available


async def test_a_redis_that_was_stopped_holds_everything_once_and_in_order(
    store: Store, writer: JournalWriter, told: Told, redis: EmbeddedRedis
):
    records = [told.record(b"%02d" % number) for number in range(30)]
    for record in records[:10]:
        writer.add(record)
    await until(lambda: records[9].is_kept)
    assert redis.process
    redis.process.send(signal.SIGSTOP)
    for record in records[10:20]:  # in flight, to be executed when nobody waits for it any more
        writer.add(record)
    await until(lambda: (b"19", False) in told.words)
    for record in records[20:]:
        writer.add(record)
    await asyncio.sleep(0.3)  # several attempts to come back
    redis.process.send(signal.SIGCONT)
    await until(lambda: records[-1].is_kept)
    await until(lambda: not writer._journal.is_in_flight)
    assert flat(await stored(store)) == [b"%02d" % number for number in range(30)]
    for record in records:
        writer.complete(record)
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    assert await stored(store) == []


async def test_a_redis_that_refuses_is_asked_in_intervals(
    store: Store, writer: JournalWriter, told: Told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal_writer, "RETRY_INTERVAL", 0.1)
    calls = []
    open_journal = store.open_journal

    async def counted(worker: str):
        calls.append(worker)
        return await open_journal(worker)

    monkeypatch.setattr(store, "open_journal", counted)
    await store._client.config_set("maxmemory", "1")
    writer.add(told.record(b"1"))
    await until(lambda: told.words)
    assert told.words == [(b"1", False)]
    await until(lambda: calls)
    calls.clear()
    await asyncio.sleep(0.35)
    assert len(calls) <= 4
    await store._client.config_set("maxmemory", "0")
    await until(lambda: told.words[-1] == (b"1", True))


async def test_a_damaged_journal_is_replaced(store: Store, told: Told):
    await store._client.set(KEY, "text")
    async with writer_of(store) as writer:
        writer.add(told.record(b"1"))
        await until(lambda: (b"1", True) in told.words)
    assert await stored(store) == [[b"1"]]
