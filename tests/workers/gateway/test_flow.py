"""Where responsibility stays: origins and the journal's records."""

import sys

import msgspec
import pytest

from coordinator.accounts import (
    ACK_SM,
    ACKNOWLEDGED,
    BOUNCED,
)
from tests.workers.gateway.flow_scene import PAIR, Scene, message, request
from workers.gateway.flow import MAX_UNACKNOWLEDGED_AGE, MAX_UNACKNOWLEDGED_RING
from workers.gateway.replies import Failed, settle_dropped
from workers.xmpp.stanza import Stanza


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_nobody_can_send_again_is_journaled_and_sent_at_once(scene: Scene) -> None:
    scene.accept(message("1"), message("2"))
    assert scene.take() == ["1", "2"]
    (record,) = scene.journal.records
    assert (record.kind, *record.encode()[:2]) == ("out", *PAIR)
    data = [b"<message id='1'/>", b"<message id='2'/>"]
    assert msgspec.msgpack.decode(record.encode()[2]) == data
    assert record.size == sum(map(len, data))
    assert scene.flights == (2, 0)
    scene.journal.answer()
    assert scene.flights == (0, 2)
    assert scene.handled == 2  # the previous hop may forget it
    scene.outbox.acknowledge(1, ACK_SM)
    assert not scene.journal.completed
    scene.outbox.acknowledge(1, ACK_SM)
    assert scene.journal.completed == [record]
    assert (scene.flights, scene.handled) == ((0, 0), 2)


def test_what_is_settled_before_redis_answers_is_complete_at_once(scene: Scene) -> None:
    scene.accept(message("1"))
    scene.take()
    scene.outbox.acknowledge(1, ACK_SM)
    assert scene.journal.completed == scene.journal.records
    assert (scene.handled, scene.flights) == (1, (0, 0))


def test_without_redis_it_stays_ours(scene: Scene) -> None:
    scene.accept(message("1"))
    scene.journal.answer(is_kept=False)
    assert (scene.flights, scene.handled) == ((1, 0), 0)


def test_an_inbound_record_names_the_pair_from_our_side(scene: Scene) -> None:
    scene.origin.kind = "in"
    scene.accept(message("1"))
    assert scene.journal.records[0].encode()[:2] == (PAIR.remote, PAIR.local)


def test_what_the_previous_hop_can_send_again_is_not_journaled(scene: Scene) -> None:
    scene.origin.resendable = True
    scene.accept(message("1"))
    assert not scene.journal.records and scene.flights == (0, 1)


