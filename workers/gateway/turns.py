"""TLS handshakes of strangers: a little in one turn of the loop, and time for all others between.

A handshake costs as much as a hundred stanzas, and whoever asks for it has proved nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

# Seconds of handshakes in a row, at least one step, and seconds until the next: a third of the
# worker's time at most, some 500 handshakes a second.
SLICE = 0.0005
PAUSE = 0.001


class Turns:
    """Runs what waits, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_running = False

    def wait(self, step: Callable[[], None]) -> None:
        """Do it when it has its turn."""
        self._waiting.append(step)
        if not self._is_running:
            self._is_running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        waiting = self._waiting
        if not waiting:
            self._is_running = False
            return
        end = time.perf_counter() + SLICE
        # First of all: a step that fails must not end all turns.
        asyncio.get_running_loop().call_later(PAUSE, self._run)
        while waiting:
            waiting.popleft()()
            if time.perf_counter() >= end:
                break
