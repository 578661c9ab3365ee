"""Routes: which worker owns a domain pair. Rules only: `store.py` keeps them.

`decide` says what a worker does with a stream of the pair that it has before it; `reconcile` what
an owner does when it meets Redis again. Both see only what they are given: the simulation and the
workers run the same rules.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from coordinator.address import parse_address
from coordinator.config import Config

STATIC_EPOCH = 0
"""The epoch of a route taken while Redis was away: any epoch from Redis is newer."""
MAX_PASSES = 3
"""How often a stream may change hands on one machine before it waits where it is."""

RUNNING = "running"
DRAINING = "draining"


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


class WorkerInfo(NamedTuple):
    """What a live worker says of itself with its heartbeat."""

    state: str = RUNNING
    local: str = ""
    """`host:port` where other machines reach its gateway's local port; "" if they cannot."""


Workers = Mapping[str, WorkerInfo]
"""The live workers, the one that decides among them."""


# What to do with a stream.


class Serve(NamedTuple):
    """The pair is ours: read the stream here."""

    route: Route


class Take(NamedTuple):
    """Own the pair by compare-and-set of what was seen; None: it had no route."""

    replacing: Route | None


class Wait(NamedTuple):
    """The owner has to let go first: look again shortly, and in the end take the pair."""

    route: Route


class ServeBeside(NamedTuple):
    """Read the stream here, but leave the route to its owner, who may have a session, too."""

    route: Route


class HandTo(NamedTuple):
    """Pass the socket to this worker of our machine."""

    worker: str


class SpliceTo(NamedTuple):
    """Connect to this worker's machine and pass the bytes through."""

    worker: str
    address: str


class Lost(NamedTuple):
    """Another owner is newer: drain what we have of the pair."""

    route: Route


Decision = Serve | Take | Wait | ServeBeside | HandTo | SpliceTo


def decide(
    route: Route | None,
    me: str,
    workers: Workers,
    *,
    heir: str,
    passed: int = 0,
    from_gateway: bool = False,
) -> Decision:
    """What `me` does with a stream of a pair whose route is `route`.

    `heir` is who should own the pair as placement has it. `passed` counts how often the stream
    changed hands on this machine; one that came from another machine (`from_gateway`) never leaves
    this one again. Anybody at the local port can say that a stream came so: it never takes the pair
    from an owner that is well. Machines that cannot all reach each other serve it twice.
    """
    owner = route.owner if route is not None and route.owner in workers else None
    if route is None or owner is None:
        # Who was passed the stream is believed to be the heir: views that differ must not play on.
        if passed and workers[me].state == RUNNING:
            return Take(route)
        return _pass(heir, me, workers, passed, from_gateway) or Take(route)
    if owner == me:
        if workers[me].state == RUNNING:
            return Serve(route)
        return _pass(heir, me, workers, passed, from_gateway) or Serve(route)
    if workers[owner].state == RUNNING:
        way = _pass(owner, me, workers, passed, from_gateway)
        return way or (ServeBeside(route) if from_gateway else Wait(route))
    if passed and workers[me].state == RUNNING:
        return Wait(route)
    return _pass(heir, me, workers, passed, from_gateway) or Wait(route)


def _pass(
    to: str, me: str, workers: Workers, passed: int, from_gateway: bool
) -> HandTo | SpliceTo | None:
    """The way to another worker; None if there is none or it is us."""
    if to == me or to not in workers:
        return None
    if gateway_of(to) == gateway_of(me):
        return HandTo(to) if passed < MAX_PASSES else None
    address = workers[to].local
    return SpliceTo(to, address) if address and not from_gateway else None


def reconcile(
    ours: Route, found: Route | None, me: str, live: Collection[str]
) -> Serve | Take | Lost:
    """What the owner of a pair does when Redis says `found`: on contact the older epoch drains."""
    if found is None:
        return Take(None)
    if found.owner == me:
        return Serve(found)
    if found.owner not in live or is_newer(ours, found):
        return Take(found)
    return Lost(found)


def is_newer(route: Route, other: Route) -> bool:
    """Tell if `route` supersedes `other`; the older epoch drains when two owners meet."""
    return route.epoch > other.epoch


def worker_info(shown: Mapping[str, Any]) -> WorkerInfo:
    """What a heartbeat from Redis says, as far as it is well formed."""
    state, local = shown.get("state"), shown.get("local")
    if not isinstance(local, str) or not _is_reachable(local):
        local = ""
    return WorkerInfo(DRAINING if state == DRAINING else RUNNING, local)


def _is_reachable(text: str) -> bool:
    try:
        address = parse_address(text)
    except ValueError:
        return False
    return not address.is_wildcard and 0 < address.port < 65536


def gateway_of(worker: str) -> str:
    """The gateway part of a worker id `<gateway>/<slot>.<incarnation>`."""
    return worker.rpartition("/")[0]


def slot_of(worker: str) -> str:
    """The slot of a worker id: `w1` in `gw1/w1.19a2c`."""
    return worker.rpartition("/")[2].partition(".")[0]


def worker_id(config: Config, slot: str, started_at: float) -> str:
    """The id of a worker started at `started_at` (s, Unix time); no two incarnations share one."""
    return f"{config.gateway.name}/{slot}.{int(started_at * 1000):x}"
