from workers.gateway.patience import FIRST_RETRY, LAST_RETRY, SHORTEST_RETRY, Patience


def test_without_patience_the_first_failure_is_final() -> None:
    assert Patience(20.0, since=None).is_over(0.0)


def test_failures_are_endured_for_the_timeout() -> None:
    patience = Patience(20.0, since=100.0)
    assert not patience.is_over(120.0)
    assert patience.is_over(120.1)


def test_delays_double_up_to_a_limit() -> None:
    patience = Patience(20.0, since=0.0)
    delays = [patience.next_delay(1.0) for _ in range(8)]
    assert delays[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert delays[-1] == LAST_RETRY


def test_many_that_failed_together_come_back_over_the_whole_delay() -> None:
    assert Patience(20.0, since=0.0).next_delay(0.0) == SHORTEST_RETRY
    assert Patience(20.0, since=0.0).next_delay(0.5) == FIRST_RETRY / 2


def test_progress_starts_both_afresh() -> None:
    patience = Patience(20.0, since=0.0)
    patience.next_delay(1.0)
    patience.renew(100.0)
    assert not patience.is_over(119.0)
    assert patience.next_delay(1.0) == FIRST_RETRY


def test_without_anything_to_send_the_delay_grows_and_the_time_does_not_run() -> None:
    patience = Patience(20.0, since=0.0)
    patience.next_delay(1.0)
    patience.renew(100.0, keep_delay=True)
    assert not patience.is_over(119.0)
    assert patience.next_delay(1.0) == 2 * FIRST_RETRY


def test_a_session_without_progress_starts_the_time_once() -> None:
    patience = Patience(20.0, since=None)
    patience.begin(0.0)
    patience.begin(15.0)
    assert not patience.is_over(20.0)
    assert patience.is_over(21.0)


def test_the_first_session_ends_the_wait_for_it() -> None:
    patience = Patience(20.0, since=0.0)
    patience.reached()
    patience.begin(1000.0)
    assert not patience.is_over(1020.0)
    assert patience.is_over(1020.1)
