"""A batch that is split stays one in the ledger, in its record and in its origin's order."""

import pytest

from coordinator.accounts import (
    ACCEPTED,
    ACK_SM,
    ACKNOWLEDGED,
    BOUNCED,
    IN_FLIGHT_RESENDABLE,
)
from tests.workers.gateway.flow_scene import Scene, message, request
from tests.workers.gateway.hop_bench import settle_bounced
from tests.workers.gateway.outbox_scene import a_stanza, some
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.outbox import Outbox


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_batch_and_its_records_show_no_stanza_and_no_name(scene: Scene) -> None:
    scene.origin.repeats_requests = scene.origin.resendable = True
    batch = scene.accept(request("id-1"))
    scene.origin.keep_all()
    shown = repr((batch, *scene.journal.records))
    assert len(scene.journal.records) == 2 and "id-1" not in shown and "a.example" not in shown


def test_a_batch_that_is_split_is_one_record(scene: Scene) -> None:
    scene.accept(message("1"), message("2"), message("3"))
    (failed,) = scene.outbox.fail_one()
    scene.journal.answer()
    assert (scene.flights, scene.handled) == ((0, 3), 3)
    scene.origin.settle(failed.batch, 1, BOUNCED)
    assert not scene.journal.completed
    assert scene.take() == ["2", "3"]
    scene.outbox.acknowledge(2, ACK_SM)
    assert (len(scene.journal.completed), scene.handled, scene.flights) == (1, 3, (0, 0))


def test_a_kept_batch_that_is_split_is_not_told_again(scene: Scene) -> None:
    scene.accept(message("1"), message("2"))
    scene.journal.answer()
    (failed,) = scene.outbox.fail_one()
    scene.origin.settle(failed.batch, 1, BOUNCED)
    scene.take()
    scene.outbox.acknowledge(1, ACK_SM)
    assert (scene.handled, scene.flights, scene.origin.in_flight) == (2, (0, 0), 0)


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


@pytest.mark.parametrize("count", [2, 5])
def test_a_split_takes_the_first_stanza_and_keeps_the_sums(count: int) -> None:
    batch = Batch(some(count), count)
    ids = [stanza.id for stanza in batch.stanzas]
    head = batch.split()
    assert [stanza.id for stanza in head.stanzas + batch.stanzas] == ids
    assert (head.size, head.remaining) == (1, 1)
    assert (batch.size, batch.remaining) == (count - 1, count - 1)


def test_a_split_hands_on_all_that_is_known_of_the_stanza(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.repeats_requests = scene.origin.has_ring = True
    batch = scene.accept(request("1"), message("2"), now=5.0)
    scene.origin.keep_all()
    batch.uncertain = batch.kept = True
    head = batch.split()
    assert head.origin is scene.origin and head.flight == IN_FLIGHT_RESENDABLE
    assert head.uncertain and head.kept and head.accepted_at == 5.0
    assert head.claim is not None and head.claim is batch.claim
    assert head.note is not None and head.note is batch.note
    assert head.claim.batches == head.note.batches == [batch, head]


def test_a_record_that_is_done_with_takes_no_batch(scene: Scene) -> None:
    scene.origin.resendable = scene.origin.repeats_requests = True
    batch = scene.accept(request("1"), message("2"))
    scene.origin.keep_all()
    scene.journal.answer()
    assert batch.note is not None and scene.journal.told == [batch.note]
    head = batch.split()
    assert head.note is batch.note and batch.note.batches == []


def test_a_record_that_is_confirmed_after_a_split_covers_both(scene: Scene) -> None:
    batch = scene.accept(message("1"), message("2"))
    head = batch.split()
    scene.journal.answer()
    assert head.kept and batch.kept
    assert head.flight == batch.flight == IN_FLIGHT_RESENDABLE and scene.flights == (0, 2)
    for one in (batch, head):
        assert not scene.journal.completed
        scene.origin.settle(one, 1, ACKNOWLEDGED, ACK_SM)
    assert scene.journal.completed == scene.journal.records


def test_a_split_keeps_the_place_in_the_origins_order(scene: Scene) -> None:
    scene.origin.resendable = True
    first, middle, last = (scene.accept(*map(message, ids)) for ids in ("12", "34", "56"))
    head = middle.split()
    for one, count, handled in ((last, 2, 0), (middle, 1, 0), (first, 2, 2), (head, 1, 6)):
        scene.origin.settle(one, count, ACKNOWLEDGED, ACK_SM)
        assert scene.handled == handled
    assert scene.origin.in_flight == scene.origin.unreported == 0


def test_what_was_told_before_a_split_is_not_told_again_and_what_was_not_is(scene: Scene) -> None:
    scene.origin.resendable = True
    batch = scene.accept(*map(message, "123"))
    scene.take()
    scene.outbox.acknowledge(1, ACK_SM)
    assert scene.handled == 1
    assert not scene.outbox.take_back()
    head = batch.split()
    assert (scene.origin.in_flight, scene.origin.unreported) == (2, 2)
    scene.origin.settle(head, 1, BOUNCED)
    assert scene.handled == 2
    scene.origin.settle(batch, 1, ACKNOWLEDGED, ACK_SM)
    assert (scene.handled, scene.flights, scene.origin.in_flight) == (3, (0, 0), 0)


def test_a_split_until_one_is_left_settles_each_alone(scene: Scene) -> None:
    batch = scene.accept(*map(message, "1234"))
    pieces = [batch.split() for _ in range(3)] + [batch]
    assert [[stanza.id for stanza in piece.stanzas] for piece in pieces] == [*map(list, "1234")]
    for handled, piece in enumerate(pieces, 1):
        scene.origin.settle(piece, 1, ACKNOWLEDGED, ACK_SM)
        assert scene.handled == handled
    assert scene.counters[ACCEPTED] == scene.counters[ACKNOWLEDGED] == 4


def test_a_release_is_told_once() -> None:
    batch, told = Batch(some(1), 1, held=True), []
    batch.on_released = lambda: told.append(batch.held)
    batch.release()
    batch.release()
    assert told == [False] and batch.on_released is None


def test_what_remains_is_counted_from_the_first_that_is_not_acknowledged() -> None:
    batch = Batch(some(3), 3)
    batch.first = 2
    assert batch.remaining == 1 and batch != Batch(batch.stanzas, 3, first=2)
