"""Waiting for something to change, at no cost for those for whom nobody waits."""

import asyncio


class Bell:
    """Rung when something changed; who waits looks again. An `asyncio.Event` takes 0.9 KiB."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, ()
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def wait(self) -> None:
        """Until it is rung the next time; any number may wait."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = (*self._waiting, mine)
        try:
            await mine
        finally:
            self._waiting = tuple(each for each in self._waiting if each is not mine)
