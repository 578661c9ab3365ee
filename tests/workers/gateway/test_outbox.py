"""The bookkeeping of responsibility, as scenes and as a random walk against a simple model."""

from collections import deque

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.accounts import (
    ACCEPTED,
    ACK_SM,
    ACK_STREAM_CLOSE,
    ACK_WEBSOCKET_PING,
    ACKNOWLEDGED,
    BOUNCED,
    DROPPED,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
    REPLAYED,
    drop_index,
)
from coordinator.journal import Record
from tests.workers.gateway.hop_bench import settle_bounced
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.outbox import Outbox
from workers.gateway.replies import Failed, settle_dropped
from workers.xmpp.stanza import Stanza

LARGE = 100


def a_stanza(id: str, *, request: bool = False, large: bool = False) -> Stanza:
    name, type = ("iq", "get") if request else ("message", None)
    size = LARGE + 1 if large else 10
    return Stanza(
        name,
        id.ljust(size).encode(),
        "a@a.example",
        "b@b.example",
        id,
        type,
        "a.example",
        "b.example",
    )


def some(count: int) -> list[Stanza]:
    return [a_stanza(str(at)) for at in range(count)]


def same(batch: Batch) -> list[Stanza]:
    return batch.stanzas


class Journal:
    """Keeps what it is asked to keep when the test says so."""

    available = True

    def __init__(self) -> None:
        self.asked: list[Record] = []
        self.completed: set[Record] = set()

    def add(self, record: Record) -> None:
        self.asked.append(record)

    def complete(self, record: Record) -> None:
        assert record not in self.completed
        self.completed.add(record)

    def complete_later(self, record: Record) -> None:
        self.complete(record)

    def each_second(self) -> None: ...

    def keep(self, count: int) -> list[str]:
        """Returns the ids of the stanzas that are kept now."""
        kept, self.asked = self.asked[:count], self.asked[count:]
        ids: list[str] = []
        for record in kept:
            if record not in self.completed:
                ids += [
                    data.decode().strip() for data in msgspec.msgpack.decode(record.encode()[2])
                ]
                report = record.on_kept(True)
                assert report is not None
                report()
        return ids


class Told:
    """An origin, its counters, and how much it was told to be handled."""

    def __init__(self) -> None:
        self.counters = memoryview(bytearray(32 * 8)).cast("Q")
        self.handled = 0
        self.journal = Journal()
        self.origin = Origin(self.counters, self._on_handled, journal=self.journal)

    def _on_handled(self, count: int) -> None:
        self.handled += count

    def ends(self) -> int:
        dropped = sum(self.counters[DROPPED : DROPPED + 16].tolist())
        return sum(self.counters[at] for at in (ACKNOWLEDGED, BOUNCED)) + dropped

    def in_flight(self) -> int:
        return self.counters[IN_FLIGHT_OURS] + self.counters[IN_FLIGHT_RESENDABLE]


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


