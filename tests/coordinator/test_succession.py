from coordinator.processes import ProcessName
from coordinator.succession import Succession
from coordinator.workforce import Incarnation, Slot


class Stage:
    """Slots with a running worker each; notes who was started and who was retired."""

    def __init__(self, *names: str) -> None:
        self.slots = [Slot(name) for name in names]
        for number, slot in enumerate(self.slots):
            slot.current = Incarnation(slot, ProcessName(number, 0), "running", f"{slot.name}.old")
        self.seen: list[str] = []
        self.succession = Succession(self.start, self.retire)

    async def start(self, slot: Slot) -> Incarnation:
        self.seen.append(f"start {slot.name}")
        slot.successor = Incarnation(slot, ProcessName(99, 0), "starting", f"{slot.name}.new")
        return slot.successor

    def retire(self, incarnation: Incarnation) -> None:
        self.seen.append(f"retire {incarnation.worker}")
        incarnation.state = "draining"

    def get_ready(self, slot: Slot) -> Incarnation:
        successor = slot.successor
        assert successor
        successor.state = "running"
        self.succession.on_ready(successor)
        return successor

    def end(self, gone: Incarnation) -> None:
        gone.slot.forget(gone)
        self.succession.on_exited(gone)


async def test_one_after_the_other_and_the_successor_first():
    stage = Stage("w1", "w2")
    w1, w2 = stage.slots
    old = w1.current
    assert old
    assert stage.succession.add(w1) and stage.succession.add(w2)
    assert not stage.succession.add(w1)
    await stage.succession.advance()
    await stage.succession.advance()
    assert stage.seen == ["start w1"]
    assert not stage.succession.add(w1)  # it has its turn
    successor = stage.get_ready(w1)
    assert (w1.current, w1.retired) == (successor, [old])
    await stage.succession.advance()
    assert stage.seen == ["start w1", "retire w1.old"]
    stage.end(old)
    await stage.succession.advance()
    assert stage.seen == ["start w1", "retire w1.old", "start w2"]


async def test_a_successor_that_ends_leaves_its_predecessor_and_all_others():
    stage = Stage("w1", "w2")
    w1, w2 = stage.slots
    old = w1.current
    stage.succession.add(w1)
    stage.succession.add(w2)
    await stage.succession.advance()
    assert w1.successor
    stage.end(w1.successor)
    await stage.succession.advance()
    assert stage.seen == ["start w1"]
    assert w1.current is old
    assert stage.succession.add(w1)  # it may be tried again


async def test_one_that_dies_before_its_turn_is_not_replaced_twice():
    stage = Stage("w1", "w2")
    w1, w2 = stage.slots
    stage.succession.add(w1)
    stage.succession.add(w2)
    assert w1.current
    w1.current = Incarnation(w1, ProcessName(5, 0), "starting")
    await stage.succession.advance()
    assert stage.seen == ["start w2"]


async def test_one_that_dies_while_its_successor_starts_is_succeeded():
    stage = Stage("w1")
    (w1,) = stage.slots
    old = w1.current
    stage.succession.add(w1)
    await stage.succession.advance()
    successor = w1.successor
    assert old and successor
    stage.end(old)
    assert w1.current is successor
    successor.state = "running"
    stage.succession.on_ready(successor)
    assert stage.seen == ["start w1"]
    assert stage.succession.add(w1)


async def test_nothing_goes_on_after_a_cancel():
    stage = Stage("w1", "w2")
    stage.succession.add(stage.slots[0])
    stage.succession.add(stage.slots[1])
    stage.succession.cancel()
    await stage.succession.advance()
    assert stage.seen == []
