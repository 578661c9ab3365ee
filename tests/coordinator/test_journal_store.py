import pytest

from coordinator.config import Config
from coordinator.journal import Dealt, encode_entry
from coordinator.journal_store import (
    LARGE_PAGE_ENTRIES,
    PAGE_ENTRIES,
    SMALL_ENTRY,
    Opened,
    is_worker_id,
)
from coordinator.routes import DomainPair
from coordinator.store import Store, StoreUnavailable, redis_url

PAIR = DomainPair("a.example", "b.example")
ONE, TWO = "gw1/w1.a", "gw1/w2.a"
JOURNAL, SEAL, SEALED, INBOX = (
    f"fedgate:{name}:{{{ONE}}}" for name in ("journal", "seal", "sealed", "inbox")
)
RECORDS = [Dealt("out", PAIR, b"1"), Dealt("in", PAIR, b"2")]


async def write(store: Store, number: int, records: list[Dealt] = RECORDS) -> None:
    """As a worker does."""
    await store._client.xadd(
        JOURNAL, {"d": encode_entry(records)}, id=f"{number}-0", nomkstream=True
    )


async def test_a_journal_is_made_and_listed_and_its_newest_number_told(store: Store):
    assert await store.open_journal(ONE) == Opened(None, False)
    assert await store.journals() == [ONE]
    assert await store.has_journal(ONE)
    assert not await store.has_journal(TWO)
    await write(store, 7)
    await store._client.xdel(JOURNAL, "7-0")
    assert await store.open_journal(ONE) == Opened(7, False)


async def test_a_sealed_journal_takes_nothing_more(store: Store):
    await store.open_journal(ONE)
    await write(store, 1)
    assert await store.seal(ONE, "gw1", 5.0)
    await write(store, 2)
    assert not await store._client.exists(JOURNAL)
    assert [entry.records for entry in await store.read_sealed(ONE)] == [RECORDS]
    assert await store.open_journal(ONE) == Opened(None, True)


async def test_many_small_entries_are_read_together_large_ones_are_not(store: Store):
    pages = []
    for size, worker in ((1, ONE), (2 * SMALL_ENTRY, TWO)):
        await store.open_journal(worker)
        key = f"fedgate:journal:{{{worker}}}"
        data = {"d": encode_entry([Dealt("note", PAIR, b"x" * size)])}
        for number in range(1, 2 * LARGE_PAGE_ENTRIES):
            await store._client.xadd(key, data, id=f"{number}-0")
        await store.seal(worker, "gw1", 5.0)
        pages.append([entry.id for entry in await store.read_sealed(worker)])
    assert len(pages[0]) == LARGE_PAGE_ENTRIES and pages[0][:PAGE_ENTRIES] == pages[1]


async def test_small_entries_do_not_bring_the_large_ones_behind_them_along(store: Store):
    """One page of large ones is what can be read within the command timeout."""
    await store.open_journal(ONE)
    for number in range(1, 2 * LARGE_PAGE_ENTRIES):
        size = 1 if number <= 2 * PAGE_ENTRIES else 100 * SMALL_ENTRY
        await write(store, number, [Dealt("note", PAIR, b"x" * size)])
    await store.seal(ONE, "gw1", 5.0)
    numbers = [entry.id for entry in await store.read_sealed(ONE)]
    assert numbers == [b"%d-0" % number for number in range(1, 3 * PAGE_ENTRIES + 1)]


async def test_one_sweeper_at_a_time_has_the_lease(store: Store):
    assert await store.seal(ONE, "gw1", 5.0)
    assert await store.seal(ONE, "gw1", 5.0)
    assert not await store.seal(ONE, "gw2", 5.0)
    assert await store._client.pttl(SEAL) > 4000
    await store._client.delete(SEAL)  # it ran out
    assert await store.seal(ONE, "gw2", 5.0)
    assert not await store.finish(ONE, "gw1")
    assert await store.finish(ONE, "gw2")


