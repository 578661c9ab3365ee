"""A worker's certificates for remote domains: asked for once, kept until near their end."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from coordinator.authority import Leaf

MAX_LEAVES = 4096  # strangers can name domains without end
LEAF_RENEWAL = 3600.0  # seconds before its end from which on a leaf is asked for again
LAST_USE = 60.0  # seconds before its end up to which a leaf serves while nobody issues another


class ControlPlaneUnavailable(Exception):
    """The coordinator is away or refuses, and nothing usable is cached."""


class Leaves:
    """`ask(domain, purpose)` gets a leaf from the coordinator or raises `ControlPlaneUnavailable`.

    Many may want a leaf at once; it is asked for once.
    """

    def __init__(self, ask: Callable[[str, str], Awaitable[Leaf]]) -> None:
        self.kept: OrderedDict[str, Leaf] = OrderedDict()
        self.requests: dict[str, asyncio.Task[Leaf]] = {}
        self._ask = ask

    async def get(self, domain: str, purpose: str) -> Leaf:
        """A leaf with some time left. Raises `ControlPlaneUnavailable`."""
        leaf = self.kept.get(domain)
        left = leaf.not_after - time.time() if leaf else 0.0
        if leaf and left > LEAF_RENEWAL:
            return leaf
        task = self.requests.get(domain)
        if task is None:
            task = asyncio.create_task(self._request(domain, purpose))
            self.requests[domain] = task
            task.add_done_callback(lambda done: self._on_done(domain, done))
        try:
            return await asyncio.shield(task)
        except ControlPlaneUnavailable:
            if leaf and left > LAST_USE:
                return leaf
            raise

    async def _request(self, domain: str, purpose: str) -> Leaf:
        leaf = await self._ask(domain, purpose)
        self.kept[domain] = leaf
        self.kept.move_to_end(domain)
        if len(self.kept) > MAX_LEAVES:
            self.kept.popitem(last=False)
        return leaf

    def _on_done(self, domain: str, done: asyncio.Task[Leaf]) -> None:
        self.requests.pop(domain, None)
        if not done.cancelled():
            done.exception()  # seen by those who wait; nobody may be left to
