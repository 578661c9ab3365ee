"""When a worker counts as hung, and when it has grown so much that a new one must take its place.

Pure: what is known comes in, the verdict comes out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.config import Gateway
from coordinator.silence import TICK
from coordinator.workforce import Incarnation

YOUNG = 60.0  # seconds in which a worker is not replaced, however large it is: no endless renewal
LONG_SHORT = 300  # seconds short of memory, below the bound, from which on that will not pass
PATIENCE = 3600.0  # seconds after which one that holds too many names is replaced in any case


def is_hung(incarnation: Incarnation, hang_timeout: float) -> bool:
    """Whether a worker is to be killed; `hang_timeout` in seconds, 0: never.

    A worker that starts has a deadline of its own, one that stops is killed anyway.
    """
    return _is_watched(incarnation, hang_timeout) and incarnation.silence.is_hang(hang_timeout)


def is_spared(incarnation: Incarnation, hang_timeout: float) -> bool:
    """Whether one that is not hung has just been silent for so long: true once in a silence."""
    too_long = incarnation.silence.ticks == math.ceil(hang_timeout / TICK)
    return _is_watched(incarnation, hang_timeout) and too_long


def _is_watched(incarnation: Incarnation, hang_timeout: float) -> bool:
    watched = incarnation.state in ("running", "draining") or (
        incarnation.is_adopted and incarnation.state == "starting"
    )
    return watched and hang_timeout > 0


@dataclass(slots=True)
class Renewals:
    """When a worker has grown too much; one for each slot, whose workers follow one another.

    A stranger can send names, and a renewal moves everybody's sessions. So each one for names
    doubles the age that the next worker must reach first, until one has lived twice as long as it
    had to. `max_worker_rss` bounds what that costs.
    """

    least_age: float = 0.0
    """Seconds for which a worker may hold too many names; at least `YOUNG`, at most `PATIENCE`."""
    _doubled_for: str = ""

    def why_renew(self, worker: str, report: Mapping[str, Any], age: float, limits: Gateway) -> str:
        """Why a worker of `age` seconds must be replaced; "" if it need not be.

        A reason of names is counted once for each `worker`, its id.
        """
        if age < YOUNG:
            return ""
        rss, names = report.get("rss_bytes"), report.get("names")
        if limits.max_worker_rss and isinstance(rss, int) and rss > limits.max_worker_rss:
            return f"uses {rss} bytes of memory, gateway.max_worker_rss is {limits.max_worker_rss}"
        short = report.get("short_of_memory")
        if isinstance(short, int) and short > LONG_SHORT:
            return f"has let in no stranger for {short} s, for want of memory"
        if not limits.max_names or not isinstance(names, int) or names <= limits.max_names:
            return ""
        if worker != self._doubled_for:
            if age < self.least_age:
                return ""
            is_calm = age >= 2 * self.least_age
            self.least_age = min(PATIENCE, 2 * (YOUNG if is_calm else self.least_age))
            self._doubled_for = worker
        return f"holds {names} XML names, gateway.max_names is {limits.max_names}"
