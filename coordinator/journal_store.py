"""Journals in Redis: what workers write, what sweepers read and deal, what new owners find.

A worker's journal is a stream that only it adds to; sealed, it has another name, so that whatever
the worker adds later finds nothing to add to. An inbox is a stream of entries dealt to a worker
from journals of dead ones. `journals` names every worker that may have either.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coordinator import scripts
from coordinator.journal import Dealt, InvalidEntry, decode_entry, encode_entry
from coordinator.journal_link import JournalLink, LinkOwner
from coordinator.redis_client import BadValue, RedisClient, StoreUnavailable

PAGE_ENTRIES = 8  # of at most a few hundred kB each: read within the command timeout
LARGE_PAGE_ENTRIES = 64  # as many of a journal's, if they are small: notes, which may be many
SMALL_ENTRY = 1024
SWEPT_SECONDS = 3600  # for how long a worker that was taken for dead learns that it was

_WORKER = re.compile(r"[^\x00-\x20/]{1,255}/[A-Za-z0-9_-]{1,32}\.[0-9a-f]{1,16}")


def is_worker_id(text: str) -> bool:
    """Tell if this is how worker ids look."""
    return _WORKER.fullmatch(text) is not None


class Opened(NamedTuple):
    """The state of a journal: its newest number, None if it was made just now."""

    last: int | None
    is_sealed: bool
    """Others took what was in it before it was made."""


class StoredEntry(NamedTuple):
    """An entry of a stream; a damaged one has no records."""

    id: bytes
    records: list[Dealt]


class JournalStore(RedisClient):
    """The journals' half of the store."""

    async def open_journal(self, worker: str) -> Opened:
        """Find or make the journal of a worker, and list it. Also while calls are paused."""
        keys = self._journal_keys(worker)
        try:
            last, is_sealed = await self._script(scripts.OPEN_JOURNAL, keys[:3], probe=True)
        except BadValue:
            await self._call(lambda: self._client.delete(keys[0]))
            raise StoreUnavailable(f"the journal of {worker} was damaged") from None
        # After the journal: `finish` takes it off the list first and looks for the journal then.
        await self._call(lambda: self._client.sadd(self._journals_key, worker))
        return Opened(None if last < 0 else int(last), bool(is_sealed))

    async def link_journal(self, worker: str, owner: LinkOwner) -> JournalLink:
        """A connection of its own for appends to an open journal."""
        key = self._journal_keys(worker)[0]
        link: JournalLink = await self._call(
            lambda: JournalLink.open(self._client, key, owner), probe=True
        )
        return link

    async def journals(self) -> list[str]:
        """The workers that may have a journal or an inbox: live ones, and dead ones not swept."""
        try:
            found = await self._call(lambda: self._client.smembers(self._journals_key))
        except BadValue:
            await self._call(lambda: self._client.delete(self._journals_key))
            return []
        names = [name.decode("utf-8", "replace") for name in found]
        self.invalid_values += sum(not is_worker_id(name) for name in names)
        return sorted(filter(is_worker_id, names))

    async def has_journal(self, worker: str) -> bool:
        """Tell if something of this worker may be left to deal."""
        try:
            key = self._journals_key
            return bool(await self._call(lambda: self._client.sismember(key, worker)))
        except BadValue:
            return False

    async def seal(self, worker: str, sweeper: str, lease_seconds: float) -> bool:
        """Take or renew the lease on a dead worker's entries; False: another sweeper has it."""
        keys, lease = self._journal_keys(worker)[:3], int(lease_seconds * 1000)
        try:
            return bool(await self._script(scripts.SEAL, keys, sweeper, lease))
        except BadValue:
            await self._call(lambda: self._client.delete(*keys[1:]))
            return False

    async def read_sealed(self, worker: str) -> list[StoredEntry]:
        """The oldest entries of a sealed journal, one page, a longer one of small entries."""
        key = self._journal_keys(worker)[2]
        page = last = await self._read(key)
        while len(last) == PAGE_ENTRIES and len(page) < LARGE_PAGE_ENTRIES and _are_small(page):
            last = await self._read(key, after=last[-1].id)
            page = page + last
        return page

    async def clear_sealed(self, worker: str, ids: Iterable[bytes]) -> None:
        """Delete dealt entries of a sealed journal."""
        await self._clear(self._journal_keys(worker)[2], ids)

    async def read_inbox(self, worker: str) -> list[StoredEntry]:
        """The oldest entries dealt to a worker and not cleared yet, one page."""
        return await self._read(self._journal_keys(worker)[3])

    async def clear_inbox(self, worker: str, ids: Iterable[bytes]) -> None:
        """Delete entries of an inbox whose records are journaled again or settled."""
        await self._clear(self._journal_keys(worker)[3], ids)

    async def deal(self, owner: str, records: Sequence[Dealt]) -> None:
        """Put records into the inbox of a worker, as one entry."""
        key, fields = self._journal_keys(owner)[3], {"d": encode_entry(records)}
        try:
            await self._call(lambda: self._client.xadd(key, fields))
        except BadValue:
            await self._call(lambda: self._client.delete(key))
            raise StoreUnavailable(f"the inbox of {owner} was damaged") from None
        # After the entry, for the reason given in `open_journal`.
        await self._call(lambda: self._client.sadd(self._journals_key, owner))

    async def finish(self, worker: str, sweeper: str) -> bool:
        """Take a worker off the list if nothing of it is left; False if something is.

        `sweeper` "": the worker itself, at its end.
        """
        keys = self._journal_keys(worker)
        try:
            if not await self._script(scripts.FINISH, keys, sweeper, SWEPT_SECONDS):
                return False
        except BadValue:
            await self._call(lambda: self._client.unlink(*keys))
        await self._call(lambda: self._client.srem(self._journals_key, worker))
        if not await self._call(lambda: self._client.exists(keys[0], keys[2], keys[3])):
            return True
        await self._call(lambda: self._client.sadd(self._journals_key, worker))
        return False

    @property
    def _journals_key(self) -> str:
        return f"{{{self._prefix}}}:journals"

    def _journal_keys(self, worker: str) -> list[str]:
        names = ("journal", "seal", "sealed", "inbox")
        return [f"{self._prefix}:{name}:{{{worker}}}" for name in names]

    async def _read(self, key: str, after: bytes | None = None) -> list[StoredEntry]:
        start = b"-" if after is None else b"(" + after
        try:
            found = await self._call(
                lambda: self._client.xrange(key, min=start, count=PAGE_ENTRIES)
            )
        except BadValue:
            await self._call(lambda: self._client.delete(key))
            return []
        return [StoredEntry(id, self._records(fields)) for id, fields in found]

    def _records(self, fields: dict[Any, Any] | None) -> list[Dealt]:
        try:
            return decode_entry((fields or {}).get(b"d", b""))
        except InvalidEntry:
            self.invalid_values += 1
            return []

    async def _clear(self, key: str, ids: Iterable[bytes]) -> None:
        numbers = list(ids)
        if numbers:
            await self._call(lambda: self._client.xdel(key, *numbers))


def _are_small(entries: Sequence[StoredEntry]) -> bool:
    """On the average."""
    size = sum(len(record.data) for entry in entries for record in entry.records)
    return size < len(entries) * SMALL_ENTRY
