"""Workers' lives without processes: what the crew decides, with a clock of its own."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from coordinator import crew as crew_module
from coordinator.config import Config, Gateway
from coordinator.crew import Crew
from coordinator.exits import ExitCode
from coordinator.processes import ProcessName, Share
from coordinator.reception import Link
from coordinator.workforce import CRASH_LOOP, Incarnation, Orphan, Slot, Workforce


class FakeProcess(ProcessName, frozen=True):
    """Lives until it is taken out of `living`; keeps the signals it gets."""

    living: set[int]
    signals: list[int]
    shares: list[Share]
    """What is seen of it, one look after the other; then nothing."""

    def is_alive(self) -> bool:
        return self.pid in self.living

    def send(self, signum: int) -> None:
        self.signals.append(signum)

    def share(self) -> Share | None:
        return self.shares.pop(0) if self.shares else None


class FakeWorkforce(Workforce):
    def __init__(self, count: int) -> None:
        super().__init__(count, None, [], [], lambda gone, code: None)  # type: ignore[arg-type]
        self.living: set[int] = set()
        self.next_pid = 1

    def _new(self, slot: Slot) -> Incarnation:
        pid, self.next_pid = self.next_pid, self.next_pid + 1
        self.living.add(pid)
        return Incarnation(slot, FakeProcess(pid, 0, self.living, [], []), started_at=1.0)

    async def start(self, slot: Slot) -> Incarnation:
        started = self._new(slot)
        slot.starts += 1
        if slot.current is None:
            slot.current = started
        else:
            slot.successor = started
        return started

    def adopt(self, slot_name: str, process: ProcessName) -> Incarnation:
        slot = next((slot for slot in self.slots if slot.name == slot_name), None)
        if slot is None:
            slot = Slot(slot_name)
            self._surplus.append(slot)
        adopted = self._new(slot)
        adopted.is_adopted = True
        if slot.current is not None:
            slot.retired.append(slot.current)
        slot.current = adopted
        return adopted


class FakeReception:
    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.told: list[tuple[str, str]] = []

    def command(self, worker: str, verb: str) -> bool:
        if worker in self.links:
            self.told.append((worker, verb))
        return worker in self.links


class Scene:
    """A crew whose timers run when `pass_time` says so."""

    def __init__(self, count: int = 1) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], Any]]] = []
        self.trouble: list[str] = []
        self.hopeless: list[tuple[str, int]] = []
        self.gone = 0
        self.force = FakeWorkforce(count)
        self.reception = FakeReception()
        settings = Gateway(drain_timeout=10.0, hang_timeout=3.0, state_dir="/nonexistent")
        config = Config(gateway=settings)
        self.crew = Crew(self.force, self.reception, config, self.after)  # type: ignore[arg-type]
        self.crew.on_trouble = lambda source, text: self.trouble.append(f"{source} {text}")
        self.crew.on_hopeless = lambda text, code: self.hopeless.append((text, code))
        self.crew.on_gone = self.count_gone

    def count_gone(self) -> None:
        self.gone += 1

    def after(self, delay: float, action: Callable[[], Any]) -> None:
        self.timers.append((self.now + delay, action))

    async def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now = timer[0]
            outcome = timer[1]()
            if outcome is not None:
                await outcome
        self.now = end

    def connect(self, worker: Incarnation, **report: Any) -> str:
        name = f"gw/{worker.slot.name}.{worker.pid}"
        self.reception.links[name] = Link(name, worker.pid, None, 1.0, report)  # type: ignore[arg-type]
        self.crew.on_connected(self.reception.links[name])
        self.crew.on_ready(self.reception.links[name])
        return name

    def end(self, worker: Incarnation, code: int | None = 0) -> None:
        self.force.living.discard(worker.pid)
        self.reception.links.pop(worker.worker, None)
        self.crew.on_exited(worker, code)


def current(slot: Slot) -> Incarnation:
    assert slot.current
    return slot.current


def signals(worker: Incarnation) -> list[int]:
    assert isinstance(worker.process, FakeProcess)
    return worker.process.signals


@pytest.fixture
async def scene() -> Scene:
    """One slot, whose worker runs."""
    made = Scene()
    await made.crew.fill()
    made.connect(current(made.force.slots[0]))
    return made


async def test_a_worker_that_drains_makes_room_at_once_and_is_cut_in_the_end(scene: Scene):
    (slot,) = scene.force.slots
    old = current(slot)
    scene.crew.retire(old)
    scene.crew.retire(old)
    assert scene.reception.told == [(old.worker, "drain")]
    await scene.pass_time(0.0)
    new = current(slot)
    assert new is not old and slot.retired == [old]
    await scene.pass_time(10.0)
    assert scene.reception.told[-1] == (old.worker, "stop")
    await scene.pass_time(crew_module.KILL_AFTER)
    assert signals(old) == [signal.SIGKILL]
    scene.end(old, -9)
    assert slot.incarnations() == [new] and not scene.trouble


async def test_one_that_is_not_connected_gets_a_signal(scene: Scene):
    worker = current(scene.force.slots[0])
    scene.reception.links.clear()
    scene.crew.retire(worker)
    assert signals(worker) == [signal.SIGTERM]
    await scene.pass_time(10.0)
    assert signals(worker) == [signal.SIGTERM, signal.SIGTERM]


async def test_one_that_never_gets_ready_is_killed():
    scene = Scene()
    await scene.crew.fill()
    worker = current(scene.force.slots[0])
    await scene.pass_time(crew_module.BOOT_TIMEOUT)
    assert signals(worker) == [signal.SIGKILL]


async def test_one_that_reports_nothing_is_killed_and_said(scene: Scene):
    worker = current(scene.force.slots[0])
    for _ in range(5):
        await scene.crew.tick(5.0)
    assert signals(worker) == [signal.SIGKILL]
    assert scene.trouble == [f"{worker.worker} has reported nothing for 3 s: killed"]


async def test_one_that_gets_no_cpu_is_not_killed_for_that_and_it_is_said_once(scene: Scene):
    worker = current(scene.force.slots[0])
    assert isinstance(worker.process, FakeProcess)
    worker.process.shares[:] = [Share(True, 0.0, 0.0)] * 10
    for _ in range(10):
        await scene.crew.tick(5.0)
    assert not signals(worker)
    text = "has reported nothing for 3 s: busy, or the machine is"
    assert scene.trouble == [f"{worker.worker} {text}"]
    for _ in range(4):
        await scene.crew.tick(5.0)
    assert signals(worker) == [signal.SIGKILL]


async def test_one_that_somebody_else_told_to_drain_is_replaced(scene: Scene):
    (slot,) = scene.force.slots
    old = current(slot)
    scene.reception.links[old.worker].report["state"] = "draining"
    await scene.crew.tick(5.0)
    await scene.pass_time(0.0)
    assert old.state == "draining" and current(slot) is not old


async def test_a_grown_one_is_replaced_once(scene: Scene):
    (slot,) = scene.force.slots
    old = current(slot)
    scene.reception.links[old.worker].report["rss_bytes"] = 2**31
    await scene.crew.tick(1000.0)
    await scene.crew.tick(1001.0)
    successor = slot.successor
    assert successor and len(scene.trouble) == 1
    link = Link("gw/w1.new", successor.pid, None, 1.0)  # type: ignore[arg-type]
    scene.crew.on_connected(link)
    assert old.state == "running"  # who says Hello does not accept yet
    scene.crew.on_ready(link)
    assert old.state == "draining" and slot.state == "running"


async def test_renewals_for_names_become_rare(scene: Scene):
    (slot,) = scene.force.slots

    def grow(seconds: float) -> float:
        worker = current(slot)
        scene.reception.links[worker.worker].report["names"] = 2**31
        return worker.started_at + seconds

    await scene.crew.tick(grow(60.0))
    old, successor = current(slot), slot.successor
    assert successor
    scene.connect(successor)
    scene.end(old)
    assert current(slot) is successor
    await scene.crew.tick(grow(119.0))
    assert slot.successor is None
    await scene.crew.tick(grow(120.0))
    assert slot.successor


async def test_a_crash_loop_is_hopeless():
    scene = Scene()
    for _ in range(CRASH_LOOP):
        await scene.pass_time(20.0)
        await scene.crew.fill()
        worker = current(scene.force.slots[0])
        worker.started_at = 2e9 * 2
        scene.end(worker, 1)
    assert scene.hopeless[0][1] == ExitCode.FAILURE
    assert "ended 5 times in a row, exit code 1" in scene.hopeless[0][0]


async def test_a_boot_error_is_hopeless_at_the_start_only(scene: Scene):
    scene.end(current(scene.force.slots[0]), ExitCode.WORKER_CANNOT_BOOT)
    assert scene.hopeless == [("", ExitCode.WORKER_CANNOT_BOOT)]
    scene.hopeless.clear()
    scene.crew.was_ready = True
    await scene.crew.fill()
    scene.end(current(scene.force.slots[0]), ExitCode.WORKER_CANNOT_BOOT)
    assert not scene.hopeless


async def test_what_a_dead_coordinator_left_goes_on_and_what_is_too_much_goes():
    scene = Scene(1)
    orphans = [Orphan(slot, ProcessName(0, 0)) for slot in ("w1", "w1", "w2")]
    scene.crew.adopt(orphans)
    await scene.crew.fill()
    (slot,) = scene.force.slots
    older, newer = slot.retired[0], current(slot)
    surplus = scene.force.named("w2")
    assert surplus
    names = [scene.connect(each) for each in (older, newer, surplus)]
    # All read the configuration of now; the older one of two and the surplus one go.
    assert [verb for worker, verb in scene.reception.told if worker == names[1]] == ["reload"]
    assert (older.state, newer.state, surplus.state) == ("draining", "running", "draining")
    scene.end(older)
    scene.end(surplus)
    await scene.pass_time(1.0)
    assert list(scene.force.incarnations()) == [newer]
    assert scene.crew.has_all()


async def test_the_end_of_all_is_told_once_the_last_is_gone():
    scene = Scene(2)
    await scene.crew.fill()
    one, two = (current(slot) for slot in scene.force.slots)
    scene.connect(one)
    scene.crew.drain_all()
    assert signals(two) == [signal.SIGTERM]  # not connected yet
    scene.connect(two)
    assert scene.reception.told == [(one.worker, "drain"), (two.worker, "drain")]
    scene.end(one)
    assert not scene.gone
    scene.crew.stop_all()
    assert scene.reception.told[-1] == (two.worker, "stop")
    scene.end(two)
    assert scene.gone
    await scene.pass_time(60.0)
    assert scene.force.is_gone
