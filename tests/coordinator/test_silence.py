"""Who hangs and who only waits, by what can be seen from outside."""

from itertools import count

import pytest

from coordinator.processes import Share
from coordinator.silence import LENIENCE, Sign, Silence

HANG_TIMEOUT = 5.0


def share(at: int, *, ran: float = 0.0, waited: float = 0.0, wants: bool = False) -> Share:
    """After `at` ticks of which each had so much."""
    return Share(wants, ran * at, waited * at)


def ticks_until_hang(each_tick, heard_at: float = 1.0, counted=lambda at: b"") -> int:
    """How many silent ticks a worker gets."""
    silence = Silence()
    for at in count():
        silence.note(Sign(heard_at, counted(at), each_tick(at)))
        if silence.is_hang(HANG_TIMEOUT):
            return silence.ticks
    raise AssertionError


@pytest.mark.parametrize(
    ("what", "each_tick"),
    [
        ("stopped, or deadlocked", lambda at: share(at)),
        ("loops for ever", lambda at: share(at, ran=0.99, waited=0.01, wants=True)),
        ("loops for ever, seen between two slices", lambda at: share(at, ran=0.95, waited=0.05)),
        ("cannot be looked at", lambda at: None),
    ],
)
def test_one_that_hangs_gets_the_hang_timeout(what: str, each_tick):
    assert ticks_until_hang(each_tick) == HANG_TIMEOUT, what


@pytest.mark.parametrize(
    ("what", "each_tick", "ticks"),
    [
        ("a tenth of a CPU", lambda at: share(at, ran=0.1, waited=0.9, wants=True), 45),
        ("a tenth, seen asleep", lambda at: share(at, ran=0.1, waited=0.9), 45),
        ("half", lambda at: share(at, ran=0.5, waited=0.5, wants=True), 9),
        ("none at all", lambda at: share(at, wants=True), LENIENCE * HANG_TIMEOUT),
    ],
)
def test_one_without_a_cpu_gets_as_much_of_one(what: str, each_tick, ticks: int):
    assert ticks_until_hang(each_tick) == pytest.approx(ticks, abs=1), what


def test_a_long_wait_that_counts_when_it_is_over_is_nobodys_fault():
    waits = [share(0, wants=True)] * 10 + [Share(False, 0.01, 9.0)] * 3
    silence = Silence()
    for each in waits:
        silence.note(Sign(1.0, b"", each))
    assert silence.idle == pytest.approx(2.0)  # the ticks after it


def test_one_whose_ledger_moves_lives_but_must_report_in_the_end():
    def busy(at: int) -> Share:
        return share(at, ran=1.0, wants=True)

    assert ticks_until_hang(busy, counted=lambda at: b"%d" % at) == LENIENCE * HANG_TIMEOUT
    assert ticks_until_hang(busy, counted=lambda at: b"%d" % min(at, 7)) == 7 + HANG_TIMEOUT


def test_each_report_ends_the_silence():
    silence = Silence()
    seen = []
    for heard_at in (2.0, 2.0, 2.0, 5.0, 5.0, 4.0):  # clocks may be set back
        silence.note(Sign(heard_at, b"", None))
        seen.append((silence.ticks, silence.idle))
    assert seen == [(0, 0), (1, 1), (2, 2), (0, 0), (1, 1), (0, 0)]


def test_a_pause_of_the_machine_is_one_tick():
    """Clocks run on while nobody ticks: only ticks count."""
    silence = Silence()
    silence.note(Sign(100.0, b"", Share(True, 1.0, 0.0)))
    silence.note(Sign(100.0, b"", Share(True, 3601.0, 0.0)))
    assert (silence.ticks, silence.idle) == (1, 1.0)


def test_without_a_connection_silence_goes_on():
    silence = Silence()
    silence.note(Sign(2.0, b"", None))
    for _ in range(4):
        silence.note(Sign(0.0, b"", None))
    assert (silence.ticks, silence.idle) == (4, 4.0)
    silence.note(Sign(2.0, b"", None))
    assert silence.ticks == 5
