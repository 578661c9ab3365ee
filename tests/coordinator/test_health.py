from dataclasses import replace

import pytest

from coordinator.config import Gateway
from coordinator.health import YOUNG, is_hung, silent_ticks, why_renew
from coordinator.processes import ProcessName
from coordinator.reception import Link
from coordinator.workforce import Incarnation, Slot, State


def incarnation(state: State = "running", *, is_adopted: bool = False) -> Incarnation:
    return Incarnation(Slot("w1"), ProcessName(1, 1), state, is_adopted=is_adopted)


def link(reported_at: float) -> Link:
    return Link("gw/w1.a", 1, None, 1.0, {}, reported_at)  # type: ignore[arg-type]


def test_each_report_ends_the_silence():
    worker = incarnation()
    counts = []
    for reported_at in (2.0, 2.0, 2.0, 5.0, 5.0):
        worker.silent_ticks = silent_ticks(worker, link(reported_at))
        counts.append(worker.silent_ticks)
    assert counts == [0, 1, 2, 0, 1]


def test_a_pause_of_the_machine_is_one_tick():
    """Clocks run on while nobody ticks: only ticks count."""
    worker = incarnation()
    worker.silent_ticks = silent_ticks(worker, link(100.0))
    worker.silent_ticks = silent_ticks(worker, link(100.0))  # an hour later
    assert worker.silent_ticks == 1


def test_without_a_connection_silence_goes_on():
    worker = incarnation()
    worker.silent_ticks = silent_ticks(worker, link(2.0))
    for _ in range(10):
        worker.silent_ticks = silent_ticks(worker, None)
    assert worker.silent_ticks == 10
    assert is_hung(worker, 10.0) and not is_hung(worker, 11.0) and not is_hung(worker, 0)


@pytest.mark.parametrize(
    ("state", "is_adopted", "verdict"),
    [
        ("starting", False, False),  # has a deadline of its own
        ("starting", True, True),
        ("running", False, True),
        ("draining", False, True),
        ("stopping", False, False),  # is killed anyway
    ],
)
def test_who_is_watched(state: State, is_adopted: bool, verdict: bool):
    worker = incarnation(state, is_adopted=is_adopted)
    worker.silent_ticks = 60
    assert is_hung(worker, 10.0) == verdict


LIMITS = replace(Gateway(), max_worker_rss=1000, max_names=100)


@pytest.mark.parametrize(
    ("report", "age", "reason"),
    [
        ({"rss_bytes": 1000, "names": 100}, YOUNG, ""),
        ({"rss_bytes": 1001}, YOUNG, "uses 1001 bytes of memory"),
        ({"rss_bytes": 1001}, YOUNG - 1, ""),
        ({"rss_bytes": 1, "names": 101}, YOUNG, "holds 101 XML names"),
        ({"rss_bytes": 1, "names": None}, YOUNG, ""),
        ({"rss_bytes": "many"}, YOUNG, ""),
    ],
)
def test_who_has_grown_too_much(report, age: float, reason: str):
    assert why_renew(report, age, LIMITS).startswith(reason)
    assert bool(why_renew(report, age, LIMITS)) == bool(reason)
    assert why_renew(report, age, replace(LIMITS, max_worker_rss=0, max_names=0)) == ""
