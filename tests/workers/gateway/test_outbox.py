"""The bookkeeping of responsibility, scene by scene."""

import pytest

from coordinator.accounts import (
    ACK_SM,
    ACK_STREAM_CLOSE,
    ACK_WEBSOCKET_PING,
    ACKNOWLEDGED,
    BOUNCED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
    REPLAYED,
    drop_index,
)
from tests.workers.gateway.hop_bench import settle_bounced
from tests.workers.gateway.outbox_scene import LARGE, Told, a_stanza, same, some
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.outbox import Outbox
from workers.gateway.replies import settle_dropped
from workers.xmpp.stanza import Stanza


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def test_an_acknowledgement_settles_from_the_front(told: Told, outbox: Outbox) -> None:
    outbox.push(told.origin.accept(some(3)))
    outbox.push(told.origin.accept(some(2)))
    assert [s.id for s in outbox.take(same)] == ["0", "1", "2", "0", "1"]
    outbox.acknowledge(4, ACK_SM)
    assert (told.handled, told.origin.in_flight, outbox.unacknowledged) == (4, 1, 1)
    assert told.counters[ACK_SM] == told.counters[ACKNOWLEDGED] == 4


def test_what_a_former_owner_left_goes_first_in_its_order(told: Told, outbox: Outbox) -> None:
    for word in ("sent", "waits"):
        outbox.push(told.origin.accept([a_stanza(word)]))
        if word == "sent":
            outbox.take(same)
    outbox.take_back()
    for word in ("old", "older than none"):
        batch = told.origin.accept([a_stanza(word)])
        batch.uncertain = True
        outbox.push_old(batch)
    assert [s.id for s in outbox.take(same)] == ["sent", "old", "older than none", "waits"]


def test_an_acknowledgement_of_more_than_was_sent_counts_what_was_sent(
    told: Told, outbox: Outbox
) -> None:
    outbox.push(told.origin.accept(some(2)))
    outbox.take(same)
    outbox.push(told.origin.accept(some(2)))
    outbox.acknowledge(100, ACK_SM)
    assert (told.handled, outbox.in_flight, bool(outbox)) == (2, 2, True)


def test_an_origin_is_told_in_its_own_order(told: Told) -> None:
    slow, fast = Outbox(), Outbox()
    slow.push(told.origin.accept(some(2)))
    fast.push(told.origin.accept(some(3)))
    slow.take(same)
    fast.take(same)
    fast.acknowledge(3, ACK_SM)
    assert told.handled == 0  # the two before them are still out
    slow.acknowledge(2, ACK_SM)
    assert told.handled == 5


def test_what_is_refused_from_the_middle_does_not_vouch_for_what_stands_before_it(
    told: Told, outbox: Outbox
) -> None:
    outbox.push(told.origin.accept([a_stanza("1"), a_stanza("2", large=True), a_stanza("3")]))
    for failed in outbox.remove_larger(LARGE):
        settle_bounced(failed)
    assert told.handled == 0
    outbox.take(same)
    outbox.acknowledge(1, ACK_SM)
    assert told.handled == 0
    outbox.acknowledge(1, ACK_SM)
    assert told.handled == 3
    assert (told.counters[BOUNCED], told.counters[ACKNOWLEDGED]) == (1, 2)


def test_requests_are_taken_back_to_be_bounced_and_the_rest_waits_first_in_line(
    told: Told, outbox: Outbox
) -> None:
    outbox.push(told.origin.accept([a_stanza("1"), a_stanza("2", request=True), a_stanza("3")]))
    outbox.push(told.origin.accept([a_stanza("4", request=True)]))
    outbox.take(same)
    outbox.push(told.origin.accept([a_stanza("5"), a_stanza("6", request=True)]))
    requests = outbox.take_back()
    assert [failed.stanza.id for failed in requests] == ["2", "4"]
    marked: list[bool] = []

    def mark(batch: Batch) -> list[Stanza]:
        marked.append(batch.uncertain)
        return batch.stanzas

    assert [s.id for s in outbox.take(mark)] == ["1", "3", "5", "6"]
    assert marked == [True]
    assert told.counters[REPLAYED] == 2


def test_a_lost_origin_is_told_nothing_and_its_stanzas_become_ours(
    told: Told, outbox: Outbox
) -> None:
    told.origin.resendable = True
    outbox.push(told.origin.accept(some(3)))
    outbox.take(same)
    assert told.counters[IN_FLIGHT_RESENDABLE] == 3
    assert told.origin.count() == (0, 3)
    told.origin.lose()
    assert (told.counters[IN_FLIGHT_RESENDABLE], told.counters[IN_FLIGHT_OURS]) == (0, 3)
    assert told.origin.count() == (3, 0)
    outbox.acknowledge(3, ACK_SM)
    assert (told.handled, told.in_flight()) == (0, 0)


