import asyncio
from collections.abc import AsyncIterator

import hiredis
import pytest

from coordinator.embedded import EmbeddedRedis
from coordinator.journal import Append
from coordinator.journal_link import JournalLink
from coordinator.store import Store, StoreUnavailable

ONE = "gw1/w1.a"
KEY = "fedgate:journal:{gw1/w1.a}"


class Told:
    """The owner of a link."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.news = asyncio.Event()

    def append_answered(self, *, done: bool) -> None:
        self.words.append("done" if done else "unknown")
        self.news.set()

    def link_lost(self) -> None:
        self.words.append("lost")
        self.news.set()

    async def next(self) -> str:
        async with asyncio.timeout(5.0):
            await self.news.wait()
        self.news.clear()
        return self.words[-1]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def link(store: Store, told: Told) -> AsyncIterator[JournalLink]:
    await store.open_journal(ONE)
    opened = await store.link_journal(ONE, told)
    yield opened
    opened.close()


async def ids(store: Store) -> list[bytes]:
    return [id for id, _ in await store._client.xrange(KEY)]


async def test_an_append_adds_deletes_and_trims(link: JournalLink, store: Store, told: Told):
    for number in range(1, 6):
        link.send(Append(number, b"payload\r\n$", 1, []))
        assert await told.next() == "done"
    link.send(Append(6, b"x", 3, [4, 5]))
    assert await told.next() == "done"
    assert await ids(store) == [b"3-0", b"6-0"]
    assert (await store._client.xrange(KEY))[0][1] == {b"d": b"payload\r\n$"}
    link.send(Append(6, b"", 7, []))
    assert await told.next() == "done"
    assert await ids(store) == []
    assert told.words == ["done"] * 7


async def test_notes_are_added_as_the_entry_before(link: JournalLink, store: Store, told: Told):
    link.send(Append(2, b"x", 1, [], b"note"))
    assert await told.next() == "done"
    assert await store._client.xrange(KEY) == [(b"1-0", {b"d": b"note"}), (b"2-0", {b"d": b"x"})]
    link.send(Append(4, b"x", 3, [9], b"note"))
    link.data_received(b":0\r\n$-1\r\n$3\r\n4-0\r\n")  # the journal was away for the first one
    assert told.words == ["done", "unknown"]


async def test_a_journal_that_is_gone_is_not_made_again(
    link: JournalLink, store: Store, told: Told
):
    await store._client.delete(KEY)
    link.send(Append(1, b"x", 1, []))
    assert await told.next() == "unknown"
    assert not await store._client.exists(KEY)


async def test_an_error_ends_the_connection(link: JournalLink, store: Store, told: Told):
    await store._client.xadd(KEY, {"d": b"x"}, id="9-0")
    link.send(Append(1, b"x", 1, []))
    assert await told.next() == "lost"
    assert link.is_closed


async def test_the_end_of_the_connection_is_told_once(
    link: JournalLink, redis: EmbeddedRedis, told: Told
):
    await redis.stop()
    assert await told.next() == "lost"
    await asyncio.sleep(0)
    assert told.words == ["lost"]


async def test_a_closed_link_tells_nothing(link: JournalLink, told: Told):
    link.send(Append(1, b"x", 1, []))
    link.close()
    await asyncio.sleep(0.01)
    assert told.words == []


async def test_answers_may_come_in_pieces_and_nobody_asked_for_more(link: JournalLink, told: Told):
    link.send(Append(2, b"x", 1, [1]))
    link.data_received(b":0\r")
    link.data_received(b"\n$3\r\n2-")
    assert told.words == []
    link.data_received(b"0\r\n")
    assert told.words == ["done"]
    link.data_received(b">2\r\n+news\r\n+x\r\n")  # what RESP3 servers may push
    assert told.words == ["done"]
    link.data_received(b"+OK\r\n")
    assert told.words == ["done", "lost"]


async def test_rubbish_from_redis_ends_the_connection(link: JournalLink, told: Told):
    link.send(Append(1, b"x", 1, []))
    link.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    assert told.words == ["lost"]


async def test_no_connection_is_the_stores_trouble(tmp_path, told: Told):
    store = Store(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreUnavailable):
        await store.link_journal(ONE, told)
    await store.close()
    assert hiredis.Reader().gets() is False  # how the link knows that it has read everything
