"""Outcomes as locust's tables want them: one event each, or in bulk when they are too many."""

import time
from collections import defaultdict, deque
from typing import Any

from locust.stats import StatsEntry, bucket_response_time

from loadtest.load.fleet import ATTACK, Outcome

# Events per second beyond which they go into the tables without being fired one by one: locust
# alone fires some hundred thousand per second of CPU, and listeners take as long as they take.
SINGLY = 20_000

_KINDS = {
    "connect": "session",
    "reconnect": "session",
    "resume": "session",
    "iq ping": "iq",
    "presence": "presence",
    "join": "presence",
    "leave": "presence",
}


class StanzaFailed(Exception):
    """Shown in locust's table of failures by its text."""

    def __repr__(self) -> str:
        return str(self)


def fire(environment: Any, kind: str, name: str, seconds: float | None, error: str) -> None:
    """One request event; without `seconds` it counts with the time 0."""
    environment.events.request.fire(
        request_type=kind,
        name=name,
        response_time=(seconds or 0.0) * 1000,
        response_length=0,
        exception=StanzaFailed(error) if error else None,
        context={},
    )


def flush(environment: Any, outcomes: deque[Outcome], interval: float) -> None:
    """Take all that is there; other threads may add meanwhile."""
    count = len(outcomes)
    taken = [outcomes.popleft() for _ in range(count)]
    if count <= SINGLY * interval:
        for each in taken:
            fire(environment, kind_of(each.name), each.name, each.seconds, each.error)
        return
    delivered: defaultdict[str, list[float]] = defaultdict(list)
    for each in taken:
        if each.error:
            fire(environment, kind_of(each.name), each.name, each.seconds, each.error)
        else:
            delivered[each.name].append((each.seconds or 0.0) * 1000)
    for name, latencies in delivered.items():
        _extend(environment.stats, kind_of(name), name, latencies)


def kind_of(name: str) -> str:
    """What locust shows as the type."""
    return "attack" if name.startswith(ATTACK) else _KINDS.get(name, "message")


def _extend(stats: Any, kind: str, name: str, latencies: list[float]) -> None:
    entry = StatsEntry(None, name, kind)
    entry.num_requests = len(latencies)
    entry.total_response_time = sum(latencies)
    entry.min_response_time, entry.max_response_time = min(latencies), max(latencies)
    for latency in latencies:
        entry.response_times[bucket_response_time(latency)] += 1
    now = time.time()
    entry.last_request_timestamp = now
    entry.num_reqs_per_sec[int(now)] = len(latencies)
    stats.entries[(name, kind)].extend(entry)
    stats.total.extend(entry)
