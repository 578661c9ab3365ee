"""Replaces workers one at a time: the successor is ready before its predecessor drains."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from coordinator.workforce import Incarnation, Slot

log = logging.getLogger(__name__)


class Succession:
    """A queue of slots whose worker is to be replaced, of which one is under way.

    `start(slot)` starts a process in the slot, beside the current one; `retire(incarnation)` lets
    one drain and end. The next slot has its turn when the predecessor has ended.
    """

    def __init__(
        self,
        start: Callable[[Slot], Awaitable[Incarnation]],
        retire: Callable[[Incarnation], None],
    ) -> None:
        self._start = start
        self._retire = retire
        self._waiting: deque[Incarnation] = deque()
        self._leaving: Incarnation | None = None
        """Who is being replaced; None between two turns."""
        self._coming: Incarnation | None = None

    def add(self, slot: Slot) -> bool:
        """Queue the slot's present worker for replacement; False if it has its turn already."""
        present = slot.current
        if present is None or present is self._leaving or present in self._waiting:
            return False
        self._waiting.append(present)
        return True

    def cancel(self) -> None:
        """Replace nobody any more; a successor under way stays."""
        self._waiting.clear()
        self._leaving = self._coming = None

    async def advance(self) -> None:
        """Begin with the next one, unless one is under way."""
        while self._leaving is None and self._waiting:
            leaving = self._waiting.popleft()
            if leaving.state != "running" or leaving is not leaving.slot.current:
                continue  # it has ended, or is about to
            self._leaving = leaving
            self._coming = await self._start(leaving.slot)

    def on_ready(self, incarnation: Incarnation) -> None:
        """A worker is ready: if it is the successor, its predecessor may go."""
        slot = incarnation.slot
        if incarnation is not slot.successor:
            return
        slot.successor = None
        predecessor, slot.current = slot.current, incarnation
        if predecessor is not None:
            slot.retired.append(predecessor)
            self._retire(predecessor)

    def on_exited(self, gone: Incarnation) -> None:
        """A process has ended: the turn is over if it was the predecessor, or its successor."""
        if gone is self._leaving:
            self._leaving = self._coming = None
        elif gone is self._coming and self._leaving is not None:
            log.error("worker %s stays, for its successor ended", self._leaving)
            self._leaving = self._coming = None
            self._waiting.clear()  # what one cannot do, the next ones would not either
