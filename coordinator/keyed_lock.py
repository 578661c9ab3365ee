"""One at a time for each key, however many keys there are."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLock(Generic[K]):
    """Locks by key; a key takes memory only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._busy: dict[K, tuple[asyncio.Lock, list[None]]] = {}

    def __contains__(self, key: K) -> bool:
        """Somebody holds it or waits for it."""
        return key in self._busy

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Wait for those who came before."""
        lock, users = self._busy.setdefault(key, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._busy[key]
