"""What fails ends as its reply does, in the order of the replies."""

import pytest

from coordinator.accounts import (
    ACK_SM,
    ACKNOWLEDGED,
    BOUNCED,
    DROPPED,
    RETURNED,
    drop_index,
)
from tests.workers.gateway.flow_scene import Scene, message
from tests.workers.gateway.outbox_scene import same, some
from workers.gateway.batch import Batch
from workers.gateway.outbox import Outbox
from workers.gateway.replies import Failed, Replies, settle_dropped, settle_returned

UNDELIVERABLE = drop_index("bounce-undeliverable")


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_failed_is_bounced_when_its_reply_has_arrived(scene: Scene) -> None:
    batch = scene.accept(message("1"), message("2"))
    failed = scene.outbox.fail_all()
    back = Outbox()
    back.push(Batch([message("r1"), message("r2")], 2, Replies(failed)))
    back.take(lambda batch: batch.stanzas)
    assert scene.counters[BOUNCED] == 0 and batch.settled == 0
    back.acknowledge(1, ACK_SM)
    assert (scene.counters[BOUNCED], scene.counters[ACKNOWLEDGED]) == (1, 0)
    (lost,) = back.fail_all()
    assert isinstance(lost, Failed) and lost.batch.origin is not None
    lost.batch.origin.settle(lost.batch, 1, drop_index("type-error"))
    assert scene.counters[drop_index("bounce-undeliverable")] == 1
    assert scene.handled == 2 and scene.journal.completed


def failed_of(scene: Scene, *ids: str) -> list[Failed]:
    scene.accept(*map(message, ids))
    return scene.outbox.fail_all()


def test_until_its_reply_is_acknowledged_what_failed_stays_in_flight(scene: Scene) -> None:
    replies = Replies(failed_of(scene, "1"))
    back = Outbox()
    back.push(Batch(some(1), 1, replies))
    back.take(same)
    assert (scene.flights, scene.handled) == ((1, 0), 0)
    assert not back.take_back()  # the next hop is lost: the reply is sent again
    back.take(same)
    assert (scene.flights, scene.counters[BOUNCED]) == ((1, 0), 0)
    back.acknowledge(1, ACK_SM)
    assert (scene.flights, scene.counters[BOUNCED], scene.handled) == ((0, 0), 1, 1)
    assert scene.counters[ACKNOWLEDGED] == scene.counters[ACK_SM] == 0


def test_replies_answer_in_the_order_of_what_failed(scene: Scene) -> None:
    """Of different batches: each reply settles the one that it answers."""
    first, second = scene.accept(message("1"), message("2")), scene.accept(message("3"))
    replies = Replies(scene.outbox.fail_all())
    batch = Batch(some(3), 3, replies)
    seen = []
    for outcome in (ACKNOWLEDGED, drop_index("type-error"), ACKNOWLEDGED):
        replies.settle(batch, 1, outcome)
        seen.append((first.settled, second.settled))
    assert seen == [(1, 0), (2, 0), (2, 1)]
    assert (scene.counters[BOUNCED], scene.counters[UNDELIVERABLE], scene.handled) == (2, 1, 3)


def test_replies_of_several_batches_are_settled_run_by_run(scene: Scene) -> None:
    replies = Replies(failed_of(scene, "1", "2", "3"))
    runs = [(Batch(some(1), 1, replies), 1), (Batch(some(2), 2, replies), 2)]
    replies.settle_silently(runs, ACKNOWLEDGED, ACK_SM)
    assert (scene.counters[BOUNCED], scene.handled) == (3, 3)


def test_replies_that_are_split_and_sent_again_settle_each_once(scene: Scene) -> None:
    failed = failed_of(scene, "1", "2", "3")
    back = Outbox()
    back.push(Batch(some(3), 3, Replies(failed)))
    assert [stanza.id for stanza in back.take_one(same)] == ["0"]
    assert not back.take_back()
    (lost,) = back.fail_one()
    settle_dropped(lost, "type-error")
    back.take(same)
    back.acknowledge(2, ACK_SM)
    assert (scene.counters[BOUNCED], scene.counters[UNDELIVERABLE], scene.handled) == (2, 1, 3)
    assert scene.flights == (0, 0)


def test_what_is_dropped_is_counted_by_its_reason_alone(scene: Scene) -> None:
    for each, reason in zip(failed_of(scene, "1", "2"), ("type-error", "duplicate"), strict=True):
        settle_dropped(each, reason)
        assert scene.counters[drop_index(reason)] == 1
    assert sum(scene.counters[DROPPED : DROPPED + 16].tolist()) == 2 == scene.handled
    assert scene.counters[BOUNCED] == 0


def test_what_is_returned_is_counted_so_and_to_whom_a_reply_answers_counts_as_told(
    scene: Scene,
) -> None:
    (returned,) = failed_of(scene, "1")
    settle_returned(returned)
    assert (scene.counters[RETURNED], scene.handled) == (1, 1)
    reply = Batch(some(1), 1, Replies(failed_of(scene, "2")))
    settle_returned(Failed(reply.stanzas[0], reply))
    assert (scene.counters[RETURNED], scene.counters[BOUNCED]) == (1, 1)
    assert (scene.handled, scene.flights) == (2, (0, 0))


def test_what_nobody_sent_fails_without_a_word(scene: Scene) -> None:
    ours = Batch(some(1), 1)
    failed = Failed(ours.stanzas[0], ours)
    settle_dropped(failed, "type-error")
    settle_returned(failed)
    Replies([failed]).settle(ours, 1, ACKNOWLEDGED)
    assert ours.settled == 0 and not any(scene.counters.tolist())
