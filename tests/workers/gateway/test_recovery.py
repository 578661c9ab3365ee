"""After the loss of a session: resumed exactly, else taken back with a mark."""

from typing import Any

import pytest

from coordinator.accounts import ACCEPTED, ACK_SM, ACKNOWLEDGED, REPLAYED
from tests.workers.gateway.session_bench import message, request
from workers.gateway.batch import Batch
from workers.gateway.flow import Origin
from workers.gateway.outbox import Outbox
from workers.gateway.recovery import LASTING, MAX_FRUITLESS, Recovery
from workers.xmpp.errors import LocalProtocolError
from workers.xmpp.managed import ManagedStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.state import State


class Stream(ManagedStream):
    """A counted stream that may be resumed, without a wire."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.ESTABLISHED
        self.sender, self.target = "a.example", "b.example"
        self.events, self.outgoing = [], []
        self._resumption_id, self._resumption_seconds = "id", 60
        self.sent.enabled = True

    def resume(self, other: "Stream", h: int) -> None:
        suspended = other.suspended()
        assert suspended is not None
        suspended.sent.resume(h)
        self._take_up(suspended)

    def refuse(self, other: "Stream", h: int) -> None:
        other.sent.resume(h)


class Scene:
    def __init__(self) -> None:
        self.counters = memoryview(bytearray(32 * 8)).cast("Q")
        self.handled = 0
        self.origin = Origin(self.counters, self._on_handled)
        self.outbox = Outbox()
        self.recovery = Recovery(self.outbox)
        self.stream = Stream()

    def _on_handled(self, count: int) -> None:
        self.handled += count

    def send(self, *stanzas: Stanza) -> None:
        self.outbox.push(self.origin.accept(list(stanzas)))
        self.flush()

    def flush(self) -> list[Stanza]:
        taken = self.outbox.take(_plain)
        self.stream.sent.total += len(taken)
        return taken

    def lose(self, **options: Any) -> list[str | None]:
        options = {"lasted": 1.0, "may_resume": True, **options}
        return [each.stanza.id for each in self.recovery.lost(self.stream, 100.0, **options)]


def _plain(batch: Batch) -> list[Stanza]:
    return batch.stanzas


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.send(message("1"), request("2"), message("3"))
    return scene


def test_what_arrived_is_acknowledged_and_the_rest_sent_again_as_it_was(scene: Scene) -> None:
    assert scene.lose() == []
    successor = Stream()
    successor.resume(scene.stream, 1)
    assert scene.recovery.take_up(successor) == []
    assert (scene.handled, scene.counters[ACK_SM], scene.counters[REPLAYED]) == (1, 1, 0)
    assert successor.outgoing == [request("2").data, message("3").data]
    assert scene.recovery.suspended is None and scene.outbox.unacknowledged == 2


def test_a_refusal_tells_what_arrived_and_the_rest_is_uncertain(scene: Scene) -> None:
    scene.lose()
    fresh = Stream()
    fresh.refuse(scene.stream, 1)
    requests = scene.recovery.take_up(fresh)
    assert [each.stanza.id for each in requests] == ["2"]
    assert (scene.counters[ACKNOWLEDGED], scene.counters[REPLAYED]) == (1, 1)
    assert scene.outbox.uncertain == 1


def test_an_attempt_that_was_lost_in_its_turn_counts_once(scene: Scene) -> None:
    scene.lose()
    lost_again = Stream()
    lost_again.resume(scene.stream, 2)
    successor = Stream()
    successor.resume(scene.stream, 2)
    scene.recovery.take_up(successor)
    assert scene.counters[ACKNOWLEDGED] == 2
    assert successor.outgoing == [message("3").data]


def test_a_successor_that_ended_already_is_sent_nothing(scene: Scene) -> None:
    scene.lose()
    successor = Stream()
    successor.resume(scene.stream, 1)
    successor.state = State.CLOSED
    assert scene.recovery.take_up(successor) == []
    assert successor.outgoing == [] and scene.outbox.unacknowledged == 2


def test_a_successor_that_knows_less_gets_all_that_is_unacknowledged(scene: Scene) -> None:
    scene.stream.sent.acknowledge(2)
    scene.outbox.acknowledge(2, ACK_SM)
    scene.lose()
    successor = Stream()
    successor.resume(scene.stream, 0)
    scene.recovery.take_up(successor)
    assert scene.counters[ACKNOWLEDGED] == 2
    assert successor.outgoing == [message("3").data]


def test_when_another_worker_resumed_it_nothing_is_uncertain(scene: Scene) -> None:
    scene.lose()
    scene.stream.sent.acknowledge(1)
    scene.recovery.succeeded_elsewhere()
    assert scene.outbox.uncertain == 0
    assert [stanza.id for stanza in scene.flush()] == ["2", "3"]
    assert (scene.counters[ACKNOWLEDGED], scene.counters[REPLAYED]) == (1, 0)


@pytest.mark.parametrize("why", ["not agreed on", "not wanted", "uncounted"])
def test_otherwise_it_is_taken_back_at_once(scene: Scene, why: str) -> None:
    if why == "not agreed on":
        scene.stream._resumption_id = ""
    elif why == "uncounted":
        scene.stream.sent.total -= 1
    assert scene.lose(may_resume=why != "not wanted") == ["2"]
    assert scene.recovery.suspended is None and scene.outbox.uncertain == 2


def test_what_kills_sessions_is_not_resumed_for_ever(scene: Scene) -> None:
    for _ in range(MAX_FRUITLESS):
        assert scene.lose() == []
        successor = Stream()
        successor.resume(scene.stream, 0)
        scene.recovery.take_up(successor)
        scene.stream = successor
    assert scene.lose() == ["2"]


def test_progress_or_a_long_session_gives_new_patience() -> None:
    scene = Scene()
    for number in range(3 * MAX_FRUITLESS):
        scene.send(message(str(number)))
        assert scene.lose() == [] and scene.recovery.suspended is not None
        successor = Stream()
        successor.resume(scene.stream, number + 1)
        scene.recovery.take_up(successor)
        scene.stream = successor
    assert scene.counters[ACCEPTED] == scene.counters[ACKNOWLEDGED]
    for _ in range(3 * MAX_FRUITLESS):
        scene.lose(lasted=LASTING)
        assert scene.recovery.suspended is not None and not scene.recovery.is_hasty
    scene.send(message("1"))
    for _ in range(MAX_FRUITLESS + 1):
        assert scene.recovery.suspended is not None
        scene.lose(lasted=LASTING)  # which was of no use to what was sent
    assert scene.outbox.uncertain == 1


def test_sessions_that_are_cut_at_once_are_given_up_if_nothing_comes_of_them() -> None:
    scene = Scene()
    for _ in range(3 * MAX_FRUITLESS):
        scene.stream.received.handled += 1  # something came back
        scene.lose()
        assert scene.recovery.suspended is not None and scene.recovery.is_hasty
        scene.recovery.give_up()
    for _ in range(MAX_FRUITLESS):
        scene.lose()
        assert scene.recovery.suspended is not None
        scene.recovery.give_up()
    scene.lose()
    assert scene.recovery.suspended is None


def test_only_a_session_for_both_ways_may_bring_something(scene: Scene) -> None:
    scene.lose()
    assert not scene.recovery.may_bring
    scene.stream.bidirectional = True
    scene.lose()
    assert scene.recovery.may_bring


def test_a_time_that_is_over_and_one_that_is_not(scene: Scene) -> None:
    scene.lose()
    assert scene.recovery.forget_old(160.0) == []
    assert [each.stanza.id for each in scene.recovery.forget_old(160.1)] == ["2"]
    assert scene.recovery.forget_old(999.0) == [] == scene.recovery.give_up()


def test_without_a_loss_there_is_nothing_to_go_on_with(scene: Scene) -> None:
    assert scene.recovery.take_up(Stream()) == []
    assert scene.outbox.unacknowledged == 3
    with pytest.raises(LocalProtocolError):
        scene.recovery.succeeded_elsewhere()
