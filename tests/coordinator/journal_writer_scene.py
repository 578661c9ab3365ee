"""The journal of a worker in a real Redis, and what its records are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from coordinator.config import Journal as JournalConfig
from coordinator.journal import Record
from coordinator.journal_writer import JournalWriter
from coordinator.store import Store
from tests.coordinator.journal_scene import AnyRecord

ONE = "gw1/w1.a"
KEY = "fedgate:journal:{gw1/w1.a}"


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


class Told:
    """What the records of a test were told."""

    def __init__(self) -> None:
        self.words: list[tuple[bytes, bool]] = []

    def record(self, data: bytes, size: int = 10) -> Record:
        def tell(is_kept: bool) -> None:
            self.words.append((data, is_kept))

        return AnyRecord("out", size, write=lambda: data, tell=tell)


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
