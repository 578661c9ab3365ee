"""Which stanza makes the next server hang up? Pure: the hop tells what it has lost.

Sessions that end with nothing acknowledged, twice in a row, make the hop careful: what was under
way is sent one stanza at a time, so that only the culprit is bounced and the others are not sent
again with every attempt.
"""

from workers.gateway.outbox import Outbox
from workers.gateway.replies import Failed

# Sessions lost in vain until stanzas go one at a time, and then until the one is given up.
MAX_FRUITLESS = 2


class Isolation:
    """Looks after the losses of one hop."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._fruitless = 0
        self._until = 0

    @property
    def is_careful(self) -> bool:
        """Send one stanza and wait until it is acknowledged."""
        return self._outbox.acknowledged < self._until

    def session_lost(self, *, is_fruitful: bool) -> list[Failed]:
        """After `Outbox.take_back`; returns the culprit, to be bounced, if it is known now."""
        outbox = self._outbox
        suspects = outbox.uncertain
        if is_fruitful or not suspects:  # or lost before anything was sent
            self._fruitless = 0
            return []
        self._fruitless += 1
        if self._fruitless < MAX_FRUITLESS:
            return []
        self._fruitless = 0
        if self.is_careful:
            self._until -= 1
            return outbox.fail_one()
        self._until = outbox.acknowledged + suspects
        return []
