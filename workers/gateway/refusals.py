"""What strangers and peers were refused: counted by reason, and told in the log now and then."""

import logging
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)

# Seconds between two lines of one reason: who is attacked must not be flooded by the log, too.
LINE_INTERVAL = 10.0


class Refusals:
    """The counters of one worker. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        """By reason, since the worker's start."""
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._told: Counter[str] = Counter()

    def note(self, reason: str, who: str, text: str) -> None:
        """Count one. `who` was it, an address or a domain; `text` says what was done."""
        self.counts[reason] += 1
        now = self._clock()
        if now - self._told_at.get(reason, -LINE_INTERVAL) < LINE_INTERVAL:
            return
        self._told_at[reason] = now
        more = self.counts[reason] - self._told[reason] - 1
        self._told[reason] = self.counts[reason]
        since = f", and {more} others since the last line" if more else ""
        log.warning("%s: %s (%s)%s", who[:256], text, reason, since)
