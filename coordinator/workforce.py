"""The worker processes of one machine: starting them, and what to do when one ends."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.exits import ExitCode
from coordinator.processes import ProcessName, name_of, read_name, stop_process, write_name

log = logging.getLogger(__name__)

BOOT_ERRORS = frozenset(ExitCode) - {ExitCode.OK, ExitCode.FAILURE}
"""A worker that ends with one of these says that trying again is useless."""
CRASH_LOOP = 5  # deaths in a row, each soon after the start, that make a crash loop
SETTLED_AFTER = 5.0  # seconds after which a death is no longer one at boot
MAX_DELAY = 10.0
ORPHAN_PATIENCE = 3.0


@dataclass(slots=True)
class Slot:
    """A place for a worker, such as "w1"; incarnations come and go.

    `state` is "starting", "running", "draining", "stopping" or "down"; `worker` is the id that the
    present incarnation gave in its Hello, "" before.
    """

    name: str
    state: str = "down"
    worker: str = ""
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    starts: int = 0
    failures: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0


def is_boot_error(code: int) -> bool:
    """Whether an exit code means: cannot boot, and will not when tried again."""
    return code in BOOT_ERRORS


def count_death(slot: Slot, now: float) -> None:
    """Note that the slot's process ended by itself; only deaths soon after the start add up."""
    slot.failures = slot.failures + 1 if now - slot.started_at < SETTLED_AFTER else 0


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
    """Starts workers and tells `on_exit(slot, code)`. They outlive a killed coordinator."""

    def __init__(
        self,
        count: int,
        run_dir: Path,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        on_exit: Callable[[Slot, int], None],
    ) -> None:
        self.slots = [Slot(f"w{number}") for number in range(1, count + 1)]
        self._run_dir = run_dir
        self._arguments = list(arguments)
        self._descriptors = tuple(descriptors)
        self._on_exit = on_exit
        self._watches: set[asyncio.Task[None]] = set()

    async def start(self, slot: Slot) -> None:
        """Start a new incarnation in a slot that is down. Raises OSError."""
        # In a session of its own: Ctrl-C at a terminal is for the coordinator, which drains first.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "workers.worker", "--id", slot.name, *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=self._descriptors,
            start_new_session=True,
        )
        write_name(self._run_dir / f"{slot.name}.json", name_of(process.pid))
        slot.process, slot.worker, slot.state = process, "", "starting"
        slot.started_at, slot.starts = time.time(), slot.starts + 1
        self._watch(self._await_exit(slot, process))

    def slot_of_pid(self, pid: int) -> Slot | None:
        return next((slot for slot in self.slots if slot.process and slot.pid == pid), None)

    def named(self, name: str) -> Slot | None:
        """The slot of this name or with this worker id."""
        return next((slot for slot in self.slots if name in (slot.name, slot.worker)), None)

    def signal(self, slot: Slot, signum: int) -> None:
        """Send a signal to the slot's process, if it has one."""
        if slot.process is not None:
            try:
                os.kill(slot.pid, signum)
            except ProcessLookupError:
                pass  # ended, and its exit event is on its way

    async def close(self) -> None:
        """Stop watching."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def kill_all(self) -> None:
        """Kill what is left: for the way out after a failed start."""
        for slot in self.slots:
            self.signal(slot, signal.SIGKILL)

    @property
    def is_gone(self) -> bool:
        return all(slot.process is None for slot in self.slots)

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _await_exit(self, slot: Slot, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        slot.process = None
        (self._run_dir / f"{slot.name}.json").unlink(missing_ok=True)
        self._on_exit(slot, code)


def orphans(run_dir: Path) -> list[ProcessName]:
    """The workers that a dead coordinator of this state directory left running."""
    named = [read_name(path) for path in sorted(run_dir.glob("w*.json"))]
    return [process for process in named if process is not None and process.is_alive()]


async def stop_orphans(run_dir: Path) -> int:
    """Stop what a dead coordinator left, TERM then KILL; returns how many there were."""
    found = orphans(run_dir)
    for process in found:
        log.warning("stopping worker pid %d, left by a former coordinator", process.pid)
    await asyncio.gather(*(stop_process(process, patience=ORPHAN_PATIENCE) for process in found))
    _forget(run_dir)
    return len(found)


def _forget(run_dir: Path) -> None:
    for path in run_dir.glob("w*.json"):
        path.unlink(missing_ok=True)
