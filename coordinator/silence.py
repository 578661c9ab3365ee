"""How long a worker has given no sign of life though it could have.

A worker reports once a tick. One that does not may hang: it loops, waits for what never comes, or
was stopped. Or the machine has no CPU for it, or its loop has very much to do in one turn: killing
it would make that worse, for its successor has all sessions to open anew. So a tick counts only as
far as the worker had a CPU, or wanted none, and only while its ledger stands still.

Pure: what can be seen comes in, the verdict comes out.
"""

from dataclasses import dataclass
from typing import NamedTuple

from coordinator.processes import Share

TICK = 1.0  # seconds between two looks; a worker reports as often
LENIENCE = 12  # hang timeouts after which a silent worker is killed, whatever it does


class Sign(NamedTuple):
    """What can be seen of a worker from outside."""

    heard_at: float
    """When it connected or reported last; 0: it is not connected."""
    counted: bytes
    """Its ledger."""
    share: Share | None
    """Of the CPUs, if known."""


@dataclass(slots=True)
class Silence:
    """The silence of one worker; `note` a sign in each tick.

    Ticks are counted, not measured: while the whole machine is paused nobody ticks, so nobody is
    killed for it afterwards.
    """

    ticks: int = 0
    """Since it was heard last."""
    idle: float = 0.0
    """Seconds since the last sign of life in which it could have given one."""
    _heard_at: float = 0.0
    _last: Sign | None = None

    def note(self, sign: Sign) -> None:
        """One more tick is over."""
        last, self._last = self._last, sign
        if sign.heard_at and sign.heard_at != self._heard_at:
            self._heard_at = sign.heard_at
            self.ticks, self.idle = 0, 0.0
            return
        self.ticks += 1
        if last is not None and sign.counted != last.counted:
            self.idle = 0.0
        else:
            self.idle += _own_time(last and last.share, sign.share)

    def is_hang(self, hang_timeout: float) -> bool:
        """Whether it has lasted for `hang_timeout` seconds of its own, or far longer in all."""
        return self.idle + TICK / 2 >= hang_timeout or self.ticks * TICK >= LENIENCE * hang_timeout


def _own_time(before: Share | None, now: Share | None) -> float:
    """Seconds of a tick that a process had for itself, used or not."""
    if before is None or now is None:
        return TICK
    if now.wants:
        return min(TICK, now.ran - before.ran)  # a wait that goes on is not counted yet
    return max(0.0, TICK - (now.waited - before.waited))
