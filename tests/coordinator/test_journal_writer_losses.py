"""A journal whose Redis is away, stands still or has lost data, or that others have taken over."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from coordinator import journal_writer, redis_client
from coordinator.config import Config
from coordinator.embedded import EmbeddedRedis
from coordinator.journal_writer import BELIEF, JournalWriter
from coordinator.store import Store, redis_url
from tests.coordinator.journal_writer_scene import KEY, ONE, Told, flat, stored, until, writer_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost Redis is looked for without pause."""
    monkeypatch.setattr(journal_writer, "RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(redis_client, "PAUSE", 0.0)


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
    await store._client.execute_command("CLIENT", "PAUSE", "20000", "WRITE")
    loop = asyncio.get_running_loop()
    started = loop.time()
    writer.add(told.record(b"1"))
    await until(lambda: told.words)
    assert told.words == [(b"1", False)]
    assert loop.time() - started < 10  # it would stand still for longer
    await store._client.execute_command("CLIENT", "UNPAUSE")
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
