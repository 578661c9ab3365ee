"""The worker processes of one machine: starting, adopting, signalling and watching them."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coordinator.allocation import worker_environment
from coordinator.exits import ExitCode
from coordinator.handover import handover_path
from coordinator.processes import (
    ProcessName,
    name_of,
    read_name,
    stop_process,
    wait_gone,
    write_name,
)
from coordinator.silence import Silence

log = logging.getLogger(__name__)

State = Literal["starting", "running", "draining", "stopping"]

BOOT_ERRORS = frozenset(ExitCode) - {ExitCode.OK, ExitCode.FAILURE}
"""A worker that ends with one of these says that trying again is useless."""
CRASH_LOOP = 5  # deaths in a row, each soon after the start, that make a crash loop
SETTLED_AFTER = 5.0  # seconds after which a death is no longer one at boot
MAX_DELAY = 10.0
ORPHAN_PATIENCE = 3.0


@dataclass(slots=True, eq=False)
class Incarnation:
    """One worker process in a slot; `worker` is the id that it gave in its Hello, "" before."""

    slot: "Slot"
    process: ProcessName
    state: State = "starting"
    worker: str = ""
    started_at: float = 0.0
    is_adopted: bool = False
    silence: Silence = field(default_factory=Silence)

    @property
    def pid(self) -> int:
        return self.process.pid

    def __str__(self) -> str:
        return self.worker or self.slot.name


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker, such as "w1"; incarnations come and go.

    `current` does the work. `successor` gets ready to take its place. `retired` ones drain or stop.
    """

    name: str
    current: Incarnation | None = None
    successor: Incarnation | None = None
    retired: list[Incarnation] = field(default_factory=list)
    starts: int = 0
    failures: int = 0

    @property
    def state(self) -> str:
        """The state of the current incarnation, or "down"."""
        return self.current.state if self.current else "down"

    @property
    def worker(self) -> str:
        return self.current.worker if self.current else ""

    @property
    def pid(self) -> int:
        return self.current.pid if self.current else 0

    def incarnations(self) -> list[Incarnation]:
        """All living processes of the slot, the current one first."""
        return [each for each in (self.current, self.successor) if each] + self.retired

    def forget(self, incarnation: Incarnation) -> None:
        """The process is gone. A successor that was getting ready for this takes the place."""
        if incarnation is self.successor:
            self.successor = None
        elif incarnation is self.current:
            self.current, self.successor = self.successor, None
        elif incarnation in self.retired:
            self.retired.remove(incarnation)


def is_boot_error(code: int | None) -> bool:
    """Whether an exit code means: cannot boot, and will not when tried again."""
    return code in BOOT_ERRORS


def count_death(slot: Slot, lived: float) -> None:
    """Note that a process ended by itself after `lived` seconds; only short lives add up."""
    slot.failures = slot.failures + 1 if lived < SETTLED_AFTER else 0


