"""Waiting for something to change, at no cost for those for whom nobody waits."""

import asyncio


class Bell:
    """Rung when something changed; who waits looks again. An `asyncio.Event` takes 0.7 KiB."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def wait(self) -> None:
        """Until it is rung the next time; any number may wait."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiting)
