"""What a worker's journal writes together, when, and deletes again."""

import asyncio
import time

import pytest

from coordinator import journal_writer
from coordinator.config import Journal as JournalConfig
from coordinator.journal_writer import JournalWriter
from coordinator.store import Store
from tests.coordinator.journal_scene import AnyRecord
from tests.coordinator.journal_writer_scene import ONE, Told, flat, stored, until, writer_of


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
