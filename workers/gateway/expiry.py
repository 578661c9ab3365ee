"""Ends a session when the certificate that proves its peer lapses (RFC 6120 §13.7.2.3)."""

import asyncio
import math
import time

from workers.gateway.session import Session

# How often, in seconds, it is looked at the clock, which may be set.
INTERVAL = 600.0
REASON = "the certificate of the peer has expired"


class Expiry:
    """Watches over one session, at no cost while nothing is to be watched."""

    __slots__ = ("_not_after", "_timer", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self._not_after = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def end_by(self, not_after: float) -> None:
        """Let the session go on no longer than until this POSIX time; the earliest one counts."""
        session = self.session
        if session.ended:
            return
        if self._timer is None:
            session.closed_future.add_done_callback(self._cancel)
        self._not_after = min(self._not_after, not_after)
        self._cancel(None)
        self._look()

    def _look(self) -> None:
        left = self._not_after - time.time()
        if left > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(left, INTERVAL), self._look)
            return
        session = self.session
        session.reason = session.reason or REASON
        session.stream.lapse()
        session.pump()

    def _cancel(self, _ended: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