class Ledger(RuleBasedStateMachine):
    """One origin, two outboxes; the model knows each stanza's place and whether it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.boxes = (Outbox(), Outbox())
        self.tokens: tuple[deque[str], deque[str]] = (deque(), deque())
        self.ended: dict[str, bool] = {}
        """By the order of arrival: whether responsibility has passed on."""
        self.sent: tuple[list[str], list[str]] = ([], [])
        self.waiting: tuple[list[str], list[str]] = ([], [])
        self.requests: set[str] = set()
        self.large: set[str] = set()
        self.kept: set[str] = set()
        self.next = 0

    which = st.integers(0, 1)

    @rule(box=which, kinds=st.lists(st.sampled_from("mmmrl"), min_size=1, max_size=5))
    def accept(self, box: int, kinds: list[str]) -> None:
        stanzas = []
        for kind in kinds:
            id = str(self.next)
            self.next += 1
            stanzas.append(a_stanza(id, request=kind == "r", large=kind == "l"))
            self.ended[id] = False
            self.waiting[box].append(id)
            (self.requests if kind == "r" else self.large if kind == "l" else set()).add(id)
        self.boxes[box].push(self.told.origin.accept(stanzas))

    @rule(box=which)
    def send(self, box: int) -> None:
        assert [s.id for s in self.boxes[box].take(same)] == self.waiting[box]
        self.sent[box].extend(self.waiting[box])
        self.waiting[box].clear()

    @rule(box=which)
    def send_one(self, box: int) -> None:
        if self.waiting[box]:
            first = self.waiting[box].pop(0)
            assert [s.id for s in self.boxes[box].take_one(same)] == [first]
            self.sent[box].append(first)

    @rule(box=which)
    def give_up_first(self, box: int) -> None:
        if self.waiting[box]:
            first = self.waiting[box].pop(0)
            failed = self._bounce(self.boxes[box].fail_one())
            assert [each.stanza.id for each in failed] == [first]

    @rule(box=which, count=st.integers(0, 8))
    def acknowledge(self, box: int, count: int) -> None:
        if self.tokens[box]:
            return  # a session has either acknowledgements or barriers
        self.boxes[box].acknowledge(count, ACK_SM)
        self._end(box, count)

    @rule(box=which)
    def mark(self, box: int) -> None:
        token = f"t{self.next}-{len(self.tokens[box])}"
        self.next += 1
        self.boxes[box].mark(token, 0.0)
        self.tokens[box].append(f"{token} {len(self.sent[box])}")

    @rule(box=which, data=st.data())
    def answer_barrier(self, box: int, data: st.DataObject) -> None:
        if not self.tokens[box]:
            return
        at = data.draw(st.integers(0, len(self.tokens[box]) - 1))
        token, _, covered = self.tokens[box][at].partition(" ")
        assert self.boxes[box].pass_barrier(token, ACK_WEBSOCKET_PING)
        count = int(covered)
        self._end(box, count)
        left = list(self.tokens[box])[at + 1 :]
        self.tokens[box].clear()
        for later in left:
            name, _, number = later.partition(" ")
            self.tokens[box].append(f"{name} {int(number) - count}")

    @rule(box=which)
    def lose_hop(self, box: int) -> None:
        requests = [failed.stanza.id for failed in self._bounce(self.boxes[box].take_back())]
        assert requests == [id for id in self.sent[box] if id in self.requests]
        again = [id for id in self.sent[box] if id not in self.requests]
        self.waiting[box][:0] = again
        self.sent[box].clear()
        self.tokens[box].clear()

    @rule(box=which)
    def refuse_large(self, box: int) -> None:
        refused = [
            failed.stanza.id for failed in self._bounce(self.boxes[box].remove_larger(LARGE))
        ]
        assert refused == [id for id in self.waiting[box] if id in self.large]
        self.waiting[box][:] = [id for id in self.waiting[box] if id not in self.large]

    @rule(box=which)
    def give_up(self, box: int) -> None:
        gone = [failed.stanza.id for failed in self._bounce(self.boxes[box].fail_all())]
        assert gone == self.sent[box] + self.waiting[box]
        for queue in (self.sent[box], self.waiting[box], self.tokens[box]):
            queue.clear()

    @rule(count=st.integers(0, 3))
    def keep(self, count: int) -> None:
        self.kept.update(self.told.journal.keep(count))

    @rule(resendable=st.booleans())
    def enable(self, resendable: bool) -> None:
        self.told.origin.resendable = resendable

    @precondition(lambda self: not self.told.origin.lost)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def lose_origin(self, really: bool) -> None:
        if really:
            self.told.origin.lose()

    def _bounce(self, failed: list[Failed]) -> list[Failed]:
        for each in failed:
            settle_bounced(each)
            self.ended[each.stanza.id or ""] = True
        return failed

    def _end(self, box: int, count: int) -> None:
        for id in self.sent[box][:count]:
            self.ended[id] = True
        del self.sent[box][:count]

    @invariant()
    def the_ledger_balances(self) -> None:
        counters = self.told.counters
        assert counters[ACCEPTED] == len(self.ended)
        assert counters[ACCEPTED] == self.told.ends() + self.told.in_flight()
        assert self.told.ends() == sum(self.ended.values())

    @invariant()
    def in_flight_is_what_the_queues_hold(self) -> None:
        held = sum(box.in_flight for box in self.boxes)
        assert self.told.in_flight() == self.told.origin.in_flight == held
        counts = (self.told.counters[IN_FLIGHT_OURS], self.told.counters[IN_FLIGHT_RESENDABLE])
        assert self.told.origin.count() == counts

    @invariant()
    def nothing_is_handled_before_what_came_before_it(self) -> None:
        ended = [has_ended or id in self.kept for id, has_ended in self.ended.items()]
        prefix = ended.index(False) if False in ended else len(ended)
        assert self.told.handled <= prefix
        if all(ended) and not self.told.origin.lost:
            assert self.told.handled == len(ended)

    @invariant()
    def bytes_that_wait_are_counted(self) -> None:
        for box, waiting in zip(self.boxes, self.waiting, strict=True):
            sizes = [LARGE + 1 if id in self.large else 10 for id in waiting]
            assert box.waiting_bytes == sum(sizes)
            assert box.has_waiting == bool(waiting)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_that_is_split_is_counted_once_and_told_in_order() -> None:
    told: list[int] = []
    counters = memoryview(bytearray(32 * 8)).cast("Q")
    origin = Origin(counters, told.append)
    outbox = Outbox()
    stanzas = [a_stanza("1"), a_stanza("2"), a_stanza("3")]
    outbox.push(origin.accept(stanzas))
    size = outbox.waiting_bytes
    assert [s.id for s in outbox.take_one(lambda batch: batch.stanzas)] == ["1"]
    assert outbox.waiting_bytes + outbox.unacknowledged_bytes == size
    assert (outbox.unacknowledged, origin.in_flight, outbox.in_flight) == (1, 3, 3)
    outbox.acknowledge(1, ACK_SM)
    assert told == [1]
    (failed,) = outbox.fail_one()
    settle_bounced(failed)
    assert told == [1, 1]
    assert [s.id for s in outbox.take(lambda batch: batch.stanzas)] == ["3"]
    outbox.acknowledge(1, ACK_SM)
    assert told == [1, 1, 1]
    assert (outbox.waiting_bytes, outbox.unacknowledged_bytes) == (0, 0)
    assert counters[ACCEPTED] == counters[ACKNOWLEDGED] + counters[BOUNCED] == 3


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
