"""Counting as XEP-0198 §4 does, also over the end of the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.xmpp.management import MODULO, HandledCountTooHigh, Received, Sent


def test_each_acknowledgement_tells_what_it_newly_covers() -> None:
    sent = Sent()
    sent.total = 5
    assert [sent.acknowledge(h) for h in (0, 2, 2, 5)] == [0, 2, 0, 3]
    assert sent.outstanding == 0


@pytest.mark.parametrize(("acknowledged", "h"), [(3, 6), (3, 2), (0, MODULO - 1)])
def test_too_high_and_backwards_are_the_same_fault(acknowledged, h) -> None:
    sent = Sent()
    sent.total, sent.acknowledged = 5, acknowledged
    with pytest.raises(HandledCountTooHigh) as caught:
        sent.acknowledge(h)
    assert (caught.value.h, caught.value.send_count) == (h, 5)
    assert sent.acknowledged == acknowledged


@given(
    start=st.integers(0, 3 * MODULO),
    batches=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=20),
)
def test_both_sides_agree_wherever_the_count_stands(start, batches) -> None:
    sent, received = Sent(), Received()
    received.enabled = True
    sent.total = sent.acknowledged = start
    received.total = received.handled = start
    for count, handled in batches:
        sent.total += count
        received.receive(count)
        received.mark_handled(min(handled, received.pending))
        before = sent.outstanding
        covered = sent.acknowledge(received.answer())
        assert before - covered == sent.outstanding == received.pending


def test_a_request_is_due_once_after_something_was_sent() -> None:
    sent = Sent()
    sent.total = 1
    assert not sent.should_request()
    sent.enabled = True
    assert sent.should_request()
    sent.requested()
    assert not sent.should_request()


def test_what_came_before_enable_is_handled_first_and_not_counted() -> None:
    received = Received()
    received.receive(3)
    received.enabled = True
    received.receive(2)
    received.mark_handled(2)
    assert (received.h, received.pending, received.has_news()) == (0, 3, False)
    received.mark_handled(2)
    assert (received.h, received.pending, received.has_news()) == (1, 1, True)
    assert received.answer() == 1
    assert not received.has_news()
