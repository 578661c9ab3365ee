"""Ends a session when the certificate that proves its peer lapses (RFC 6120 §13.7.2.3).

Certificates last for weeks: a timer for each session would take 0.8 KiB for nothing. So `Idleness`
has a look at each session now and then, and a timer runs only when the end is near.
"""

import asyncio
import time
from weakref import ref

from workers.gateway.session import Session

SOON = 60.0
"""Seconds: more than pass between two looks."""
REASON = "the certificate of the peer has expired"


def end_by(session: Session, not_after: float) -> None:
    """Let the session go on no longer than until this POSIX time; the earliest one counts."""
    session.proved_until = min(session.proved_until, not_after)
    end_in_time(session)


def end_in_time(session: Session) -> None:
    """End the session if its time is over, or as soon as it is."""
    if session.ended:
        return
    left = session.proved_until - time.time()
    if left <= 0:
        session.reason = session.reason or REASON
        session.stream.lapse()
        session.pump()
    elif left < SOON:
        # Whoever sets the clock meanwhile is noticed by the next look. Several timers do no harm.
        asyncio.get_running_loop().call_later(left, _look_again, ref(session))


def _look_again(session: ref[Session]) -> None:
    if (found := session()) is not None:
        end_in_time(found)
