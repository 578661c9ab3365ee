"""A limit on work that others can make us do: so much at once in all, and so much for each key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager


class Gate:
    """Waiting is part of entering: put a timeout around it."""

    def __init__(self, total: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._keyed: dict[tuple[str, int], tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def enter(self, *limits: tuple[str, int]) -> AsyncIterator[None]:
        """Each limit is a key and how many may be in at once for it.

        They are waited for in their order: name those first who are to blame for a queue, so that
        they wait without holding up others.
        """
        async with AsyncExitStack() as stack:
            for limit in limits:
                await stack.enter_async_context(self._enter_keyed(limit))
            await stack.enter_async_context(self._total)
            yield

    @asynccontextmanager
    async def _enter_keyed(self, limit: tuple[str, int]) -> AsyncIterator[None]:
        semaphore, users = self._keyed.setdefault(limit, (asyncio.Semaphore(limit[1]), []))
        users.append(None)
        try:
            async with semaphore:
                yield
        finally:
            users.pop()
            if not users:
                del self._keyed[limit]