def test_barriers_cover_what_was_sent_before_them(told: Told, outbox: Outbox) -> None:
    outbox.push(told.origin.accept(some(2)))
    outbox.take(same)
    outbox.mark("one", 10.0)
    outbox.push(told.origin.accept(some(3)))
    outbox.take(same)
    assert outbox.unmarked == 3
    assert outbox.is_overdue(21.0, 10.0) and not outbox.is_overdue(20.0, 10.0)
    assert not outbox.pass_barrier("forged", ACK_WEBSOCKET_PING)
    assert outbox.pass_barrier("one", ACK_WEBSOCKET_PING)
    assert (told.handled, outbox.unacknowledged, outbox.barrier_pending) == (2, 3, False)
    assert not outbox.pass_barrier("one", ACK_WEBSOCKET_PING)


def test_a_later_barrier_passes_the_earlier_ones(told: Told, outbox: Outbox) -> None:
    for token in ("one", "two"):
        outbox.push(told.origin.accept(some(2)))
        outbox.take(same)
        outbox.mark(token, 0.0)
    assert outbox.pass_barrier("two", ACK_WEBSOCKET_PING)
    assert told.handled == told.counters[ACK_WEBSOCKET_PING] == 4


def test_the_end_of_the_stream_acknowledges_everything_sent(told: Told, outbox: Outbox) -> None:
    outbox.push(told.origin.accept(some(2)))
    outbox.take(same)
    outbox.mark("one", 0.0)
    outbox.push(told.origin.accept(some(1)))
    outbox.acknowledge_all(ACK_STREAM_CLOSE)
    assert (told.handled, outbox.in_flight, outbox.has_waiting) == (2, 1, True)
    assert not outbox.barrier_pending


def test_each_outcome_has_its_counter(told: Told, outbox: Outbox) -> None:
    outbox.push(told.origin.accept(some(3)))
    one, two, three = outbox.fail_all()
    settle_bounced(one)
    settle_dropped(two, "type-error")
    settle_bounced(three)
    assert [told.counters[at] for at in (BOUNCED, drop_index("type-error"))] == [2, 1]
    assert (told.handled, told.in_flight(), bool(outbox)) == (3, 0, False)


def test_our_own_bounces_have_no_origin_and_are_counted_nowhere(outbox: Outbox) -> None:
    outbox.push(Batch(some(2), 2))
    outbox.push(Batch(some(1), 1))
    outbox.take(same)
    outbox.acknowledge(2, ACK_SM)
    outbox.take_back()
    for failed in outbox.fail_all():
        settle_bounced(failed)
    assert not outbox


def test_a_piece_is_taken_at_a_time_and_the_bytes_add_up() -> None:
    outbox = Outbox()
    for start in range(5):
        outbox.push(Batch([a_stanza(str(start * 2)), a_stanza(str(start * 2 + 1))], 2))
    whole = outbox.waiting_bytes
    batch = whole // 5
    taken = [s.id for s in outbox.take(same, batch + 1)]
    assert taken == ["0", "1", "2", "3"]
    assert (outbox.waiting_bytes, outbox.unacknowledged_bytes) == (3 * batch, 2 * batch)
    assert len(outbox.take(same, batch)) == 2
    assert (outbox.unacknowledged, outbox.unmarked) == (6, 6)
    assert [s.id for s in outbox.take(same, whole)] == ["6", "7", "8", "9"]
    assert (outbox.waiting_bytes, outbox.unacknowledged_bytes) == (0, whole)


def test_bytes_add_up_whether_some_or_all_is_acknowledged() -> None:
    counters = memoryview(bytearray(32 * 8)).cast("Q")
    outbox = Outbox()

    def send(count: int) -> None:
        batch = origin.accept([a_stanza("1", large=True) for _ in range(count)])
        outbox.push_sent(batch, count * (LARGE + 1))

    origin = Origin(counters, lambda count: None)
    send(3)
    send(2)
    outbox.acknowledge(4, ACK_SM)
    assert outbox.unacknowledged_bytes == LARGE + 1
    origin = Origin(counters, lambda count: send(2))  # sends more as it hears of it
    send(1)
    outbox.acknowledge(2, ACK_SM)
    assert (outbox.unacknowledged, outbox.unacknowledged_bytes) == (2, 2 * (LARGE + 1))
