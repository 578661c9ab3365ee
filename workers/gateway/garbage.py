"""Looking for cyclic garbage without looking at everything that lives, each time.

Left to itself, Python goes through all objects of the oldest generation every 90,000 allocations
that nothing has freed again: some 320 objects per open session, so that with 2,000 sessions nothing
else goes on for half a second, every 20 to 30 seconds, to find what a few ended sessions have left.
So what has been looked at once is frozen, and later looks are at what is new. Reference counts free
what is frozen all the same, ended sessions with all their parts; only cycles stay, such as failures
are in with those they were told to. Once that may be much, all is looked at.
"""

import gc
import sys
from typing import Any

# All is looked at again when there are so many times the blocks of memory that the last such look
# has left, and at least so many more (about 16 MiB).
GROWTH = 1.25
LEAST_GROWTH = 200_000


class Garbage:
    """Freezes what lives, in this process, from `start` on."""

    def __init__(self) -> None:
        self._enough = 0
        """Blocks of memory with which all is looked at again."""
        self._is_thorough = False

    def start(self) -> None:
        """Look at everything once; afterwards rarely."""
        gc.callbacks.append(self._on_collection)
        gc.collect()

    def stop(self) -> None:
        """Leave it to Python again."""
        gc.callbacks.remove(self._on_collection)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._is_thorough = sys.getallocatedblocks() > self._enough
            if self._is_thorough:
                gc.unfreeze()
            return
        if self._is_thorough:
            blocks = sys.getallocatedblocks()
            self._enough = max(int(GROWTH * blocks), blocks + LEAST_GROWTH)
        gc.freeze()
