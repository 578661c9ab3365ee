"""A machine: its coordinator, as far as workers notice it, and its workers."""

import asyncio
from typing import Any

from coordinator.config import Config
from coordinator.silence import TICK, Sign
from coordinator.store import Store
from coordinator.sweeps import Sweeper
from tests.simulation.gateway import SimulatedWorker
from tests.simulation.sockets import Listening, connect_stream
from tests.simulation.world import Process, World

HANG_TIMEOUT = 5.0


class Machine:
    """Starts its workers again when they end; its coordinator sweeps, and may be away."""

    def __init__(self, scene: Any, name: str, slots: int, config: Config) -> None:
        self.scene = scene
        self.world: World = scene.world
        self.network = scene.network
        self.name = name
        self.config = config
        self.siblings: dict[str, Any] = {}
        self.listening = Listening()
        self.slots: dict[str, SimulatedWorker | None] = {f"w{at + 1}": None for at in range(slots)}
        self.ended: list[list[int]] = []
        """The closed accounts of its dead workers."""
        self.is_down = False
        self.wall_offset = 0.0
        self._incarnation = 0
        self._exits: list[str] = []
        self._processes: set[str] = set()
        self.coordinator: Process
        self.start_coordinator()
        for slot in self.slots:
            self.start_worker(slot)

    @property
    def workers(self) -> list[SimulatedWorker]:
        """Those whose process lives."""
        return [w for w in self.slots.values() if w is not None and not w.process.is_dead]

    # Workers.

    def start_worker(self, slot: str) -> None:
        if self.is_down:
            return
        self._incarnation += 1
        worker_id = f"{self.name}/{slot}.{self._incarnation:x}"
        process = self.new_process(worker_id)
        worker = SimulatedWorker(self, process, worker_id, self.config)
        self.slots[slot] = worker
        self._processes.add(worker_id)
        self.world.trace(self.name, f"starts {worker_id}")
        process.run_in(worker.start)

    def new_process(self, name: str) -> Process:
        process = Process(self.world, name)
        process.network = self.network
        process.connect_stream = connect_stream
        process.machine = self
        return process

    def wire_up(self, worker: SimulatedWorker) -> None:
        self.scene.wire_up(worker)

    def worker_is_ready(self, worker: SimulatedWorker) -> None:
        self.world.trace(worker.worker_id, "is ready")

    def worker_died(self, worker: SimulatedWorker) -> None:
        """The kernel tells its coordinator at once."""
        self.world.trace(worker.worker_id, "is dead")
        assert worker.final is not None
        self.ended.append(worker.final)
        self._processes.discard(worker.worker_id)
        self.scene.worker_died(worker)
        self._exits.append(worker.worker_id)
        if not self.coordinator.is_dead:
            self.coordinator.post(self._on_exits)

    def _on_exits(self) -> None:
        exits, self._exits = self._exits, []
        for worker_id in exits:
            self.coordinator.create_task(self.sweeper.worker_exited(worker_id), name="exit")
            slot = worker_id.rpartition("/")[2].partition(".")[0]
            present = self.slots[slot]
            if present is not None and present.worker_id == worker_id:
                delay = 0.1 + self.world.rng.random()
                self.world.later(delay, self.start_again, slot, worker_id)

    def start_again(self, slot: str, former: str) -> None:
        present = self.slots[slot]
        if not self.coordinator.is_dead and present is not None and present.worker_id == former:
            self.start_worker(slot)

    def replace(self, slot: str) -> None:
        """Rolling restart of one worker: a successor first, then the drain."""
        former = self.slots[slot]
        if former is not None and not former.process.is_dead and former.is_ready:
            self.start_worker(slot)
            self.world.later(0.3 + self.world.rng.random(), former.drain)

    # The coordinator.

    def start_coordinator(self) -> None:
        if self.is_down:
            return
        self.coordinator = self.new_process(f"{self.name}/coordinator")
        self.coordinator.run_in(self._start_coordinator)

    def _start_coordinator(self) -> None:
        store = Store("redis://model", "fedgate")
        self.sweeper = Sweeper(store, self.name, self._processes.__contains__)
        self.coordinator.create_task(self._sweep(), name="sweeps")
        self._on_exits()
        for slot, worker in self.slots.items():
            if worker is not None and worker.process.is_dead:
                self.start_worker(slot)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._kill_hung()
            await self.sweeper.sweep()

    def _kill_hung(self) -> None:
        """Each turn of a worker's loop is a sign of life, and CPUs are for everybody."""
        for worker in self.workers:
            worker.silence.note(Sign(1.0 + worker.turns, b"", None))
            if worker.is_ready and worker.silence.is_hang(HANG_TIMEOUT):
                self.world.trace(self.name, f"kills {worker.worker_id}, which hangs")
                worker.process.kill()

    def kill_coordinator(self) -> None:
        self.coordinator.kill()

    # Faults of the whole machine.

    def die(self) -> None:
        """Power off: everything at once."""
        self.is_down = True
        self.coordinator.kill()
        for worker in self.workers:
            worker.process.kill()

    def boot(self) -> None:
        self.is_down = False
        self._exits.clear()
        for slot in self.slots:
            self.slots[slot] = None
        self.start_coordinator()
        for slot in self.slots:
            self.start_worker(slot)
