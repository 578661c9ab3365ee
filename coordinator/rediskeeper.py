"""Keeps the embedded redis-server running, and says when Redis, whichever it is, is away."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from coordinator.embedded import EmbeddedProblem, EmbeddedRedis

log = logging.getLogger(__name__)

MAX_DELAY = 5.0
FORGIVEN_AFTER = 30.0  # seconds of a good run after which earlier failures do not count


class RedisKeeper:
    """Starts the embedded server again when it ends. Its end comes as `on_exited`, queued."""

    def __init__(
        self,
        embedded: EmbeddedRedis,
        after: Callable[[float, Callable[[], Any]], None],
        on_exited: Callable[[], None],
    ) -> None:
        self._embedded = embedded
        self._after = after
        self._on_exited = on_exited
        self._failures = 0
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Tell `on_exited` when the running server ends."""
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()

    def restart_soon(self) -> str:
        """The server has ended: start it again, ever later; returns what to tell operators."""
        delay = min(MAX_DELAY, 0.1 * 2.0**self._failures)
        self._failures += 1
        log.error("the embedded redis-server ended; starting it again in %.1f s", delay)
        self._after(delay, self._restart)
        return "the embedded redis-server ended"

    async def _restart(self) -> None:
        try:
            await self._embedded.start()
        except EmbeddedProblem as exc:
            log.error("%s", exc)
            self._on_exited()
            return
        self._after(FORGIVEN_AFTER, self._forgive)
        self.watch()

    def _forgive(self) -> None:
        self._failures = 0

    async def _watch(self) -> None:
        await self._embedded.wait()
        self._on_exited()
