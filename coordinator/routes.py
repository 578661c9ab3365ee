"""Routes: which worker owns a domain pair. Rules only: `store.py` keeps them."""

from collections.abc import Collection
from typing import NamedTuple

from coordinator.config import Config

STATIC_EPOCH = 0
"""The epoch of a route taken while Redis was away: any epoch from Redis is newer."""


class DomainPair(NamedTuple):
    """A domain of our local server and a remote domain, both normalised A-labels."""

    local: str
    remote: str


class Route(NamedTuple):
    """The owner of a domain pair and its fencing number.

    `epoch` grows at each change of owner, also across the loss of all Redis data (it is taken from
    Redis' clock in microseconds, or is the predecessor's plus one, whichever is larger).
    """

    owner: str
    epoch: int


def may_take(route: Route | None, worker: str, live_workers: Collection[str]) -> bool:
    """Tell if `worker` may be the owner: nobody is, it already is, or the owner is gone."""
    return route is None or route.owner == worker or route.owner not in live_workers


def is_newer(route: Route, other: Route) -> bool:
    """Tell if `route` supersedes `other`; the older epoch drains when two owners meet."""
    return route.epoch > other.epoch


def gateway_of(worker: str) -> str:
    """The gateway part of a worker id `<gateway>/<slot>.<incarnation>`."""
    return worker.rpartition("/")[0]


def slot_of(worker: str) -> str:
    """The slot of a worker id: `w1` in `gw1/w1.19a2c`."""
    return worker.rpartition("/")[2].partition(".")[0]


def worker_id(config: Config, slot: str, started_at: float) -> str:
    """The id of a worker started at `started_at` (s, Unix time); no two incarnations share one."""
    return f"{config.gateway.name}/{slot}.{int(started_at * 1000):x}"
