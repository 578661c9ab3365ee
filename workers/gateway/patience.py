"""When a hop that has lost its next server tries again, and when it gives up. Pure: time comes in.

A session that was lost before anything was acknowledged counts as a failure, too: a stanza that
makes the next server cut each connection must not be sent again and again for ever.
"""

FIRST_RETRY = 0.25
SHORTEST_RETRY = 0.01
LAST_RETRY = 5.0


class Patience:
    """The time since which nothing got through. Times and delays in seconds."""

    def __init__(self, timeout: float, *, since: float | None) -> None:
        """`since` None: the very first failure is final."""
        self._timeout = timeout
        self._since = since
        self._delay = FIRST_RETRY

    def begin(self, now: float) -> None:
        """A session has ended with something unacknowledged: from now on failures are endured."""
        if self._since is None:
            self._since = now

    def reached(self) -> None:
        """The first session is up: however long that took, its loss is what counts next."""
        self._since = None
        self._delay = FIRST_RETRY

    def renew(self, now: float, *, keep_delay: bool = False) -> None:
        """Something got through, or there was nothing to send: start afresh.

        `keep_delay`: the next server cuts sessions that are hardly there, so not with the delay.
        """
        self._since = now
        if not keep_delay:
            self._delay = FIRST_RETRY

    def is_over(self, now: float) -> bool:
        """Give up, if the next server has just failed again."""
        return self._since is None or now - self._since > self._timeout

    def next_delay(self, share: float) -> float:
        """How long to wait before the next attempt; `share` in 0..1 spreads many hops.

        Over the whole delay (full jitter): who failed at the same moment must not come back so.
        """
        delay = max(self._delay * share, SHORTEST_RETRY)
        self._delay = min(self._delay * 2, LAST_RETRY)
        return delay
