"""Every kind of Redis that a url may name, as real servers: the whole store works on each."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest
import uvloop

from coordinator import journal_writer, redis_client
from coordinator.config import Config
from coordinator.config import Journal as JournalConfig
from coordinator.embedded import EmbeddedRedis
from coordinator.journal import Dealt, Record
from coordinator.journal_writer import JournalWriter
from coordinator.redis_client import COMMAND_TIMEOUT, StoreUnavailable
from coordinator.routes import DomainPair
from coordinator.store import Store, redis_url
from coordinator.sweeps import Sweeper
from tests.coordinator.journal_scene import AnyRecord
from tests.coordinator.redis_servers import with_cluster, with_password, with_sentinel, with_tls

DEAD, LIVE = "gw1/w1.a", "gw1/w2.a"
PAIRS = [DomainPair("a.example", f"d{number}.example") for number in range(150)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost Redis is looked for without pause."""
    monkeypatch.setattr(journal_writer, "RETRY_INTERVAL", 0.02)
    monkeypatch.setattr(redis_client, "PAUSE", 0.0)


async def until(condition) -> None:
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.01)


async def journaled(writer: JournalWriter, *datas: bytes) -> list[Record]:
    """Records that Redis has confirmed."""
    records = [
        AnyRecord("out", len(data), pair=PAIRS[0], write=lambda data=data: data) for data in datas
    ]
    for record in records:
        writer.add(record)
    await until(lambda: all(record.is_kept for record in records))
    return records


async def use_all_of(url: str) -> None:
    """Routes, discovery, heartbeats, a worker's life and death with what it leaves."""
    store = Store(url)
    await store.connect()
    assert not (await store.heartbeat(DEAD, 60.0, {"state": "running"})).known
    assert (await store.heartbeat(DEAD, 60.0, {"state": "running"})).known
    await store.heartbeat(LIVE, 60.0, {"state": "running"})
    await store.put_discovery("d1.example", b"payload", 60.0)
    assert await store.get_discovery("d1.example") == b"payload"
    for pair in PAIRS:
        assert (await store.take(pair, DEAD, None)).owner == DEAD
    listed = [pair async for pair, _ in store.routes()]
    assert set(listed) == set(PAIRS)
    writer = JournalWriter(store, DEAD, JournalConfig())
    await writer.start()
    records = await journaled(writer, *(b"%d" % number for number in range(20)))
    for record in records[5:]:
        writer.complete(record)
    await until(lambda: not writer._journal.has_work and not writer._journal.is_in_flight)
    await writer.close()
    await store.deal(DEAD, [Dealt("in", PAIRS[1], b"dealt")])
    await Sweeper(store, "gw1", lambda worker: False).worker_exited(DEAD)
    assert set(await store.workers()) == {LIVE}
    assert await store.journals() == [LIVE]
    dealt = [record.data for entry in await store.read_inbox(LIVE) for record in entry.records]
    # The entry that has an unfinished record is there as a whole.
    assert dealt[:6] == [b"dealt", b"0", b"1", b"2", b"3", b"4"]
    route = await store.lookup(PAIRS[0])
    assert route is not None
    assert route.owner == LIVE
    assert await store.release(PAIRS[0], LIVE, route.epoch)
    assert store.invalid_values == 0
    await store.close()


async def test_a_user_with_few_rights_is_enough(tmp_path: Path):
    async with with_password(tmp_path) as url:
        await use_all_of(url)
        store = Store(url.replace("s3cr3t", "wrong"))
        with pytest.raises(StoreUnavailable, match="Redis"):
            await store.connect()
        await store.close()


async def test_tls_with_a_private_authority_and_a_client_certificate(tmp_path: Path):
    async with with_tls(tmp_path) as url:
        await use_all_of(url)
        store = Store(url.partition("?")[0])
        with pytest.raises(StoreUnavailable, match="certificate"):
            await store.connect()
        await store.close()


async def test_a_cluster_of_three_masters(tmp_path: Path):
    async with with_cluster(tmp_path) as url:
        await use_all_of(url)


async def test_sentinel_fails_over_and_the_journal_is_written_again(tmp_path: Path):
    async with with_sentinel(tmp_path) as (url, master):
        await use_all_of(url)
        store = Store(url)
        writer = JournalWriter(store, DEAD, JournalConfig())
        await writer.start()
        await journaled(writer, b"before")
        # The replica misses what comes now: its master dies first.
        await store._client.execute_command("CLIENT", "PAUSE", "20000", "WRITE")
        await master.kill()
        await until(lambda: not writer.available)
        told: list[bool] = []
        late = AnyRecord("out", 4, pair=PAIRS[0], write=lambda: b"late", tell=told.append)
        writer.add(late)
        await until(lambda: late.is_kept)
        assert told == [False, True]
        key = store._journal_keys(DEAD)[0]
        kept = [record.data for entry in await store._read(key) for record in entry.records]
        assert kept == [b"before", b"late"]
        with contextlib.suppress(StoreUnavailable):
            await store.take(PAIRS[0], LIVE, None)
        assert await store.lookup(PAIRS[0]) is not None
        await writer.close()
        await store.close()


@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
async def test_a_redis_that_is_not_there_is_unavailable(kind: str):
    store = Store(f"{kind}://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="Redis is away"):
            await store.connect()
    await store.close()


async def test_a_redis_that_does_not_answer_in_time_is_named_so():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match=r"Redis is away: \w+"):
            await store.connect()
        await store.close()


def test_while_we_stand_still_no_time_passes_for_redis(tmp_path: Path, config: Config):
    async def work() -> None:
        (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
        server, store = EmbeddedRedis(tmp_path), Store(redis_url(config))
        await server.start()
        try:
            await store.ping()
            asked = asyncio.create_task(store.ping())
            for _ in range(5):
                await asyncio.sleep(0)  # the command is on its way
            time.sleep(2 * COMMAND_TIMEOUT)  # noqa: ASYNC251 - as a busy machine does to us
            await asked
        finally:
            await store.close()
            await server.stop()

    uvloop.run(work())  # as a worker does: its timers come before what is read


async def test_an_unknown_form_of_url_is_refused():
    with pytest.raises(ValueError, match="URL"):
        await Store("http://example").connect()