async def test_a_journal_begun_anew_is_sealed_when_the_older_one_is_dealt(store: Store):
    await store.open_journal(ONE)
    await write(store, 1)
    await store.seal(ONE, "gw1", 5.0)
    await store.open_journal(ONE)
    await write(store, 2, [])
    await store.seal(ONE, "gw1", 5.0)
    entries = await store.read_sealed(ONE)
    assert [entry.id for entry in entries] == [b"1-0"]
    assert not await store.finish(ONE, "gw1")
    await store.clear_sealed(ONE, [b"1-0"])
    assert await store.seal(ONE, "gw1", 5.0)
    assert [entry.id for entry in await store.read_sealed(ONE)] == [b"2-0"]


async def test_nothing_is_finished_while_something_is_left(store: Store):
    await store.open_journal(ONE)
    await store.deal(ONE, RECORDS)
    await store.seal(ONE, "gw1", 5.0)
    assert not await store.finish(ONE, "gw1")
    assert not await store._client.exists(SEAL)  # another may go on at once
    await store.clear_inbox(ONE, [entry.id for entry in await store.read_inbox(ONE)])
    await store.seal(ONE, "gw1", 5.0)
    assert await store.finish(ONE, "gw1")
    assert await store.journals() == []
    assert await store._client.keys("*") == [SEAL.encode()]
    assert 3000 < await store._client.ttl(SEAL) <= 3600


async def test_a_worker_finishes_itself_only_when_its_inbox_is_empty_too(store: Store):
    await store.open_journal(ONE)
    await store.deal(ONE, RECORDS)
    assert not await store.finish(ONE, "")
    await store.clear_inbox(ONE, [entry.id for entry in await store.read_inbox(ONE)])
    assert await store.finish(ONE, "")
    assert await store._client.keys("*") == []


async def test_what_is_dealt_meanwhile_keeps_a_worker_on_the_list(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
):
    """`finish` found nothing, then an entry came, then the worker is taken off the list."""
    other = Store(redis_url(config))
    script = store._script

    async def then_dealt(*arguments, **options):
        reply = await script(*arguments, **options)
        await other.deal(ONE, RECORDS)
        return reply

    await store.open_journal(ONE)
    await store.seal(ONE, "gw1", 5.0)
    monkeypatch.setattr(store, "_script", then_dealt)
    assert not await store.finish(ONE, "gw1")
    assert await store.journals() == [ONE]
    await other.close()


async def test_entries_come_in_pages_and_in_order(store: Store):
    for number in range(PAGE_ENTRIES + 2):
        await store.deal(ONE, [Dealt("out", PAIR, b"%d" % number)])
    seen = []
    while page := await store.read_inbox(ONE):
        assert len(page) <= PAGE_ENTRIES
        seen += [record.data for entry in page for record in entry.records]
        await store.clear_inbox(ONE, [entry.id for entry in page])
    assert seen == [b"%d" % number for number in range(PAGE_ENTRIES + 2)]


async def test_values_we_never_wrote_are_no_records(store: Store):
    for fields in ({"d": b"\xff\x00"}, {"e": b"x"}, {"d": encode_entry(RECORDS)}):
        await store._client.xadd(INBOX, fields)
    records = [entry.records for entry in await store.read_inbox(ONE)]
    assert records == [[], [], RECORDS]
    await store._client.sadd("{fedgate}:journals", "rubbish\n", b"\xff", ONE)
    assert await store.journals() == [ONE]
    assert store.invalid_values == 4


async def test_keys_of_another_type_are_repaired(store: Store):
    for key in (JOURNAL, SEALED, INBOX, "{fedgate}:journals"):
        await store._client.set(key, "text")
    await store._client.rpush(SEAL, "text")
    assert await store.journals() == []
    assert not await store.has_journal(ONE)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.open_journal(ONE)
    assert await store.open_journal(ONE) == Opened(None, True)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.deal(ONE, RECORDS)
    await store.deal(ONE, RECORDS)
    assert not await store.seal(ONE, "gw1", 5.0)
    assert await store.seal(ONE, "gw1", 5.0)
    await store._client.set(SEALED, "text")
    assert await store.read_sealed(ONE) == []
    await store._client.set(INBOX, "text")
    await store.finish(ONE, "gw1")
    assert await store.journals() == []


def test_worker_ids_have_a_form():
    assert is_worker_id(ONE)
    for text in ("", "w1", "gw1/w1", "gw1/w1.x", "gw 1/w1.a", "gw1/w1.a\n", "a/b/w1.a"):
        assert not is_worker_id(text)