def test_a_ring_that_is_nearly_full_is_relieved_of_its_oldest(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.has_ring = True
    for at in range(MAX_UNACKNOWLEDGED_RING):
        scene.accept(message(str(at)))
    assert not scene.journal.records
    scene.accept(message("over"), message("over"))
    assert len(scene.journal.records) == 2
    scene.journal.answer()
    assert scene.handled == 2  # acknowledged to it, which makes room there
    scene.take()
    scene.outbox.acknowledge(MAX_UNACKNOWLEDGED_RING + 2, ACK_SM)
    assert scene.handled == MAX_UNACKNOWLEDGED_RING + 2
    assert scene.journal.completed == scene.journal.records
    for at in range(MAX_UNACKNOWLEDGED_RING):
        scene.accept(message(str(at)))
    assert len(scene.journal.records) == 2


def test_what_is_too_old_is_journaled(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.has_ring = True
    scene.accept(message("1"), now=100.0)
    scene.accept(message("2"), now=105.0)
    scene.origin.journal_old(100.0 + MAX_UNACKNOWLEDGED_AGE)
    assert not scene.journal.records
    scene.origin.journal_old(101.0 + MAX_UNACKNOWLEDGED_AGE)
    assert len(scene.journal.records) == 1
    scene.journal.answer()
    assert scene.handled == 1


def test_what_has_ended_behind_a_slow_next_hop_is_not_journaled(scene: Scene) -> None:
    """Nothing would ever complete its record."""
    scene.origin.resendable = scene.origin.has_ring = True
    scene.accept(message("slow"), now=100.0)
    ended = scene.origin.accept([message("ended")], 100.0)
    settle_dropped(Failed(ended.stanzas[0], ended), "duplicate")
    assert scene.handled == 0  # told in order
    scene.origin.journal_old(101.0 + MAX_UNACKNOWLEDGED_AGE)
    (record,) = scene.journal.records
    scene.take()
    scene.outbox.acknowledge(1, ACK_SM)
    assert scene.handled == 2 and scene.journal.completed == [record]


def test_what_awaits_its_reply_is_counted_once_in_the_ring(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.has_ring = True
    batch = scene.accept(request("1"), now=100.0)
    scene.take()
    (failed,) = scene.outbox.take_back()
    scene.origin.journal_old(101.0 + MAX_UNACKNOWLEDGED_AGE)
    scene.origin.settle(failed.batch, 1, BOUNCED)
    assert failed.batch is batch and scene.handled == 1
    for at in range(MAX_UNACKNOWLEDGED_RING):
        scene.accept(message(str(at)))
    assert not scene.journal.records
    scene.accept(message("over"))
    assert len(scene.journal.records) == 1


def test_requests_that_come_again_are_noted_before_they_are_sent(scene: Scene) -> None:
    told: list[Stanza] = []
    scene.origin.resendable = scene.origin.repeats_requests = True
    scene.origin.on_requests = told.extend
    scene.accept(message("0"))
    batch = scene.accept(message("1"), request("2"), message("3"))
    released: list[bool] = []
    batch.on_released = lambda: released.append(True)
    scene.accept(message("4"))
    assert [stanza.id for stanza in told] == ["2"]
    assert scene.take() == ["0"] and not scene.outbox.has_ready
    assert scene.outbox.waiting_bytes == len(b"<message id='1'/>") * 3 + len(b"<iq id='2'/>")
    (record,) = scene.journal.records
    assert record.kind == "note"
    assert msgspec.msgpack.decode(record.encode()[2]) == [["x@a.example", "2"]]
    scene.journal.answer()
    assert released == [True] and scene.take() == ["1", "2", "3", "4"]
    assert scene.handled == 0 and scene.flights == (0, 5)  # a note keeps no stanza
    scene.outbox.acknowledge(3, ACK_SM)
    assert scene.handled == 3 and not scene.journal.told
    scene.outbox.acknowledge(1, ACK_SM)
    # What tells the sender so may be lost with us.
    assert scene.journal.told == [record] and not scene.journal.completed


def test_a_note_stays_until_its_sender_is_told_of_all_before_it(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.repeats_requests = True
    first, second = scene.accept(message("1")), scene.accept(request("2"))
    scene.origin.settle(second, 1, ACKNOWLEDGED, ACK_SM)
    assert scene.handled == 0 and not scene.journal.told
    scene.origin.settle(first, 1, BOUNCED)
    assert scene.handled == 2 and scene.journal.told == scene.journal.records


def test_a_note_does_not_hold_the_bytes_of_its_requests(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.repeats_requests = True
    data = b"<iq id='1'>" + bytes(1000)
    holders = sys.getrefcount(data)
    asked = Stanza("iq", data, "x@a.example", "y@b.example", "1", "set", *PAIR)
    batch = scene.origin.accept([asked])
    scene.origin.settle(batch, 1, ACKNOWLEDGED, ACK_SM)
    assert scene.journal.told == scene.journal.records and sys.getrefcount(data) > holders
    del asked, batch
    assert sys.getrefcount(data) == holders


def test_without_redis_requests_are_not_held_back(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.repeats_requests = True
    scene.accept(request("1"))
    scene.journal.answer(is_kept=False)
    assert scene.take() == ["1"]
    scene.journal.available = False
    scene.accept(request("2"))
    assert scene.take() == ["2"] and len(scene.journal.records) == 1


def test_what_a_lost_hop_held_for_us_is_journaled(scene: Scene) -> None:
    scene.origin.resendable = True
    scene.accept(message("1"), message("2"))
    scene.take()
    scene.outbox.acknowledge(1, ACK_SM)
    scene.origin.lose()
    (record,) = scene.journal.records
    assert msgspec.msgpack.decode(record.encode()[2]) == [b"<message id='2'/>"]
    assert scene.flights == (1, 0)
    scene.journal.answer()
    assert (scene.flights, scene.handled) == ((0, 1), 1)


def test_what_failed_and_awaits_its_reply_is_not_taken_for_kept(scene: Scene) -> None:
    scene.origin.resendable = True
    scene.accept(message("1"), request("2"))
    scene.accept(request("3"))
    scene.take()
    assert len(scene.outbox.take_back()) == 2
    scene.origin.keep_all()
    (record,) = scene.journal.records
    assert msgspec.msgpack.decode(record.encode()[2]) == [b"<message id='1'/>"]
    scene.journal.answer()
    assert scene.handled == 0
    scene.origin.lose()
    assert scene.flights == (3, 0)
