"""What arrived: every number once, and when."""

import asyncio
import time
from array import array
from collections.abc import Iterable


class Tally:
    """Stanzas with the numbers 0 to `count` - 1 are expected; `now` is CLOCK_MONOTONIC."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.arrived = 0
        self.doubled = 0
        self.strange = 0
        """Numbers nobody expects."""
        self.times = array("d", bytes(8 * count))
        """When each arrived, 0: not yet."""
        self.completed = asyncio.Event()

    def add(self, numbers: Iterable[bytes]) -> None:
        """Count the numbers of one read."""
        now = time.monotonic()
        times, count = self.times, self.count
        fresh = 0
        for digits in numbers:
            number = int(digits)
            if number >= count:
                self.strange += 1
            elif times[number]:
                self.doubled += 1
            else:
                times[number] = now
                fresh += 1
        self.arrived += fresh
        if self.arrived == count:
            self.completed.set()
