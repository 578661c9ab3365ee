"""Processes named so that a reused pid is never mistaken: pid and start time (Linux)."""

import asyncio
import fcntl
import logging
import os
import signal
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

log = logging.getLogger(__name__)


class Share(NamedTuple):
    """What a process's first thread has had of the CPUs, in seconds since its start."""

    wants: bool
    """It has a CPU now or waits for one; otherwise it sleeps or is stopped."""
    ran: float
    waited: float
    """Ready to run and without a CPU; a wait counts when it is over."""


class ProcessName(msgspec.Struct, frozen=True):
    """A process for good; `started` in clock ticks since boot (proc(5), stat, field 22)."""

    pid: int
    started: int

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started

    def send(self, signum: int) -> None:
        """Send a signal if the process still lives."""
        if self.is_alive():
            try:
                os.kill(self.pid, signum)
            except ProcessLookupError:
                pass  # it ended between the look and the signal

    def share(self) -> Share | None:
        """None if the process is gone, or the kernel keeps no such account (CONFIG_SCHED_INFO)."""
        try:
            ran, waited, _ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (OSError, ValueError):
            return None
        wants = stat.rpartition(")")[2].split()[0] == "R"
        return Share(wants, int(ran) / 1e9, int(waited) / 1e9)


def start_time(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None if gone or a zombie.

    A process whose first thread has ended lives as long as another thread: it keeps its sockets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name is in parentheses and may hold blanks and parentheses of its own.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X") and _thread_count(pid) < 2:
        return None
    return int(fields[19])


def _thread_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def this_process() -> ProcessName:
    return name_of(os.getpid())


def name_of(pid: int) -> ProcessName:
    """Name a process; one that is gone already gets a start time that no process has."""
    started = start_time(pid)
    return ProcessName(pid, -1 if started is None else started)


async def stop_process(process: ProcessName, *, patience: float) -> None:
    """Stop a process that is not our child: TERM, then KILL after `patience` seconds."""
    process.send(signal.SIGTERM)
    if not await _wait_gone(process, patience):
        process.send(signal.SIGKILL)
        await _wait_gone(process, 5.0)


async def _wait_gone(process: ProcessName, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await wait_gone(process)
    except TimeoutError:
        return not process.is_alive()
    return True


async def wait_gone(process: ProcessName) -> None:
    """Wait for the end of a process, our child or not."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        # Looked at after the pidfd was opened: from here on the pid cannot change hands unseen.
        if not process.is_alive():
            return
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def write_name(path: Path, process: ProcessName) -> None:
    """Keep a process name in a file, atomically, for whoever has to find the process later."""
    write_atomically(path, msgspec.json.encode(process))


def read_name(path: Path) -> ProcessName | None:
    """Read a process name; None if there is no such file or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessName)
    except (OSError, msgspec.DecodeError):
        return None


class Locked(Exception):
    """Another process holds the lock: `holder` is its pid as it noted it, "?" if it has not."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"locked by process {holder}")
        self.holder = holder


class Lock:
    """A file that one process at a time holds; freed by the kernel however the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> "Lock":
        """Take the lock. Raises `Locked` at once when another process has it, or OSError."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace").strip() or "?"
            os.close(self._descriptor)
            raise Locked(holder) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def keep_private(path: Path) -> None:
    """Take from others whatever rights they have to a file or directory of ours.

    What belongs to another user is for that user to decide.
    """
    seen = path.stat()
    if not seen.st_mode & 0o077 or seen.st_uid != os.geteuid():
        return
    try:
        path.chmod(seen.st_mode & 0o700)
    except OSError as exc:
        log.warning("%s is open to other users: %s", path, exc.strerror)
    else:
        log.warning("%s was open to other users; it is private again", path)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step: readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
