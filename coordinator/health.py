"""When a worker counts as hung, and when it has grown so much that a new one must take its place.

Pure: what is known comes in, the verdict comes out.
"""

from collections.abc import Mapping
from typing import Any

from coordinator.config import Gateway
from coordinator.reception import Link
from coordinator.workforce import Incarnation

TICK = 1.0  # seconds between two looks; a worker reports as often
YOUNG = 60.0  # seconds in which a worker is not replaced, however large it is: no endless renewal


def silent_ticks(incarnation: Incarnation, link: Link | None) -> int:
    """Ticks since the last news of a worker, this one included; call it once per tick.

    They are counted, not measured: while the whole machine is paused nobody ticks, so nobody is
    killed for it afterwards.
    """
    heard_at = max(link.reported_at, link.connected_at) if link else incarnation.heard_at
    if heard_at != incarnation.heard_at:
        incarnation.heard_at = heard_at
        return 0
    return incarnation.silent_ticks + 1


def is_hung(incarnation: Incarnation, hang_timeout: float) -> bool:
    """Whether a worker is to be killed; `hang_timeout` in seconds, 0: never.

    A worker that starts has a deadline of its own, one that stops is killed anyway.
    """
    watched = incarnation.state in ("running", "draining") or (
        incarnation.is_adopted and incarnation.state == "starting"
    )
    return watched and hang_timeout > 0 and incarnation.silent_ticks * TICK >= hang_timeout


def why_renew(report: Mapping[str, Any], age: float, limits: Gateway) -> str:
    """Why a worker of `age` seconds must be replaced; "" if it need not be."""
    if age < YOUNG:
        return ""
    rss, names = report.get("rss_bytes"), report.get("names")
    if limits.max_worker_rss and isinstance(rss, int) and rss > limits.max_worker_rss:
        return f"uses {rss} bytes of memory, gateway.max_worker_rss is {limits.max_worker_rss}"
    if limits.max_names and isinstance(names, int) and names > limits.max_names:
        return f"holds {names} XML names, gateway.max_names is {limits.max_names}"
    return ""
