from dataclasses import replace

import pytest

from coordinator.config import Gateway
from coordinator.health import LONG_SHORT, PATIENCE, YOUNG, Renewals, is_hung, is_spared
from coordinator.processes import ProcessName, Share
from coordinator.silence import Sign
from coordinator.workforce import Incarnation, Slot, State


def incarnation(state: State = "running", *, is_adopted: bool = False) -> Incarnation:
    return Incarnation(Slot("w1"), ProcessName(1, 1), state, is_adopted=is_adopted)


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
    for _ in range(12):
        worker.silence.note(Sign(1.0, b"", None))
    assert is_hung(worker, 11.0) == verdict and not is_hung(worker, 12.0) and not is_hung(worker, 0)


def test_one_that_gets_no_cpu_is_spared_and_that_is_said_once():
    worker = incarnation()
    said = []
    for tick in range(20):
        worker.silence.note(Sign(1.0, b"", Share(wants=True, ran=0.1 * tick, waited=0.0)))
        assert not is_hung(worker, 2.5)
        said.append(is_spared(worker, 2.5))
    assert said.count(True) == 1 and said[3] and not is_spared(worker, 0)


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
    unlimited = replace(LIMITS, max_worker_rss=0, max_names=0)
    assert Renewals().why_renew("w", report, age, unlimited) == ""
    said = Renewals().why_renew("w", report, age, LIMITS)
    assert said.startswith(reason) and bool(said) == bool(reason)


NAMES = {"rss_bytes": 1, "names": 101}


def least_age(renewals: Renewals, worker: str) -> int:
    """The age in seconds at which a worker that always holds too many names is replaced."""
    return next(age for age in range(8000) if renewals.why_renew(worker, NAMES, age, LIMITS))


def test_a_worker_that_stays_short_of_memory_is_replaced_before_it_reaches_the_bound():
    report = {"rss_bytes": 900, "names": 1, "short_of_memory": LONG_SHORT}
    assert Renewals().why_renew("w", report, YOUNG, LIMITS) == ""
    report["short_of_memory"] += 1
    assert Renewals().why_renew("w", report, YOUNG, LIMITS).startswith("has let in no stranger")


def test_each_renewal_for_names_doubles_the_age_of_the_next():
    renewals = Renewals()
    ages = [least_age(renewals, f"w{n}") for n in range(9)]
    assert ages == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert ages[-1] == PATIENCE
    # Memory has to be bounded all the same.
    assert renewals.why_renew("w9", {"rss_bytes": 1001, "names": 101}, YOUNG, LIMITS)


def test_a_renewal_that_takes_its_time_is_one():
    renewals = Renewals()
    for age in range(60, 1000):
        assert renewals.why_renew("w1", NAMES, age, LIMITS)
    assert least_age(renewals, "w2") == 120


def test_after_a_calm_time_the_age_is_small_again():
    renewals = Renewals()
    assert [least_age(renewals, worker) for worker in "abcd"] == [60, 120, 240, 480]
    assert renewals.why_renew("e", NAMES, 1920, LIMITS)
    assert [least_age(renewals, worker) for worker in "fg"] == [120, 240]
