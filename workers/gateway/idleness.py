"""Sessions on which nothing goes on give up what only traffic needs: up to 100 KiB each.

They are looked at one after the other, some in each second; for that their certificates lapse, too.
"""

from collections.abc import Callable, Iterable
from weakref import ref

from workers.gateway import expiry
from workers.gateway.session import Session

ROUND = 15
"""Seconds in which each session is looked at once. The second look without traffic shrinks it."""


class Idleness:
    """Looks after the sessions that `sessions` names at the beginning of each round."""

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self._sessions = sessions
        # What has ended meanwhile must not be held until its turn.
        self._left: list[ref[Session]] = []
        self._share = 0

    def each_second(self) -> None:
        """Look at the next of them."""
        if not self._left:
            self._left = [ref(session) for session in self._sessions()]
            self._share = -(-len(self._left) // ROUND)
        for _ in range(min(self._share, len(self._left))):
            session = self._left.pop()()
            if session is not None and not session.ended:
                session.shrink_if_idle()
                expiry.end_in_time(session)
