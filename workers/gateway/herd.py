"""Turns for work that many want at the same moment: after a flap or a restart, every hop connects.

So many have a turn at once; whoever has stanzas waiting goes first, but every fourth turn is the
others'. A turn counts for a second at most: a handshake that works is over by then, and those that
hang in the network must not keep the rest waiting.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LONGEST_TURN = 1.0
_URGENT_IN_A_ROW = 3


class Herd:
    """At most `limit` turns at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._row = 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(not turn.done() for queue in (self._urgent, self._others) for turn in queue)

    @asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn and have it."""
        await self._begin(urgent)
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._next()

        timer = asyncio.get_running_loop().call_later(LONGEST_TURN, end)
        try:
            yield
        finally:
            timer.cancel()
            end()

    async def _begin(self, urgent: bool) -> None:
        if self.running < self.limit and not (self._urgent or self._others):
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # it came at the same moment: for somebody else
            raise

    def _next(self) -> None:
        """A turn is over: the next in line has it, if there is one."""
        self.running -= 1
        while self.running < self.limit:
            turn = self._pick()
            if turn is None:
                return
            if not turn.done():
                turn.set_result(None)
                self.running += 1

    def _pick(self) -> asyncio.Future[None] | None:
        if self._urgent and (self._row < _URGENT_IN_A_ROW or not self._others):
            self._row += 1
            return self._urgent.popleft()
        self._row = 0
        return self._others.popleft() if self._others else None
