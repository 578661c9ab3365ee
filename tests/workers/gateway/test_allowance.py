"""Token buckets: what is saved up, what is owed, and that coming again brings nothing new."""

import gc

import pytest

from coordinator.config import Limits
from workers.gateway.allowance import BURST, COMPANY, Allowance, Allowances, Bucket


def test_a_burst_is_free_and_then_the_rate_is_kept() -> None:
    bucket = Bucket(100.0)
    assert bucket.take(100 * BURST, 50.0) <= 0.0
    assert bucket.take(10, 50.0) == pytest.approx(0.1)
    assert bucket.take(10, 50.1) == pytest.approx(0.1)
    assert bucket.take(0, 60.0) <= 0.0


def test_what_is_not_there_is_not_given_on_credit() -> None:
    bucket = Bucket(1.0, burst=2.0)
    assert [bucket.take_if_left(1, 10.0) for _ in range(3)] == [True, True, False]
    assert bucket.take_if_left(1, 11.0)
    assert not bucket.take_if_left(1, 11.0)


def test_a_rate_of_zero_is_no_limit() -> None:
    allowance = Allowance(0, 0)
    assert not any(allowance.take(10**9, 10**6, 5.0) for _ in range(100))


def test_bytes_and_stanzas_are_limited_each_by_itself() -> None:
    assert Allowance(1000, 0).take(int(1000 * BURST) + 500, 1, 5.0) == pytest.approx(0.5)
    assert Allowance(0, 10).take(10**9, int(10 * BURST) + 5, 5.0) == pytest.approx(0.5)


def test_names_are_for_an_hour_and_who_brings_more_stays_away_for_a_minute_at_most() -> None:
    allowance = Allowance(0, 0, 3600)
    assert allowance.take_names(3600, 10.0)
    assert not allowance.take_names(20, 10.0)
    assert not allowance.take_names(0, 29.0)
    assert allowance.take_names(0, 31.0)
    # One user of an honest server may have sent them all.
    assert not allowance.take_names(100_000, 100.0)
    assert not allowance.take_names(0, 159.0)
    assert not allowance.is_full(159.0)
    assert allowance.take_names(0, 161.0)


def test_domains_of_one_owner_share_and_others_do_not() -> None:
    allowances = Allowances(Limits)
    one = allowances.of("chat.evil.example")
    assert allowances.of("rooms.evil.example") is one
    assert allowances.of("good.example") is not one


def test_who_comes_again_finds_what_it_has_used() -> None:
    allowances = Allowances(lambda: Limits(stanzas_per_second=10))
    allowances.of("evil.example").take(0, 1000, 100.0)
    allowances.each_second(101.0)
    gc.collect()
    assert allowances.of("evil.example").take(0, 0, 101.0) > 90.0


def test_what_a_session_has_used_is_remembered_when_it_ends() -> None:
    allowances = Allowances(lambda: Limits(stanzas_per_second=10))
    used = allowances.of("evil.example")
    allowances.each_second(100.0)  # nothing is to be remembered of it yet
    used.take(0, 1000, 100.0)
    used.remember()
    del used
    allowances.each_second(101.0)
    assert allowances.of("evil.example").take(0, 0, 101.0) > 90.0


def test_who_was_quiet_for_long_is_forgotten_unless_it_is_still_there() -> None:
    allowances = Allowances(Limits)
    held = allowances.of("held.example")
    allowances.of("gone.example").take(1, 1, 100.0)
    allowances.each_second(100.0 + 2 * BURST)
    gc.collect()
    assert list(allowances._all) == ["held.example"]
    assert allowances.of("held.example") is held


def test_new_limits_hold_at_once_for_who_is_busy() -> None:
    limits = Limits(stanzas_per_second=10, bytes_per_second=0, names_per_hour=0)
    allowances = Allowances(lambda: limits)
    busy = allowances.of("evil.example")
    assert busy.take(0, 20, 100.0) == pytest.approx(1.0)
    limits = Limits(stanzas_per_second=1, bytes_per_second=100, names_per_hour=3600)
    allowances.reload()
    # What was owed is owed as long as it was.
    assert busy.take(0, 1, 100.0) == pytest.approx(2.0)
    assert busy.take(500, 0, 100.0) == pytest.approx(4.0)
    assert not busy.take_names(5000, 100.0)


def test_an_owner_is_alone_when_no_other_has_sent_for_a_while() -> None:
    allowances = Allowances(Limits)
    flood, quiet = allowances.of("flood.example"), allowances.of("quiet.example")
    assert flood.is_alone(100.0) and flood.is_alone(100.1)
    assert not quiet.is_alone(100.2)
    assert not flood.is_alone(100.3)
    assert not flood.is_alone(100.3 + COMPANY)
    assert flood.is_alone(100.4 + COMPANY)
    assert allowances.of("www.flood.example").is_alone(100.4 + COMPANY)
    assert not quiet.is_alone(200.0)