def is_crash_loop(slots: Sequence[Slot]) -> bool:
    """Whether no worker lives and each one tried died `CRASH_LOOP` times in a row."""
    tried = [slot for slot in slots if slot.starts]
    return bool(tried) and all(
        slot.state != "running" and slot.failures >= CRASH_LOOP for slot in tried
    )


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next start: none after a good run, then doubling."""
    return 0.0 if failures == 0 else min(MAX_DELAY, 0.1 * 2.0**failures)


class Workforce:
    """Starts workers and tells `on_exit(incarnation, code)`. They outlive a killed coordinator.

    The code is None for an adopted process: only its parent could have learned it.
    """

    def __init__(
        self,
        count: int,
        run_dir: Path,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        on_exit: Callable[[Incarnation, int | None], None],
    ) -> None:
        self.slots = [Slot(f"w{number}") for number in range(1, count + 1)]
        self._surplus: list[Slot] = []
        self._run_dir = run_dir
        self._arguments = list(arguments)
        self._descriptors = tuple(descriptors)
        self._on_exit = on_exit
        self._watches: set[asyncio.Task[None]] = set()

    async def start(self, slot: Slot) -> Incarnation:
        """Start a process in a slot: the current one, or its successor. Raises OSError."""
        # In a session of its own: Ctrl-C at a terminal is for the coordinator, which drains first.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "workers.worker", "--id", slot.name, *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=self._descriptors,
            start_new_session=True,
            env=worker_environment(os.environ),
        )
        started = Incarnation(slot, name_of(child.pid), started_at=time.time())
        write_name(self._record(started), started.process)
        slot.starts += 1
        if slot.current is None:
            slot.current = started
        else:
            slot.successor = started
        self._watch(self._await_child(started, child))
        return started

    def adopt(self, slot_name: str, process: ProcessName) -> Incarnation:
        """Go on with a process that a dead coordinator started; call it oldest first.

        The newest of a slot is its current one. A slot that is not configured any more keeps its
        process until that is gone.
        """
        slot = next((slot for slot in self.all_slots() if slot.name == slot_name), None)
        if slot is None:
            slot = Slot(slot_name)
            self._surplus.append(slot)
        adopted = Incarnation(slot, process, started_at=time.time(), is_adopted=True)
        if slot.current is not None:
            slot.retired.append(slot.current)
        slot.current = adopted
        self._watch(self._await_adopted(adopted))
        return adopted

    def all_slots(self) -> list[Slot]:
        """The configured slots, then those that are not configured any more."""
        return self.slots + self._surplus

    def is_surplus(self, slot: Slot) -> bool:
        """Whether the slot is to stay empty once its process is gone."""
        return slot in self._surplus

    def incarnations(self) -> Iterator[Incarnation]:
        """Every living process."""
        return (each for slot in self.all_slots() for each in slot.incarnations())

    def of_pid(self, pid: int) -> Incarnation | None:
        return next((each for each in self.incarnations() if each.pid == pid), None)

    def named(self, name: str) -> Incarnation | None:
        """The process with this worker id, or the current one of the slot of this name."""
        for each in self.incarnations():
            if each.worker == name or (each is each.slot.current and each.slot.name == name):
                return each
        return None

    async def close(self) -> None:
        """Stop watching."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def kill_all(self) -> None:
        """Kill what is left: for the way out after a failed start."""
        for each in self.incarnations():
            each.process.send(signal.SIGKILL)

    @property
    def is_gone(self) -> bool:
        return not any(True for _ in self.incarnations())

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _await_child(self, started: Incarnation, child: asyncio.subprocess.Process) -> None:
        self._end(started, await child.wait())

    async def _await_adopted(self, adopted: Incarnation) -> None:
        await wait_gone(adopted.process)
        self._end(adopted, None)

    def _end(self, incarnation: Incarnation, code: int | None) -> None:
        self._record(incarnation).unlink(missing_ok=True)
        handover_path(self._run_dir, incarnation.slot.name, incarnation.pid).unlink(missing_ok=True)
        self._on_exit(incarnation, code)

    def _record(self, incarnation: Incarnation) -> Path:
        return record_path(self._run_dir, incarnation.slot.name, incarnation.pid)


def record_path(run_dir: Path, slot: str, pid: int) -> Path:
    """Where a worker process is noted for the coordinator that comes after this one."""
    return run_dir / f"{slot}.{pid}.json"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A worker that a dead coordinator left running."""

    slot: str
    process: ProcessName


def orphans(run_dir: Path) -> list[Orphan]:
    """The living workers that a dead coordinator of this state directory left, oldest first.

    The records of those that are dead are removed, with their sockets.
    """
    found = []
    for path in run_dir.glob("w*.json"):
        process = read_name(path)
        if process is not None and process.is_alive():
            found.append(Orphan(path.name.partition(".")[0], process))
        else:
            path.unlink(missing_ok=True)
            path.with_suffix(".sockets").unlink(missing_ok=True)
    return sorted(found, key=lambda orphan: (orphan.process.started, orphan.process.pid))


async def stop_orphans(run_dir: Path) -> int:
    """Stop what a dead coordinator left, TERM then KILL; returns how many there were."""
    found = orphans(run_dir)
    for orphan in found:
        log.warning("stopping worker pid %d, left by a former coordinator", orphan.process.pid)
    await asyncio.gather(
        *(stop_process(orphan.process, patience=ORPHAN_PATIENCE) for orphan in found)
    )
    orphans(run_dir)
    return len(found)
